"""A destination as we talk to it: one association kept for many results, C-STORE and C-FIND."""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config, build_context
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from hilum import pacs
from hilum.errors import (
    FailedAtPacs,
    HilumError,
    NotUnderstoodByPacs,
    PacsUnavailable,
    RefusedByPacs,
)
from hilum.kernel import notice_silence
from hilum.pacs import Peer

log = logging.getLogger(__name__)

_config.STORE_SEND_CHUNKED_DATASET = True  # a file goes out byte for byte, never re-encoded

SILENCE_S = 30
"""Seconds after which a destination that takes nothing is away; one that writes to a slow disk needs some."""
KEPT_IDLE_S = 10
"""Seconds an association without work is kept."""


@dataclass(frozen=True)
class Sent:
    """One file to send, and what it is."""

    uid: str
    series_uid: str
    sop_class_uid: str
    path: Path


class Pacs:
    """One destination, with the association that this process keeps to it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._assoc: Association | None = None
        self._used_at = time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self._release_idle, name=f"idle {peer.name}", daemon=True).start()

    def store(self, objects: Sequence[Sent]) -> None:
        """Send these objects; when this returns, the PACS has said of each that it is stored.

        Raises
        ------
        PacsUnavailable
            When the PACS is away, slow, aborts or has no room: trying again may help.
        FailedAtPacs
            When it fails at an object (NotUnderstoodByPacs: says that it cannot understand it). Some
            PACS say so of faults that pass, too.
        RefusedByPacs
            When it will not have them: trying again cannot help until somebody changes something.
        """
        with self._lock:
            for each in objects:
                self._store_one(each)
                self._used_at = time.monotonic()

    def missing(self, study_uid: str, objects: Sequence[Sent]) -> set[str]:
        """SOP Instance UIDs of those of these objects that the PACS does not find in the study, by C-FIND.

        Raises PacsUnavailable when it does not answer, RefusedByPacs when it does not do C-FIND.
        """
        series_uids = dict.fromkeys(each.series_uid for each in objects)
        with self._lock:
            assoc = self._established()
            try:
                found = pacs.instances_found(assoc, study_uid, series_uids)
            except PacsUnavailable:
                self._drop()
                raise
            self._used_at = time.monotonic()
        return {each.uid for each in objects} - found

    def echo(self) -> None:
        """Ask whether the PACS is there (C-ECHO). Raises PacsUnavailable or RefusedByPacs."""
        with self._lock:
            status = self._established().send_c_echo()
            if not status or status.Status != pacs.SUCCESS:
                self._drop()
                raise PacsUnavailable(f"{self._peer} did not answer C-ECHO with Success")

    def close(self) -> None:
        """Release the association, if there is one."""
        with self._lock:
            self._release()

    def _store_one(self, each: Sent) -> None:
        try:
            status = self._established().send_c_store(each.path)
        except ValueError as error:  # no presentation context was accepted for it
            raise RefusedByPacs(f"{self._peer} does not accept its SOP class: {error}") from error
        except RuntimeError as error:  # the association ended under our hands
            self._drop()
            raise PacsUnavailable(f"{self._peer} ended the association: {error}") from error
        if not status:
            self._drop()
            raise PacsUnavailable(f"{self._peer} did not answer C-STORE")
        if not pacs.is_stored(status.Status):
            raise self._error(each, status)

    def _error(self, each: Sent, status: Dataset) -> HilumError:
        code = int(status.Status)
        words = f"{each.uid} (0x{code:04X}) {status.get('ErrorComment', '')}".strip()
        if code in pacs.OUT_OF_RESOURCES or code == pacs.RESOURCE_LIMITATION:
            return PacsUnavailable(f"{self._peer} is out of resources for {words}")
        if code == pacs.PROCESSING_FAILURE:
            return FailedAtPacs(f"{self._peer} failed at {words}")
        if code in pacs.CANNOT_UNDERSTAND:
            return NotUnderstoodByPacs(f"{self._peer} cannot understand {words}")
        return RefusedByPacs(f"{self._peer} refused {words}")

    def _established(self) -> Association:
        if self._assoc is not None and self._assoc.is_established:
            return self._assoc
        assoc = pacs.associate(self._peer, self._contexts(), handlers=self._handlers())
        if (ours := assoc.dul.socket) and ours.socket:
            with suppress(OSError):  # it has ended meanwhile
                notice_silence(ours.socket, SILENCE_S)
        self._assoc = assoc
        return assoc

    def _contexts(self) -> list[PresentationContext]:
        """What is asked for on the association."""
        storage = [
            build_context(sop_class, ExplicitVRLittleEndian)
            for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
        ]
        query = build_context(pacs.FIND, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        return [build_context(Verification), *storage, query]

    def _handlers(self) -> list[EventHandlerType]:
        """What the destination may ask on it."""
        return []

    def _release(self) -> None:
        if self._assoc is not None and self._assoc.is_established:
            self._assoc.release()
        self._assoc = None

    def _drop(self) -> None:
        if self._assoc is not None and self._assoc.is_established:
            self._assoc.abort()
        self._assoc = None

    def _release_idle(self) -> None:
        while True:
            time.sleep(KEPT_IDLE_S / 2)
            with self._lock:
                if self._assoc is not None and time.monotonic() - self._used_at > KEPT_IDLE_S:
                    self._release()
