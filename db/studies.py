"""What was received and what became of it: studies, series, instances."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from db import jobs, retention
from db.clock import from_now, now
from db.tables import Instance, ReportObject, Role, Series, Study, StudyState, Variant
from db.upsert import insert
from hilum.labels import SPOKEN_IN
from hilum.queue import PREPARE, VERDICT

_PLAIN = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian}
"""Transfer syntaxes in which the same pixels are the same bytes."""
FILE_LOST = "its file is missing in the store: once it is sent again, it is read"
"""Why an image is not assessed whose file is gone though nobody removed it."""


@dataclass(frozen=True)
class Received:
    """An object that lies whole in the store, as its header and its sender describe it."""

    uid: str
    study_uid: str
    series_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    sender_ae: str
    path: str
    size_bytes: int
    pixel_digest: str
    has_pixels: bool = True
    ours: bool = False
    """Whether the header says that Hilum made it."""
    urgent: bool = False
    phantom: bool = False
    view: str = ""
    modality: str = ""
    series_description: str = ""
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_description: str = ""


class Recorded(StrEnum):
    """What a received object turned out to be."""

    NEW = "new"
    OURS = "ours"
    OTHER = "other"
    """It has no pixels: kept and recorded, and nothing follows from it, unless a person speaks in it."""
    DUPLICATE = "duplicate"
    """Known with these pixels, or in another compression: the first file stands, this one is not needed."""
    AGAIN = "again"
    """Likewise, but the first file was removed because of its age, or is lost or torn: this one stands. It is
    read only when the first could not be, since it was lost or torn."""
    VARIANT = "variant"
    """Known with other pixels or in another study: the first stands, this one is kept aside and flagged."""


@dataclass(frozen=True)
class Record:
    """The outcome of recording an object."""

    kind: Recorded
    path: str
    """The file that stands for the object; its own file may be removed when it is another."""
    ring: bool
    """Whether a bell for the study's preparation is needed."""
    urgent: bool = False
    """Whether the study is urgent, by this object or another."""
    may_speak: bool = False
    """Whether a person may have given a verdict in it, and a bell is needed for a look."""


@dataclass(frozen=True)
class Preparation:
    """What preparing an image gave."""

    uid: str
    view: str = ""
    prepared_path: str = ""
    pixel_hash: str = ""
    not_assessed_because: str | None = None
    broken: bool = False


def record(
    session: Session,
    received: Received,
    *,
    settle_s: float,
    holds: Callable[[str, int], bool] = lambda path, size_bytes: True,
) -> Record:
    """Write down an object and the work it makes necessary.

    Insertions that meet a row of another sender do nothing, so that senders of one study never
    refuse each other. `holds` says whether the store has a file of this path and size: one that it lost or
    that is torn is replaced.
    """
    role = _role(session, received)
    if not _add(session, received, role):
        return _record_known(session, received, settle_s, holds)
    retention.spare(session, [received.path])
    if role is not Role.IMAGE:
        may_speak = _is_to_be_heard(session, role, received)
        return Record(Recorded(role.value), received.path, ring=False, may_speak=may_speak)
    return _to_be_read(session, Recorded.NEW, received.study_uid, received.path, settle_s)


def images(session: Session, study_uid: str) -> list[Instance]:
    """The study's instances that were sent to be read, in the order of their UIDs."""
    query = select(Instance).where(Instance.study_uid == study_uid, Instance.role == Role.IMAGE)
    return list(session.scalars(query.order_by(Instance.uid)))


def without_verdict(session: Session, study_uid: str) -> list[Instance]:
    """The study's objects in which a person may have spoken, and that brought no verdict, or not all."""
    query = select(Instance).where(Instance.study_uid == study_uid, Instance.no_verdict_because.is_not(None))
    return list(session.scalars(query.order_by(Instance.uid)))


def save_preparations(session: Session, done: Sequence[Preparation]) -> None:
    """Write down what preparing these images gave."""
    for each in done:
        instance = session.get_one(Instance, each.uid)
        instance.prepared = True
        instance.view = each.view
        instance.prepared_path = each.prepared_path
        instance.pixel_hash = each.pixel_hash
        instance.not_assessed_because = each.not_assessed_because
        instance.broken = each.broken


def reach(session: Session, study_uid: str, state: StudyState) -> None:
    """Write down how far the study has come."""
    session.execute(update(Study).where(Study.study_uid == study_uid).values(state=state))


def states(session: Session, study_uids: Sequence[str]) -> dict[str, StudyState]:
    """How far each of these studies has come; those that are not known are left out."""
    rows = session.execute(select(Study.study_uid, Study.state).where(Study.study_uid.in_(study_uids)))
    return {row[0]: row[1] for row in rows}


def counts(session: Session) -> dict[StudyState, int]:
    """How many studies there are in each state."""
    rows = session.execute(select(Study.state, func.count()).group_by(Study.state))
    return {row[0]: row[1] for row in rows}


def received_in(session: Session, last_s: float) -> tuple[int, int]:
    """How many images were received in the last so many seconds, and how many bytes of all kinds."""
    since = from_now(-last_s)
    images = func.count().filter(Instance.role == Role.IMAGE)
    # by way of their studies, which have an index of when
    lately = (
        select(images, func.coalesce(func.sum(Instance.size_bytes), 0))
        .join(Study, Study.study_uid == Instance.study_uid)
        .where(Study.last_received_at >= since, Instance.received_at >= since)
    )
    row = session.execute(lately).one()
    return int(row[0]), int(row[1])


def latest(session: Session, *, most: int = 50, state: StudyState | None = None) -> list[Study]:
    """The studies that were received last, the newest first."""
    query = select(Study).order_by(Study.last_received_at.desc()).limit(most)
    return list(session.scalars(query if state is None else query.where(Study.state == state)))


def find(session: Session, text: str) -> list[Study]:
    """Studies with this Study Instance UID, Accession Number or Patient ID, exactly."""
    matches = or_(Study.study_uid == text, Study.accession_number == text, Study.patient_id == text)
    return list(session.scalars(select(Study).where(matches).order_by(Study.last_received_at.desc())))


def flagged(session: Session) -> int:
    """How many objects came under a known UID with other pixels, or in another study."""
    return session.scalar(select(func.count()).select_from(Variant)) or 0


def _to_be_read(session: Session, kind: Recorded, study_uid: str, path: str, settle_s: float) -> Record:
    session.execute(
        update(Study)
        .where(Study.study_uid == study_uid)
        .values(state=StudyState.RECEIVED, last_received_at=now(), prepared_removed_at=None)
    )
    urgent = session.get_one(Study, study_uid).urgent
    ring = jobs.want(session, PREPARE, study_uid, study_uid=study_uid, due_in_s=settle_s, urgent=urgent)
    return Record(kind, path, ring, urgent)


def _is_to_be_heard(session: Session, role: Role, received: Received) -> bool:
    """Want a look at an object in which a person may have spoken; True when a bell is needed for it."""
    if role is not Role.OTHER or received.sop_class_uid not in SPOKEN_IN:
        return False
    return jobs.want(session, VERDICT, received.uid, study_uid=received.study_uid)


def _role(session: Session, received: Received) -> Role:
    if received.ours or session.get(ReportObject, received.uid) is not None:
        return Role.OURS
    return Role.IMAGE if received.has_pixels else Role.OTHER


def _add(session: Session, received: Received, role: Role) -> bool:
    """Add the object with its study and series; False, and none of them, when its UID is known."""
    with session.begin_nested() as savepoint:
        _upsert_study(session, received, role)
        _insert(
            session,
            Series,
            series_uid=received.series_uid,
            study_uid=received.study_uid,
            modality=received.modality,
            series_description=received.series_description,
        )
        is_new = _insert(
            session,
            Instance,
            uid=received.uid,
            study_uid=received.study_uid,
            series_uid=received.series_uid,
            sop_class_uid=received.sop_class_uid,
            transfer_syntax_uid=received.transfer_syntax_uid,
            role=role,
            sender_ae=received.sender_ae,
            path=received.path,
            size_bytes=received.size_bytes,
            pixel_digest=received.pixel_digest,
            view=received.view,
        )
        if not is_new:
            savepoint.rollback()
    return is_new


def _upsert_study(session: Session, received: Received, role: Role) -> None:
    statement = insert(session, Study).values(
        study_uid=received.study_uid,
        state=StudyState.RECEIVED if role is Role.IMAGE else StudyState.NOT_READ,
        sender_ae=received.sender_ae,
        urgent=received.urgent,
        phantom=received.phantom,
        patient_id=received.patient_id,
        patient_name=received.patient_name,
        patient_birth_date=received.patient_birth_date,
        patient_sex=received.patient_sex,
        accession_number=received.accession_number,
        study_date=received.study_date,
        study_description=received.study_description,
    )
    # a row that is there is locked too, by everybody: senders of one study take turns from here on, where
    # locks taken in different orders would be a deadlock
    statement = statement.on_conflict_do_update(
        index_elements=["study_uid"],
        set_={"urgent": or_(Study.urgent, statement.excluded.urgent), "files_removed_at": None},
    )
    session.execute(statement)


def _insert(session: Session, table: type[Series] | type[Instance] | type[Variant], **values: object) -> bool:
    [key] = table.__table__.primary_key.columns  # type: ignore[attr-defined]
    statement = insert(session, table).values(**values).on_conflict_do_nothing().returning(key)
    return session.execute(statement).one_or_none() is not None


def _record_known(
    session: Session, received: Received, settle_s: float, holds: Callable[[str, int], bool]
) -> Record:
    known = _locked(session, received.uid)
    if _are_alike(known, received):
        is_kept = known.removed_at is None and holds(known.path, known.size_bytes)
        return _record_alike(session, known, received, settle_s, is_kept=is_kept)
    _insert(
        session,
        Variant,
        uid=received.uid,
        study_uid=received.study_uid,
        pixel_digest=received.pixel_digest,
        path=received.path,
        sender_ae=received.sender_ae,
    )
    flagged = select(Variant.path).where(
        Variant.uid == received.uid,
        Variant.study_uid == received.study_uid,
        Variant.pixel_digest == received.pixel_digest,
    )
    path = session.scalars(flagged).one()
    retention.spare(session, [path])
    return Record(Recorded.VARIANT, path, ring=False)


def _locked(session: Session, uid: str) -> Instance:
    """The instance as it stays until this transaction ends: nobody removes its file meanwhile."""
    known = session.get_one(Instance, uid)
    jobs.lock_study(session, known.study_uid)
    session.refresh(known)
    return known


def _record_alike(
    session: Session, known: Instance, received: Received, settle_s: float, *, is_kept: bool
) -> Record:
    was_bad = known.broken and known.removed_at is None and not is_kept
    if not is_kept:
        _replace_file(session, known, received)
    if was_bad or known.not_assessed_because == FILE_LOST:  # the same bytes lie where the lost ones lay
        known.prepared, known.broken, known.not_assessed_because = False, False, None
        return _to_be_read(session, Recorded.AGAIN, known.study_uid, known.path, settle_s)
    if is_kept:
        return Record(Recorded.DUPLICATE, known.path, ring=False)
    may_speak = _is_to_be_heard(session, known.role, received)
    return Record(Recorded.AGAIN, known.path, ring=False, may_speak=may_speak)


def _replace_file(session: Session, known: Instance, received: Received) -> None:
    if known.removed_at is None and known.path != received.path:
        retention.discard(session, known.path)  # what is left of it
    retention.spare(session, [received.path])
    known.removed_at = None
    known.path, known.size_bytes = received.path, received.size_bytes
    known.transfer_syntax_uid, known.pixel_digest = received.transfer_syntax_uid, received.pixel_digest
    session.execute(
        update(Study)
        .where(Study.study_uid == known.study_uid)
        .values(last_received_at=now(), files_removed_at=None)
    )


def _are_alike(known: Instance, received: Received) -> bool:
    """Whether nothing speaks against it: encoded pixels tell nothing of those in another compression."""
    syntaxes = {known.transfer_syntax_uid, received.transfer_syntax_uid}
    comparable = len(syntaxes) == 1 or (received.has_pixels and syntaxes <= _PLAIN)
    same_pixels = known.pixel_digest == received.pixel_digest or not comparable
    return same_pixels and known.study_uid == received.study_uid
