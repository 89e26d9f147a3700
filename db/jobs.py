"""The work to be done: wanted, claimed, renewed, finished, put off, and freed when a worker died."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    and_,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from db.clock import from_now, now
from db.tables import Job, JobState, Study
from db.upsert import insert
from hilum.errors import LeaseLost

DEATHS_BEFORE_QUARANTINE = 3
KILLED_ITS_WORKER = f"the worker died {DEATHS_BEFORE_QUARANTINE} times while at it"
ATTEMPTS_BEFORE_FAILED = 5
BELL_PATIENCE_S = 30
"""Seconds after which a bell that nobody answered counts as lost."""


@dataclass(frozen=True)
class Claim:
    """A piece of work that this process holds until its lease runs out."""

    id: int
    kind: str
    subject: str
    study_uid: str | None
    urgent: bool
    token: str
    generation: int
    deaths: int
    attempts: int


def want(
    session: Session,
    kind: str,
    subject: str,
    *,
    study_uid: str | None,
    due_in_s: float = 0.0,
    urgent: bool = False,
) -> bool:
    """Record that this work is to be done, and return whether a bell is needed for it.

    Work that waits already is put to the new time; work that is done, failed or at
    work is to be done again. False when a bell for it is on its way, by the right queue.
    Work that had ended has all its tries anew, but its deaths stay: what killed workers is tried alone.
    """
    a_bell_is_coming = (
        update(Job)
        .where(
            _named(kind, subject),
            Job.state == JobState.WAITING,
            Job.rung_at > from_now(-BELL_PATIENCE_S),
            Job.urgent.is_(True) if urgent else true(),
        )
        .values(generation=Job.generation + 1, due_at=from_now(due_in_s))
    )
    if _changed(session, a_bell_is_coming):
        return False
    waits = Job.state == JobState.WAITING
    values = {"state": JobState.WAITING, "due_at": from_now(due_in_s), "rung_at": from_now(due_in_s)}
    statement = insert(session, Job).values(
        kind=kind, subject=subject, study_uid=study_uid, urgent=urgent, **values
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["kind", "subject"],
            set_={
                **values,
                "generation": Job.generation + 1,
                "urgent": case((and_(waits, Job.urgent.is_(True)), Job.urgent), else_=urgent),
                "attempts": case((waits, Job.attempts), else_=0),
                "error": case((waits, Job.error), else_=None),
                "done_at": None,
            },
        )
    )
    return True


def want_once(session: Session, kind: str, subject: str) -> bool:
    """Record work of no study that is to be done once, a day's for example; False when it was wanted before.

    What is over of other subjects is forgotten: the last one tells.
    """
    is_over = (Job.kind == kind, Job.subject != subject, Job.state != JobState.WAITING)
    new = insert(session, Job).values(kind=kind, subject=subject, rung_at=from_now(0))
    if session.scalar(new.on_conflict_do_nothing().returning(Job.id)) is None:
        return False
    session.execute(delete(Job).where(*is_over))
    return True


def claim(session: Session, kind: str, subject: str, *, lease_s: float) -> Claim | None:
    """Take a due and free piece of work; None when there is none or another was faster.

    One UPDATE decides, by the database's clock, so of two workers asking at once exactly one
    gets it. The token must be shown again to finish the work.
    """
    token = secrets.token_hex(16)
    taken = (
        update(Job)
        .where(
            _named(kind, subject),
            Job.state == JobState.WAITING,
            Job.due_at <= now(),
            Job.lease_token.is_(None),
        )
        .values(lease_token=token, lease_until=from_now(lease_s), rung_at=None)
        .returning(Job.id, Job.study_uid, Job.urgent, Job.generation, Job.deaths, Job.attempts)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(taken).one_or_none()
    if row is None:
        return None
    return Claim(
        row.id, kind, subject, row.study_uid, row.urgent, token, row.generation, row.deaths, row.attempts
    )


def too_early_by_s(session: Session, kind: str, subject: str) -> float | None:
    """Seconds until free work becomes due, for a bell that came too early; None when it is not waiting.

    0 when it has become due since `claim` found it early: its bell must ring again all the same.
    """
    due = select(Job.due_at, _now_column()).where(
        _named(kind, subject), Job.state == JobState.WAITING, Job.lease_token.is_(None)
    )
    row = session.execute(due).one_or_none()
    return None if row is None else max(0.0, (row[0] - row[1]).total_seconds())


def note_bell(session: Session, kind: str, subject: str, *, rings_in_s: float = 0.0) -> bool:
    """Record that a bell for this work is on its way, and return whether it is an urgent one."""
    rung = update(Job).where(_named(kind, subject)).values(rung_at=from_now(rings_in_s)).returning(Job.urgent)
    return session.scalars(rung.execution_options(synchronize_session=False)).one()


def renew(session: Session, held: Sequence[Claim], *, lease_s: float) -> None:
    """Keep the leases of work that goes on; those that were lost stay lost."""
    if held:
        tokens = [claim.token for claim in held]
        _changed(
            session, update(Job).where(Job.lease_token.in_(tokens)).values(lease_until=from_now(lease_s))
        )


def finish(session: Session, held: Claim) -> bool:
    """Record that the work is done; True when it was wanted again meanwhile and needs a bell.

    Raises LeaseLost when another has taken it over: the caller's transaction must not be committed.
    """
    unchanged = Job.generation == held.generation
    _release(
        session,
        held,
        state=case((unchanged, JobState.DONE.value), else_=JobState.WAITING.value),
        done_at=case((unchanged, now()), else_=None),
        rung_at=case((unchanged, None), else_=now()),
        deaths=0,
        attempts=0,
        error=None,
    )
    return session.scalars(select(Job.state).where(Job.id == held.id)).one() == JobState.WAITING


def put_off(session: Session, held: Claim, *, pause_s: float, because: str) -> None:
    """Try the work again after a pause, as often as it takes: to wait is no failed attempt."""
    _release(session, held, due_at=from_now(pause_s), error=because)


def fail(session: Session, held: Claim, *, because: str) -> None:
    """Record that the work raised: tried again with growing pauses, then shown to people as failed."""
    attempts = held.attempts + 1
    over = attempts >= ATTEMPTS_BEFORE_FAILED
    _release(
        session,
        held,
        state=JobState.FAILED if over else JobState.WAITING,
        due_at=from_now(2**attempts),
        attempts=attempts,
        error=because,
    )


def give_up(session: Session, held: Claim, *, because: str) -> None:
    """Record that trying again cannot help: shown to people as failed at once."""
    _release(session, held, state=JobState.FAILED, error=because)


def free_expired(session: Session) -> list[Job]:
    """Free the work of dead workers, count each death, and return those rows as they are now.

    After three deaths the work is quarantined with its reason.
    """
    last = Job.deaths + 1 >= DEATHS_BEFORE_QUARANTINE
    freed = (
        update(Job)
        .where(Job.id.in_(_not_locked(Job.state == JobState.WAITING, Job.lease_until < now())))
        .values(
            lease_token=None,
            lease_until=None,
            rung_at=None,
            deaths=Job.deaths + 1,
            state=case((last, JobState.QUARANTINED.value), else_=JobState.WAITING.value),
            error=case((last, KILLED_ITS_WORKER), else_=Job.error),
        )
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return list(session.scalars(freed))


def due(session: Session, kinds: Sequence[str]) -> int:
    """How many pieces of work of these kinds are due and free."""
    return session.scalar(select(func.count()).select_from(Job).where(_due(kinds))) or 0


def ring_again(session: Session, kinds: Sequence[str], *, most: int) -> list[tuple[str, str, bool]]:
    """Mark and return (kind, subject, urgent) of due work whose bell seems lost, the longest due first."""
    is_lost = or_(Job.rung_at.is_(None), Job.rung_at < from_now(-BELL_PATIENCE_S))
    lost = _not_locked(_due(kinds), is_lost).order_by(Job.urgent.desc(), Job.due_at).limit(most)
    rung = (
        update(Job)
        .where(Job.id.in_(lost))
        .values(rung_at=now())
        .returning(Job.kind, Job.subject, Job.urgent)
        .execution_options(synchronize_session=False)
    )
    return [(row.kind, row.subject, row.urgent) for row in session.execute(rung)]


def hurry(session: Session, kind: str, subjects: Sequence[str] | Select[str]) -> list[tuple[str, str, bool]]:
    """Make waiting work due now: what it waited for has come. Return (kind, subject, urgent) to ring."""
    waiting = _not_locked(
        Job.kind == kind, Job.subject.in_(subjects), Job.state == JobState.WAITING, Job.lease_token.is_(None)
    )
    hurried = (
        update(Job)
        .where(Job.id.in_(waiting))
        .values(due_at=now(), rung_at=now())
        .returning(Job.kind, Job.subject, Job.urgent)
        .execution_options(synchronize_session=False)
    )
    return [(row.kind, row.subject, row.urgent) for row in session.execute(hurried)]


def replay(session: Session, study_uid: str | None) -> list[tuple[str, str, bool]]:
    """Do a study's failed, quarantined and cancelled work again; return (kind, subject, urgent) to ring.

    With None that of no study.
    """
    if study_uid is not None:
        lock_study(session, study_uid)
    again = (
        update(Job)
        .where(
            Job.study_uid == study_uid,
            Job.state.in_([JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED]),
        )
        .values(
            state=JobState.WAITING,
            deaths=0,
            attempts=0,
            due_at=now(),
            rung_at=now(),
            generation=Job.generation + 1,
            error=None,
        )
        .returning(Job.kind, Job.subject, Job.urgent)
        .execution_options(synchronize_session=False)
    )
    return [(row.kind, row.subject, row.urgent) for row in session.execute(again)]


def cancel(session: Session, study_uid: str) -> int:
    """Stop a study's unfinished work and return how many pieces that were.

    Work that is going on loses its lease, so that its result is dropped.
    """
    lock_study(session, study_uid)
    unfinished = Job.state.not_in([JobState.DONE, JobState.CANCELLED])
    statement = update(Job).where(Job.study_uid == study_uid, unfinished)
    return _changed(session, statement.values(state=JobState.CANCELLED, lease_token=None, lease_until=None))


def stop(session: Session, kind: str, subject: str) -> bool:
    """Cancel one piece of work that is not done; False when there is none. Its worker loses the lease."""
    unfinished = Job.state.not_in([JobState.DONE, JobState.CANCELLED])
    statement = update(Job).where(_named(kind, subject), unfinished)
    values = {"state": JobState.CANCELLED, "lease_token": None, "lease_until": None}
    return bool(_changed(session, statement.values(**values)))


def lock_study(session: Session, study_uid: str) -> None:
    """Wait until nobody else is at a study's row, and keep others waiting until this transaction ends.

    Who changes several rows of a study begins with this, or with an UPDATE of the study's row: so each
    sees all that the one before it left, and no two can wait for each other.
    """
    session.execute(
        select(Study.study_uid).where(Study.study_uid == study_uid).with_for_update(key_share=True)
    )


def depths(session: Session) -> list[tuple[str, JobState, int, datetime]]:
    """Unfinished work as (kind, state, how many, due since when), for people to see."""
    unfinished = Job.state.not_in([literal_column("'done'")])  # word for word the partial index's condition
    rows = session.execute(
        select(Job.kind, Job.state, func.count(), func.min(Job.due_at))
        .where(unfinished)
        .group_by(Job.kind, Job.state)
        .order_by(Job.kind, Job.state)
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def of_study(session: Session, study_uid: str) -> list[Job]:
    """All work of one study, the oldest first."""
    return list(session.scalars(select(Job).where(Job.study_uid == study_uid).order_by(Job.id)))


def _named(kind: str, subject: str) -> ColumnElement[bool]:
    return and_(Job.kind == kind, Job.subject == subject)


def _due(kinds: Sequence[str]) -> ColumnElement[bool]:
    return and_(
        Job.kind.in_(kinds),
        Job.state == JobState.WAITING,
        Job.due_at <= now(),
        Job.lease_token.is_(None),
    )


def _not_locked(*conditions: ColumnElement[bool]) -> Select[int]:
    """Rows that nobody else is changing: who takes many must wait for none, or two wait for each other."""
    return select(Job.id).where(*conditions).with_for_update(skip_locked=True)


def _release(session: Session, held: Claim, **values: object) -> None:
    statement = update(Job).where(Job.id == held.id, Job.lease_token == held.token)
    if not _changed(session, statement.values(lease_token=None, lease_until=None, **values)):
        raise LeaseLost(f"{held.kind} of {held.subject} was taken over by another worker or cancelled")


def _changed(session: Session, statement: Update) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    return int(result.rowcount)  # type: ignore[attr-defined]


def _now_column() -> ColumnElement[datetime]:
    return now().label("now")
