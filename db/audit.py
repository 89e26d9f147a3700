"""What people did."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.tables import Audit


def note(
    session: Session, *, actor: str, action: str, study_uid: str | None = None, detail: str = ""
) -> None:
    """Write down who did what to which study, in the transaction that does it."""
    session.add(Audit(actor=actor, action=action, study_uid=study_uid, detail=detail))


def has(session: Session, action: str) -> bool:
    """Whether anybody has done such a thing."""
    return session.scalar(select(Audit.id).where(Audit.action == action).limit(1)) is not None
