"""A PACS that can be in a bad mood, and that remembers the bytes of all that it has stored."""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from random import Random
from typing import cast

from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from hilum import commitment
from hilum.commitment import Report, Request
from hilum.settings import settings
from tests.peers.helpers import free_port

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700  # PS3.4 B.2.3
SLOW_S = 1.5
LATE_S = 8.0
"""Longer than we wait for a report before we ask anew."""


class Mood(StrEnum):
    """How the archive answers a C-STORE, and what becomes of its reports on storage commitment."""

    WELL = "well"
    SLOW = "slow"
    ABORTING = "aborting"
    """It aborts instead of answering, and has stored the object or not."""
    FULL = "full"
    LOSING_REPORTS = "commitment report lost"
    REPORTING_LATE = "commitment report late"
    FAILING = "commitment failed"
    """It says of an object that it has not kept it."""


class Archive:
    """The rig's own PACS, which answers as its mood is."""

    ae_title = "ARCHIVE"

    def __init__(self, rng: Random) -> None:
        self.digests: defaultdict[str, set[str]] = defaultdict(set)
        """SOP Instance UID -> sha256 of each data set that came under it."""
        self._mood = Mood.WELL
        self._rng = rng
        ae = AE(self.ae_title)
        for sop_class in (Verification, Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            ae.add_supported_context(sop_class)
        ae.add_supported_context(commitment.PUSH_MODEL, scu_role=True, scp_role=True)
        self.port = free_port()
        self._server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._commit)],
        )

    @contextmanager
    def being(self, mood: Mood) -> Iterator[None]:
        """Have it in this mood for a while."""
        self._mood = mood
        yield
        self._mood = Mood.WELL

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()

    def _store(self, event: Event) -> int:
        mood = self._mood
        if mood is Mood.FULL:
            return OUT_OF_RESOURCES
        if mood is Mood.SLOW:
            time.sleep(SLOW_S)
        if mood is not Mood.ABORTING or self._rng.random() < 0.5:
            self._keep(event)
        if mood is Mood.ABORTING:
            event.assoc.abort()
        return SUCCESS

    def _commit(self, event: Event) -> tuple[int, None]:
        if self._mood is Mood.ABORTING:
            event.assoc.abort()
        elif self._mood is not Mood.LOSING_REPORTS:
            request = commitment.read_request(event.action_information)
            report = self._report(request)
            pause_s = LATE_S if self._mood is Mood.REPORTING_LATE else 0.0
            threading.Timer(pause_s, self._send, [report]).start()
        return SUCCESS, None

    def _report(self, request: Request) -> Report:
        kept = {uid: each for uid, each in request.objects.items() if uid in self.digests}
        if kept and self._mood is Mood.FAILING:
            del kept[self._rng.choice(list(kept))]
        failed = {
            uid: (each, commitment.PROCESSING_FAILURE)
            for uid, each in request.objects.items()
            if uid not in kept
        }
        return Report(request.transaction_uid, kept, failed)

    def _send(self, report: Report) -> None:
        """Send a report on an association of its own, once: one that does not arrive is lost."""
        ae = AE(self.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        ae.add_requested_context(commitment.PUSH_MODEL)
        role = build_role(commitment.PUSH_MODEL, scp_role=True)
        assoc = ae.associate("127.0.0.1", settings().listener_port, ae_title="HILUM", ext_neg=[role])
        if assoc.is_established:
            with suppress(RuntimeError, ValueError):  # the association ended under our hands
                information = commitment.report_information(report)
                assoc.send_n_event_report(
                    information, report.event_type, commitment.PUSH_MODEL, commitment.WELL_KNOWN
                )
            assoc.release()

    def _keep(self, event: Event) -> None:
        content = event.encoded_dataset(include_meta=False)
        uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        self.digests[uid].add(hashlib.sha256(content).hexdigest())
