"""A PACS that can be in a bad mood, and that remembers the bytes of all that it has stored."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from random import Random
from typing import cast

from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from tests.peers.helpers import free_port

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700  # PS3.4 B.2.3
SLOW_S = 1.5


class Mood(StrEnum):
    """How the archive answers a C-STORE."""

    WELL = "well"
    SLOW = "slow"
    ABORTING = "aborting"
    """It aborts instead of answering, and has stored the object or not."""
    FULL = "full"


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
        self.port = free_port()
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
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

    def _keep(self, event: Event) -> None:
        content = event.encoded_dataset(include_meta=False)
        uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        self.digests[uid].add(hashlib.sha256(content).hexdigest())
