"""A PACS that answers what a test wants: what no PACS can be brought to say at will."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydicom import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from hilum import commitment
from hilum.commitment import Report, Request
from tests.peers.helpers import free_port


@dataclass
class Committing:
    """How it does storage commitment: what it was asked, and what it answers."""

    requests: list[Request] = field(default_factory=list)
    associations: list[Association] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Of the N-ACTIONs to come; then 0x0000."""
    reports_at_once: bool = False
    """Whether it reports on the same association, before it answers the request."""


class AnsweringPacs:
    """Answers C-STORE with the next of `statuses` (then 0x0000), and C-FIND with what it says that it has."""

    def __init__(self, *, commits: bool = True) -> None:
        self.port = free_port()
        self.statuses: list[int] = []
        self.comment = ""
        self.find_status = 0x0000
        self.hides: bool = False
        """Whether C-FIND shows nothing of what was stored."""
        self.sent: list[str] = []
        self.stored: list[tuple[str, str, str]] = []
        self.queries: list[Dataset] = []
        self.committing = Committing()
        self.start(commits=commits)

    def start(self, *, commits: bool = True) -> None:
        """Take calls; of storage commitment only if it does that."""
        self._server = _application(commits).start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_N_ACTION, self._asked),
            ],
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

    def _asked(self, event: Event) -> tuple[int, None]:
        request = commitment.read_request(event.action_information)
        self.committing.requests.append(request)
        self.committing.associations.append(event.assoc)
        if self.committing.reports_at_once:
            assert report_on(event.assoc, kept(request)) == 0x0000
        return self.committing.statuses.pop(0) if self.committing.statuses else 0x0000, None

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


def kept(request: Request) -> Report:
    """The report that all that was asked for is kept."""
    return Report(request.transaction_uid, request.objects)


def refused(request: Request, *uids: str, reason: int) -> Report:
    """The report that all but these are kept."""
    return Report(
        request.transaction_uid,
        {uid: class_uid for uid, class_uid in request.objects.items() if uid not in uids},
        {uid: (request.objects[uid], reason) for uid in uids},
    )


def report_on(assoc: Association, report: Report, *, event_type: int = 0) -> int | None:
    """Send a report on an association; the status that answers it, None when nothing does."""
    status, _ = assoc.send_n_event_report(
        commitment.report_information(report),
        event_type or report.event_type,
        commitment.PUSH_MODEL,
        commitment.WELL_KNOWN,
    )
    return int(status.Status) if status else None


def report_to(port: int, report: Report, *, calling: str = "ANSWERS", event_type: int = 0) -> int | None:
    """Send a report on a new association, with reversed roles; the status that answers it."""
    assoc = AE(ae_title=calling).associate(
        "127.0.0.1",
        port,
        contexts=[build_context(commitment.PUSH_MODEL)],
        ae_title="HILUM",
        ext_neg=[build_role(commitment.PUSH_MODEL, scp_role=True)],
    )
    assert assoc.is_established, "the association was not accepted"
    try:
        return report_on(assoc, report, event_type=event_type)
    finally:
        assoc.release()


def _match(**values: str) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _application(commits: bool) -> AE:
    ae = AE(ae_title="ANSWERS")
    ae.add_supported_context(Verification)
    ae.add_supported_context(SecondaryCaptureImageStorage)
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    if commits:
        ae.add_supported_context(commitment.PUSH_MODEL)
    return ae
