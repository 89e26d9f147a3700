"""What the settings ask of a caller: from where and how it calls, what it may send, and how fast."""

import time
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from threading import Lock

from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext

from hilum.settings import Destination, Sender

LONGEST_DELAY_S = 10.0
"""By so much an answer may come later than it could; senders wait for one half a minute or longer."""
_BURST_S = 60.0
_STORAGE = {context.abstract_syntax for context in AllStoragePresentationContexts}


def objection(sender: Sender | None, address: str, certificate_sha256: str | None) -> str | None:
    """Why a caller of this sender's name is not let in; None when it is.

    The fingerprint is the one of the certificate it has shown; None when it calls without TLS.
    """
    if sender is None:
        return "it is no sender of the settings"
    if sender.addresses and not any(ip_address(address) in ip_network(each) for each in sender.addresses):
        return "it calls from another address than its own"
    if certificate_sha256 is None and (sender.tls or sender.certificate_sha256):
        return "it must call by TLS"
    if sender.certificate_sha256 and certificate_sha256 not in sender.certificate_sha256:
        return f"its certificate is another than its own: {certificate_sha256}"
    return None


def objection_to_reports(places: Iterable[Destination], certificate_sha256: str | None) -> str | None:
    """Why a destination that is no sender may not report to us; None when it may."""
    if certificate_sha256 is None and any(place.tls for place in places):
        return "it must call by TLS"
    return None


def allowed(contexts: Iterable[PresentationContext], sender: Sender) -> list[PresentationContext]:
    """Those of our presentation contexts that the sender may use."""
    refused = _STORAGE - set(sender.sop_classes) if sender.sop_classes else set()
    return [context for context in contexts if context.abstract_syntax not in refused]


class Pace:
    """How fast each sender sends: a minute's worth at once, and from then on evenly.

    A sender that is too fast is answered later, which slows it down and lets none of its jobs fail.
    0xA700 would stop many of them until a person sends again; it is for those whom no delay holds.
    """

    def __init__(self) -> None:
        self._due_at: dict[str, float] = {}
        self._lock = Lock()

    def delay_s(self, sender: Sender, now_s: float | None = None) -> float | None:
        """Count an object, and return by how much to answer it later; None, uncounted, when by too much."""
        if sender.objects_per_minute is None:
            return 0.0
        now_s = time.monotonic() if now_s is None else now_s
        with self._lock:
            due_s = max(self._due_at.get(sender.ae_title, now_s), now_s) + 60 / sender.objects_per_minute
            delay_s = max(0.0, due_s - now_s - _BURST_S)
            if delay_s > LONGEST_DELAY_S:
                return None
            self._due_at[sender.ae_title] = due_s
            return delay_s
