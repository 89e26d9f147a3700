"""A PACS that answers what a test wants: statuses that no PACS can be brought to give at will."""

from collections.abc import Iterator

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
)

from tests.peers.helpers import free_port


class AnsweringPacs:
    """Answers C-STORE with the next of `statuses` (then 0x0000), and C-FIND with what it says that it has."""

    def __init__(self) -> None:
        self.port = free_port()
        self.statuses: list[int] = []
        self.comment = ""
        self.find_status = 0x0000
        self.hides: bool = False
        """Whether C-FIND shows nothing of what was stored."""
        self.sent: list[str] = []
        self.stored: list[tuple[str, str, str]] = []
        self.queries: list[Dataset] = []
        self._server = _application().start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)],
        )

    def stop(self) -> None:
        self._server.shutdown()  # type: ignore[union-attr]

    def _store(self, event: Event) -> Dataset:
        ds = event.dataset
        self.sent.append(str(ds.SOPInstanceUID))
        answer = Dataset()
        answer.Status = self.statuses.pop(0) if self.statuses else 0x0000
        answer.ErrorComment = self.comment
        if answer.Status == 0x0000:
            self.stored.append((str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)))
        return answer

    def _find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        self.queries.append(query)
        if self.find_status != 0x0000:
            yield self.find_status, None
            return
        yield 0xFF00, _match(StudyInstanceUID=query.StudyInstanceUID)  # without what was asked for
        for study_uid, series_uid, uid in [] if self.hides else self.stored:
            if query.QueryRetrieveLevel == "SERIES" and query.StudyInstanceUID == study_uid:
                yield 0xFF00, _match(SeriesInstanceUID=series_uid)
            elif (query.StudyInstanceUID, query.SeriesInstanceUID) == (study_uid, series_uid):
                yield 0xFF00, _match(SOPInstanceUID=uid)


def _match(**values: str) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _application() -> AE:
    ae = AE(ae_title="ANSWERS")
    ae.add_supported_context(SecondaryCaptureImageStorage)
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    return ae
