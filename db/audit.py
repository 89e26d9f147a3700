"""What people did."""

from sqlalchemy.orm import Session

from db.tables import Audit


def note(
    session: Session, *, actor: str, action: str, study_uid: str | None = None, detail: str = ""
) -> None:
    """Write down who did what to which study, in the transaction that does it."""
    session.add(Audit(actor=actor, action=action, study_uid=study_uid, detail=detail))
