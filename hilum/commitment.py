"""Storage commitment as it travels: what a request and a report hold (PS3.4 J.3, PS3.3 C.14)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from hilum.uids import is_uid

PUSH_MODEL = StorageCommitmentPushModel
WELL_KNOWN = StorageCommitmentPushModelInstance
"""The one SOP Instance that requests and reports are about, PS3.4 J.3.5."""
REQUEST = 1
"""Action Type ID of a request, PS3.4 J.3.2."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type IDs of a report, PS3.4 J.3.3."""

TRANSFER_SYNTAXES: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

PROCESSING_FAILURE = 0x0110
NO_SUCH_OBJECT = 0x0112
CLASS_CONFLICT = 0x0119
CLASS_NOT_SUPPORTED = 0x0122
DUPLICATE_TRANSACTION = 0x0131
RESOURCE_LIMITATION = 0x0213
REASONS: Mapping[int, str] = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_OBJECT: "no such object instance",
    CLASS_CONFLICT: "class / instance conflict",
    CLASS_NOT_SUPPORTED: "referenced SOP class not supported",
    DUPLICATE_TRANSACTION: "duplicate transaction UID",
    RESOURCE_LIMITATION: "resource limitation",
}
"""Failure Reasons (0008,1197), PS3.3 C.14.1.1."""
HOPELESS = frozenset((CLASS_CONFLICT, CLASS_NOT_SUPPORTED))
"""Reasons that no second sending of the same object can heal."""


class Malformed(ValueError):
    """A request or report that does not hold what it must; the text says what."""


@dataclass(frozen=True)
class Request:
    """What is asked: SOP Instance UID -> SOP Class UID of the objects to be kept."""

    transaction_uid: str
    objects: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What is answered: the objects that are kept, as in `Request`, and those that are not."""

    transaction_uid: str
    committed: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """SOP Instance UID -> SOP Class UID and Failure Reason."""

    @property
    def event_type(self) -> int:
        """Event Type ID of the report."""
        return SOME_FAILED if self.failed else ALL_COMMITTED


def context() -> PresentationContext:
    """The presentation context that an acceptor supports: requests and reports, in either role."""
    made = build_context(PUSH_MODEL, TRANSFER_SYNTAXES)
    made.scu_role = made.scp_role = True
    return made


def request_information(request: Request) -> Dataset:
    """The Action Information of a request."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = [_item(uid, class_uid) for uid, class_uid in request.objects.items()]
    return ds


def report_information(report: Report) -> Dataset:
    """The Event Information of a report; a sequence that would be empty is left out."""
    ds = Dataset()
    ds.TransactionUID = report.transaction_uid
    if report.committed:
        ds.ReferencedSOPSequence = [_item(uid, class_uid) for uid, class_uid in report.committed.items()]
    if report.failed:
        ds.FailedSOPSequence = [_item(uid, *why) for uid, why in report.failed.items()]
    return ds


def read_request(ds: Dataset) -> Request:
    """The request of this Action Information. Raises Malformed."""
    objects = dict(_references(ds.get("ReferencedSOPSequence")))
    if not objects:
        raise Malformed("it refers to no object")
    return Request(_transaction_uid(ds), objects)


def read_report(ds: Dataset) -> Report:
    """The report of this Event Information. Raises Malformed.

    An object that is listed both as committed and as failed counts as failed.
    """
    failed = {
        uid: (class_uid, int(item.get("FailureReason") or PROCESSING_FAILURE))
        for item in ds.get("FailedSOPSequence") or ()
        for uid, class_uid in _references([item])
    }
    listed = _references(ds.get("ReferencedSOPSequence"))
    committed = {uid: class_uid for uid, class_uid in listed if uid not in failed}
    return Report(_transaction_uid(ds), committed, failed)


def in_words(reason: int) -> str:
    """A Failure Reason for people."""
    return f"0x{reason:04X} {REASONS.get(reason, 'unknown reason')}"


def _item(uid: str, class_uid: str, reason: int | None = None) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID = class_uid
    ds.ReferencedSOPInstanceUID = uid
    if reason is not None:
        ds.FailureReason = reason
    return ds


def _references(items: Iterable[Dataset] | None) -> Iterator[tuple[str, str]]:
    for item in items or ():
        yield _uid(item, "ReferencedSOPInstanceUID"), _uid(item, "ReferencedSOPClassUID")


def _transaction_uid(ds: Dataset) -> str:
    return _uid(ds, "TransactionUID")


def _uid(ds: Dataset, keyword: str) -> str:
    uid = str(ds.get(keyword) or "").strip()
    if not is_uid(uid):
        raise Malformed(f"its {keyword} is missing or not a UID")
    return uid
