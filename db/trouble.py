"""What waits for a person: work that has failed, and other objects under a UID that was known."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.studies import FILE_LOST
from db.tables import Instance, Job, JobState, Study, Variant

_FAILED = (JobState.FAILED, JobState.QUARANTINED)


def failed(session: Session, *, most: int) -> list[tuple[Study | None, Job]]:
    """Each piece of failed or quarantined work with its study, if it is of one; what came last first."""
    query = select(Study, Job).select_from(Job).outerjoin(Study).where(Job.state.in_(_FAILED))
    came_at = func.coalesce(Study.last_received_at, Job.created_at)
    rows = session.execute(query.order_by(came_at.desc(), Job.id).limit(most))
    return [(row[0], row[1]) for row in rows]


def failed_studies(session: Session) -> list[str | None]:
    """The UIDs of all studies with failed or quarantined work, what came first first; None: of no study."""
    came_at = func.min(func.coalesce(Study.last_received_at, Job.created_at))
    query = select(Job.study_uid).select_from(Job).outerjoin(Study).where(Job.state.in_(_FAILED))
    return list(session.scalars(query.group_by(Job.study_uid).order_by(came_at)))


def lost_images(session: Session) -> tuple[int, list[str]]:
    """How many images are not assessed because their files are missing, and studies of some of them."""
    lost = (Instance.not_assessed_because == FILE_LOST, Instance.removed_at.is_(None))
    some = session.scalars(select(Instance.study_uid).where(*lost).distinct().limit(3)).all()
    return session.scalar(select(func.count()).select_from(Instance).where(*lost)) or 0, list(some)


def variants(session: Session, *, most: int) -> list[tuple[Study, Variant]]:
    """Objects kept aside because their UID was known, with the study that has it, the newest first."""
    query = (
        select(Study, Variant).select_from(Variant).join(Instance, Variant.uid == Instance.uid).join(Study)
    )
    rows = session.execute(query.order_by(Variant.id.desc()).limit(most))
    return [(row[0], row[1]) for row in rows]
