"""What a person should look at: raised once, seen again while it is so, and over at last."""

import logging

from sqlalchemy import Executable, select, update
from sqlalchemy.orm import Session

from db.clock import now
from db.tables import Alert
from db.upsert import insert

log = logging.getLogger(__name__)


def note(session: Session, kind: str, subject: str, words: str) -> bool:
    """Raise an alert, or note that the one of this kind and subject is seen again; True when it is new.

    The words stand in logs and messages, and so name no patient.
    """
    is_open = (Alert.kind == kind, Alert.subject == subject, Alert.ended_at.is_(None))
    again = update(Alert).where(*is_open).values(words=words, seen_at=now())
    if _changed(session, again):
        return False
    raised = insert(session, Alert).values(kind=kind, subject=subject, words=words)
    if session.scalar(raised.on_conflict_do_nothing().returning(Alert.id)) is None:  # another was faster
        return False
    log.warning("alert: %s of %s: %s", kind, subject, words)
    return True


def end(session: Session, kind: str, subject: str) -> bool:
    """Write down that it is over; False when there was no such alert."""
    is_open = (Alert.kind == kind, Alert.subject == subject, Alert.ended_at.is_(None))
    if not _changed(session, update(Alert).where(*is_open).values(ended_at=now())):
        return False
    log.info("alert over: %s of %s", kind, subject)
    return True


def open(session: Session, kind: str | None = None) -> list[Alert]:  # noqa: A001 - it reads alerts.open
    """The alerts that are not over, of this kind or of all kinds, what was raised last first."""
    wanted = [Alert.ended_at.is_(None)] if kind is None else [Alert.ended_at.is_(None), Alert.kind == kind]
    return list(session.scalars(select(Alert).where(*wanted).order_by(Alert.id.desc())))


def all(session: Session, *, most: int = 100) -> list[Alert]:  # noqa: A001 - it reads alerts.all
    """The alerts that were raised last, over or not, the latest first."""
    return list(session.scalars(select(Alert).order_by(Alert.id.desc()).limit(most)))


def _changed(session: Session, statement: Executable) -> int:
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)  # type: ignore[attr-defined]
