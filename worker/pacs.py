"""A destination as we talk to it: one association kept for many results, C-STORE and C-FIND."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from hilum.errors import PacsUnavailable, RefusedByPacs
from hilum.settings import Destination

log = logging.getLogger(__name__)

_config.STORE_SEND_CHUNKED_DATASET = True  # a file goes out byte for byte, never re-encoded

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 60
KEPT_IDLE_S = 10
"""Seconds an association without work is kept."""

# C-STORE statuses, PS3.4 B.2.3; Success and Warnings (0xB000, 0xB006, 0xB007) mean that it is stored
_SUCCESS = 0x0000
_WARNINGS = range(0xB000, 0xC000)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_PENDING = (0xFF00, 0xFF01)  # C-FIND, PS3.4 C.4.1.1.4


@dataclass(frozen=True)
class Sent:
    """One file to send, and what it is."""

    uid: str
    sop_class_uid: str
    path: Path


class Pacs:
    """One destination, with the association that this process keeps to it."""

    def __init__(self, destination: Destination, calling_ae_title: str) -> None:
        self.destination = destination
        self._calling = calling_ae_title
        self._assoc: Association | None = None
        self._used_at = time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self._release_idle, name=f"idle {destination.name}", daemon=True).start()

    def store(self, objects: Sequence[Sent]) -> None:
        """Send these objects; when this returns, each was answered with Success or a Warning.

        Raises
        ------
        PacsUnavailable
            When the PACS is away, slow, aborts or has no room: trying again may help.
        RefusedByPacs
            When it will not have them: trying again cannot help until somebody changes something.
        """
        with self._lock:
            for each in objects:
                self._store_one(each)
                self._used_at = time.monotonic()

    def missing(self, study_uid: str, uids: Sequence[str]) -> set[str]:
        """Which of these SOP Instance UIDs the PACS does not find in the study, by C-FIND at IMAGE level.

        Raises PacsUnavailable when it does not answer, RefusedByPacs when it does not do C-FIND.
        """
        with self._lock:
            found = self._find(study_uid)
            self._used_at = time.monotonic()
        return set(uids) - found

    def echo(self) -> None:
        """Ask whether the PACS is there (C-ECHO). Raises PacsUnavailable or RefusedByPacs."""
        with self._lock:
            status = self._established().send_c_echo()
            if not status or status.Status != _SUCCESS:
                self._drop()
                raise PacsUnavailable(f"{self._name} did not answer C-ECHO with Success")

    def close(self) -> None:
        """Release the association, if there is one."""
        with self._lock:
            self._release()

    @property
    def _name(self) -> str:
        place = self.destination
        return f"{place.name} ({place.ae_title} at {place.host}:{place.port})"

    def _store_one(self, each: Sent) -> None:
        try:
            status = self._established().send_c_store(each.path)
        except ValueError as error:  # no presentation context was accepted for it
            raise RefusedByPacs(f"{self._name} does not accept its SOP class: {error}") from error
        except RuntimeError as error:  # the association ended under our hands
            self._drop()
            raise PacsUnavailable(f"{self._name} ended the association: {error}") from error
        if not status:
            self._drop()
            raise PacsUnavailable(f"{self._name} did not answer C-STORE")
        code = int(status.Status)
        if code == _SUCCESS or code in _WARNINGS:
            return
        comment = status.get("ErrorComment", "")
        if code in _OUT_OF_RESOURCES:
            raise PacsUnavailable(f"{self._name} is out of resources (0x{code:04X}) {comment}".strip())
        raise RefusedByPacs(f"{self._name} refused {each.uid} (0x{code:04X}) {comment}".strip())

    def _find(self, study_uid: str) -> set[str]:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = study_uid
        query.SeriesInstanceUID = ""
        query.SOPInstanceUID = ""
        found = set()
        try:
            answers = self._established().send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
            for status, identifier in answers:
                if not status or int(status.Status) not in (*_PENDING, _SUCCESS):
                    self._drop()
                    raise PacsUnavailable(f"{self._name} did not answer C-FIND")
                if identifier is not None:
                    found.add(str(identifier.SOPInstanceUID))
        except ValueError as error:
            raise RefusedByPacs(f"{self._name} does not do C-FIND; set final_when to success") from error
        except RuntimeError as error:
            self._drop()
            raise PacsUnavailable(f"{self._name} ended the association: {error}") from error
        return found

    def _established(self) -> Association:
        if self._assoc is not None and self._assoc.is_established:
            return self._assoc
        ae = AE(ae_title=self._calling)
        ae.connection_timeout = CONNECT_TIMEOUT_S
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_TIMEOUT_S
        ae.add_requested_context(Verification)
        for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        ae.add_requested_context(
            StudyRootQueryRetrieveInformationModelFind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        )
        place = self.destination
        assoc = ae.associate(place.host, place.port, ae_title=place.ae_title)
        if assoc.is_established:
            self._assoc = assoc
            return assoc
        if assoc.is_rejected:
            raise PacsUnavailable(f"{self._name} rejects our association: does it know {self._calling}?")
        raise PacsUnavailable(f"{self._name} does not answer")

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
