"""Snapshots of labelled images, and which part of training each patient's images are for."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from db.clock import now
from db.tables import Finding, Instance, Part, PatientPart, RunState, Snapshot, Study, TrainingRun, Verdict
from db.upsert import insert

_AT_ONCE = 500
"""Rows in one statement: databases take only so many parameters."""


def alone(session: Session) -> datetime:
    """Keep everybody else from giving patients their parts until this transaction ends; return the time.

    SQLite has one writer at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE patient_parts IN SHARE ROW EXCLUSIVE MODE"))
    return session.scalars(select(now().label("now"))).one()


def parts(session: Session) -> dict[str, Part]:
    """Patient, as `PatientPart` names them -> their part."""
    rows = session.execute(select(PatientPart.patient, PatientPart.part))
    return {row.patient: row.part for row in rows}


def settle(session: Session, new: Mapping[str, Part]) -> None:
    """Write down the parts of patients who had none; whoever has one keeps it."""
    rows = [{"patient": patient, "part": part} for patient, part in sorted(new.items())]
    for start in range(0, len(rows), _AT_ONCE):
        statement = insert(session, PatientPart).values(rows[start : start + _AT_ONCE])
        session.execute(statement.on_conflict_do_nothing())


def save(
    session: Session,
    digest: str,
    *,
    path: str,
    counts: Mapping[str, Any],
    left_out: Mapping[str, Any],
    made_at: datetime,
) -> Snapshot:
    """Write down a snapshot, or that the same one was made again: then it is of now."""
    values = {"path": path, "counts": dict(counts), "left_out": dict(left_out), "made_at": made_at}
    statement = insert(session, Snapshot).values(digest=digest, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["digest"], set_=values))
    return session.get_one(Snapshot, digest, populate_existing=True)


def last_learnt_at(session: Session) -> datetime | None:
    """When the last snapshot was made of which a training has come to its end, or is going on."""
    used = TrainingRun.state.not_in([RunState.FAILED])
    made = select(func.max(Snapshot.made_at)).join(
        TrainingRun, TrainingRun.snapshot_digest == Snapshot.digest
    )
    return session.scalar(made.where(used))


class Spoken(NamedTuple):
    """An image that has a verdict, and where it lies."""

    uid: str
    path: str
    view: str
    sender_ae: str
    is_there: bool
    """Whether its file was not removed."""


def spoken_of(session: Session) -> list[Spoken]:
    """The images that have a verdict, by SOP Instance UID."""
    has_verdict = select(Verdict.id).where(Verdict.uid == Instance.uid).exists()
    is_there = Instance.removed_at.is_(None)
    query = select(Instance.uid, Instance.path, Instance.view, Study.sender_ae, is_there)
    joined = query.join(Study, Study.study_uid == Instance.study_uid).where(has_verdict)
    return [Spoken(*row) for row in session.execute(joined.order_by(Instance.uid))]


def said_by_networks(session: Session, uids: Sequence[str]) -> dict[str, tuple[str, float]]:
    """SOP Instance UID -> the label that was found last and reported, and its probability in [0, 1]."""
    said: dict[str, tuple[str, float]] = {}
    for start in range(0, len(uids), _AT_ONCE):
        query = select(Finding.uid, Finding.label, Finding.probabilities).where(
            Finding.uid.in_(uids[start : start + _AT_ONCE]), ~Finding.shadow
        )
        for uid, label, probabilities in session.execute(query.order_by(Finding.id)):
            said[uid] = label, float(probabilities[label])
    return said
