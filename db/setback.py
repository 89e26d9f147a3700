"""The database's clock was set back: what was put off by the clock of before does not wait for it."""

from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.clock import from_now, now
from db.tables import Circuit, Job, JobState

_UNSEEN_S = 60.0
"""Seconds that may have passed since the clock was set."""


def present(session: Session) -> datetime:
    """The database's time."""
    return session.scalars(select(now().label("now"))).one()


def make_up(session: Session, back_s: float, *, lease_s: float) -> int:
    """Make due what was put off before the clock was set back by this, and return how much work that was.

    To try too early does no harm. Leases are cut to what they can be at most: their holders are at work.
    """
    is_put_off, has_lease = _is_ahead(Job.due_at, back_s), Job.lease_until > from_now(lease_s)
    is_rung = Job.rung_at > now()
    changed = (
        update(Job)
        .where(and_(Job.state == JobState.WAITING, or_(is_put_off, has_lease, is_rung)))
        .values(
            due_at=case((is_put_off, now()), else_=Job.due_at),
            lease_until=case((has_lease, from_now(lease_s)), else_=Job.lease_until),
            rung_at=case((is_rung, None), else_=Job.rung_at),
        )
    )
    circuits = update(Circuit).where(_is_ahead(Circuit.open_until, back_s)).values(open_until=now())
    for statement in (circuits, changed):
        result = session.execute(statement.execution_options(synchronize_session=False))
    return int(result.rowcount)  # type: ignore[attr-defined]


def _is_ahead(moment: InstrumentedAttribute[datetime | None], back_s: float) -> ColumnElement[bool]:
    """Whether this was set by the clock of before."""
    return moment > from_now(back_s - _UNSEEN_S)
