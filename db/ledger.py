"""The ledger's questions: what we hold of studies that a source lists, and its sums, day by day."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from db.chunks import chunks
from db.clock import now
from db.studies import FILE_LOST
from db.tables import (
    Delivery,
    DeliveryState,
    Finding,
    Instance,
    Job,
    JobState,
    LedgerDay,
    RemovedStudy,
    Report,
    Role,
    Study,
    StudyState,
)
from db.upsert import insert
from hilum.eligibility import RADIOGRAPHS
from hilum.queue import SHADOW

LOOKS_BACK_DAYS = 14
"""How long a day with gaps is asked for again each hour."""


_NEXT = {StudyState.RECEIVED: "preparation", StudyState.PREPARED: "reading", StudyState.READ: "report"}


@dataclass(frozen=True)
class Counts:
    """A day of a source in numbers, from what it lists to what is final."""

    listed_studies: int = 0
    """Studies with CR or DX images that the source has of this day."""
    listed_images: int = 0
    missing_images: int = 0
    """Listed images that never came."""
    unlisted_studies: int = 0
    """Studies that the source sent us, and lists no more."""
    held_images: int = 0
    """CR and DX images that we hold of all these studies."""
    eligible_images: int = 0
    """Those of them that may be read."""
    read_images: int = 0
    reported_studies: int = 0
    final_studies: int = 0
    """Studies whose report is final at each of its destinations, or of which none is made."""
    waiting_studies: int = 0
    """Studies that are not final, and need not be yet."""
    gaps: int = 0
    """Studies that should be final by now, and are not."""


@dataclass(frozen=True)
class Held:
    """What we hold of a study, and how far it has come."""

    study_uid: str
    accession_number: str
    state: StudyState
    last_received_at: datetime
    images: int = 0
    """CR and DX images."""
    eligible: int = 0
    read: int = 0
    deliveries: dict[str, DeliveryState] = field(default_factory=dict)
    """Destination -> state, of the newest report."""
    work: frozenset[JobState] = frozenset()
    """The states of its unfinished work."""
    error: str = ""
    """Why its work stopped, or what it waits for."""

    @property
    def lacks(self) -> str:
        """The step that comes next, in words; empty when there is none."""
        if self.state in _NEXT:
            return _NEXT[self.state]
        open_ = [name for name, state in self.deliveries.items() if state != DeliveryState.FINAL]
        return f"delivery to {', '.join(open_)}" if open_ and self.state == StudyState.REPORTED else ""


@dataclass(frozen=True)
class Gap:
    """A study that should be final by now, and is not."""

    source: str
    day: date
    study_uid: str
    accession_number: str
    missing: str
    """What lacks, in words: images, or the step that comes next."""
    since: datetime
    because: str
    """Why, as far as it is known."""
    uids: frozenset[str] = frozenset()
    """The SOP Instance UIDs of the images that never came."""
    series_uids: tuple[str, ...] = ()
    """The series of those images."""
    is_idle: bool = False
    """Whether its work has stopped without its end, for another reason than that a person said so."""


@dataclass(frozen=True)
class Day:
    """One day of a source: its sum, and its gaps."""

    source: str
    day: date
    counts: Counts
    gaps: Sequence[Gap] = ()
    not_asked_because: str | None = None


def held(session: Session, study_uids: Collection[str]) -> dict[str, Held]:
    """Study Instance UID -> what we hold of it; those that we do not know are left out."""
    found: dict[str, Held] = {}
    for some in chunks(study_uids):
        images, deliveries = _images(session, some), _deliveries(session, some)
        work = _work(session, some)
        for study in session.scalars(select(Study).where(Study.study_uid.in_(some))):
            found[study.study_uid] = Held(
                study.study_uid,
                study.accession_number,
                study.state,
                study.last_received_at,
                *images.get(study.study_uid, (0, 0, 0)),
                deliveries.get(study.study_uid, {}),
                *work.get(study.study_uid, ()),
            )
    return found


def known(session: Session, uids: Collection[str]) -> set[str]:
    """Those of these SOP Instance UIDs that we have received, in whichever study, and not lost since."""
    found: set[str] = set()
    for some in chunks(uids):
        found |= set(session.scalars(select(Instance.uid).where(Instance.uid.in_(some), _is_kept())))
    return found


def removed(session: Session, study_uids: Collection[str]) -> set[str]:
    """Those of these studies that were final, and whose rows were removed because of their age."""
    found: set[str] = set()
    for some in chunks(study_uids):
        query = select(RemovedStudy.study_uid).where(RemovedStudy.study_uid.in_(some))
        found |= set(session.scalars(query))
    return found


def sent_by(session: Session, source: str, day: date) -> set[str]:
    """Study Instance UIDs of this Study Date that this sender has sent us, phantoms left out."""
    query = select(Study.study_uid).where(
        Study.sender_ae == source, Study.study_date == f"{day:%Y%m%d}", Study.phantom.is_(False)
    )
    return set(session.scalars(query))


def keep(session: Session, source: str, day: date, counts: Counts, listed: Collection[str]) -> None:
    """Write down a day's sum, in the place of an earlier one; `listed` are SOP Instance UIDs."""
    digest = hashlib.sha256("".join(f"{uid}\n" for uid in sorted(listed)).encode()).hexdigest()
    sum_ = {"counted_at": now(), "not_asked_because": None, "counts": asdict(counts), "digest": digest}
    _upsert(session, {"source": source, "day": day, **sum_}, sum_)


def note_not_asked(session: Session, source: str, day: date, because: str) -> None:
    """Write down that a source told nothing; what it told before stands."""
    row = {"source": source, "day": day, "counts": asdict(Counts()), "digest": ""}
    _upsert(session, row | {"not_asked_because": because}, {"not_asked_because": because})


def days(session: Session, first: date, last: date, *, source: str | None = None) -> list[LedgerDay]:
    """The sums of a source, or of all, of these days, both days included, the oldest first."""
    query = select(LedgerDay).where(LedgerDay.day.between(first, last))
    if source is not None:
        query = query.where(LedgerDay.source == source)
    return list(session.scalars(query.order_by(LedgerDay.day, LedgerDay.source)))


def first_day(session: Session, source: str) -> date | None:
    """The first day of a source that was ever summed."""
    return session.scalar(select(func.min(LedgerDay.day)).where(LedgerDay.source == source))


def _images(session: Session, study_uids: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Study Instance UID -> CR and DX images, those that may be read, those that were read."""
    rows = session.execute(
        select(
            Instance.study_uid,
            func.count(),
            func.count().filter(or_(Instance.prepared_path != "", _is_read())),
            func.count().filter(_is_read()),
        )
        .where(
            Instance.study_uid.in_(study_uids),
            Instance.role == Role.IMAGE,
            Instance.sop_class_uid.in_(sorted(RADIOGRAPHS)),
        )
        .group_by(Instance.study_uid)
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def _is_kept() -> ColumnElement[bool]:
    is_lost = and_(Instance.not_assessed_because == FILE_LOST, Instance.removed_at.is_(None))
    return func.coalesce(is_lost, False).is_(False)


def _is_read() -> ColumnElement[bool]:
    return (
        select(Finding.id).where(
            Finding.uid == Instance.uid,
            Finding.pixel_hash == Instance.pixel_hash,
            Finding.shadow.is_(False),
        )
    ).exists()


def _deliveries(session: Session, study_uids: Sequence[str]) -> dict[str, dict[str, DeliveryState]]:
    newest = (
        select(Report.study_uid, func.max(Report.revision).label("revision"))
        .where(Report.study_uid.in_(study_uids))
        .group_by(Report.study_uid)
        .subquery()
    )
    rows = session.execute(
        select(Report.study_uid, Delivery.destination, Delivery.state)
        .join(Delivery, Delivery.report_id == Report.id)
        .join(newest, (Report.study_uid == newest.c.study_uid) & (Report.revision == newest.c.revision))
        .order_by(Delivery.id)
    )
    found: dict[str, dict[str, DeliveryState]] = {}
    for study_uid, destination, state in rows:
        found.setdefault(study_uid, {})[destination] = state
    return found


def _work(session: Session, study_uids: Sequence[str]) -> dict[str, tuple[frozenset[JobState], str]]:
    """Study Instance UID -> the states of its unfinished work, and why the newest of it stopped or waits.

    What a shadow is to read is nothing that anybody waits for.
    """
    rows = session.execute(
        select(Study.study_uid, Job.state, Job.error)
        .join(Job)
        .where(Study.study_uid.in_(study_uids), Job.state != JobState.DONE, Job.kind != SHADOW)
        .order_by(Job.id)
    )
    found: dict[str, tuple[frozenset[JobState], str]] = {}
    for study_uid, state, error in rows:
        before, words = found.get(study_uid, (frozenset[JobState](), ""))
        found[study_uid] = (before | {state}, error or words)
    return found


def _upsert(session: Session, row: dict[str, Any], changes: dict[str, Any]) -> None:
    statement = insert(session, LedgerDay).values(**row)
    session.execute(statement.on_conflict_do_update(index_elements=["source", "day"], set_=changes))
