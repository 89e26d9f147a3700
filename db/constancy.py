"""Phantoms that go through the whole chain: each going, and what has to be found of them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import alerts, audit
from db.clock import from_now, now
from db.tables import ConstancyRecord, ConstancyRun
from db.upsert import insert

KIND = "constancy"
SUBJECT = "phantoms"
"""Of alerts."""
_DAY_S = 86_400
_MOST_RUNS = 400
"""A year's: what is older has long been forgotten."""


def begin(session: Session, slot: str, studies: Mapping[str, str]) -> ConstancyRun:
    """The run of a slot, which begins now unless it has; `studies` is phantom -> Study Instance UID."""
    statement = insert(session, ConstancyRun).values(slot=slot, studies=dict(studies), words="")
    session.execute(statement.on_conflict_do_nothing())
    return session.get_one(ConstancyRun, slot)


def is_overdue(session: Session, slot: str, *, after_s: float) -> bool:
    """Whether a run began longer ago than so many seconds, by the database's clock."""
    late = select(ConstancyRun.slot).where(
        ConstancyRun.slot == slot, ConstancyRun.began_at < from_now(-after_s)
    )
    return session.scalar(late) is not None


def note_sent(session: Session, slot: str) -> None:
    """Write down that the phantoms have been sent."""
    session.execute(update(ConstancyRun).where(ConstancyRun.slot == slot).values(sent_at=now()))


def end(session: Session, slot: str, *, passed: bool, words: str, found: Mapping[str, Any]) -> None:
    """Write down how a run ended."""
    ended = update(ConstancyRun).where(ConstancyRun.slot == slot)
    session.execute(ended.values(ended_at=now(), passed=passed, words=words, found=dict(found)))


def latest(session: Session, *, most: int = 10) -> list[ConstancyRun]:
    """The runs that began last, the latest first."""
    return list(session.scalars(select(ConstancyRun).order_by(ConstancyRun.began_at.desc()).limit(most)))


def records(session: Session, network_digest: str, phantom: str) -> dict[str, dict[str, Any]]:
    """Engine -> what it found with this network in this phantom when that was recorded."""
    of_it = (ConstancyRecord.network_digest == network_digest, ConstancyRecord.phantom == phantom)
    query = select(ConstancyRecord).where(*of_it).order_by(ConstancyRecord.recorded_at)
    return {each.engine: each.found for each in session.scalars(query)}


def record(
    session: Session, network_digest: str, engine: str, phantom: str, found: Mapping[str, Any]
) -> None:
    """Have this found from now on."""
    session.add(
        ConstancyRecord(network_digest=network_digest, engine=engine, phantom=phantom, found=dict(found))
    )


def forget_records(session: Session, *, actor: str, because: str) -> int:
    """End the alert, and have the next run record anew what is to be found; return how many records went."""
    forgotten = session.execute(delete(ConstancyRecord))
    count = int(forgotten.rowcount)  # type: ignore[attr-defined]
    alerts.end(session, KIND, SUBJECT)
    audit.note(session, actor=actor, action="accept constancy", detail=f"{count} records: {because}")
    return count


def old_studies(session: Session, *, days: float) -> list[tuple[str, str]]:
    """(slot, Study Instance UID) of runs that are older than so many days, where they are here still."""
    query = (
        select(ConstancyRun.slot, ConstancyRun.studies)
        .where(ConstancyRun.began_at < from_now(-days * _DAY_S), ConstancyRun.ended_at.is_not(None))
        .order_by(ConstancyRun.began_at.desc())
    )
    rows = session.execute(query.limit(_MOST_RUNS))
    return [(row.slot, study_uid) for row in rows for study_uid in row.studies.values()]


def forget_study(session: Session, slot: str, study_uid: str) -> None:
    """Forget a run's study, which was removed."""
    run = session.get_one(ConstancyRun, slot, with_for_update=True)
    run.studies = {name: uid for name, uid in run.studies.items() if uid != study_uid}
    session.flush()
