"""What waits for a person: work that has failed, and other objects under a UID that was known."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.studies import FILE_LOST
from db.tables import Instance, Job, JobState, Study, Variant

_FAILED = (JobState.FAILED, JobState.QUARANTINED)


def failed(session: Session, *, most: int) -> list[tuple[Study, Job]]:
    """Studies with failed or quarantined work and each such piece of it, what was received last first."""
    query = select(Study, Job).join(Job).where(Job.state.in_(_FAILED))
    rows = session.execute(query.order_by(Study.last_received_at.desc(), Job.id).limit(most))
    return [(row[0], row[1]) for row in rows]


def failed_studies(session: Session) -> list[str]:
    """The UIDs of all studies with failed or quarantined work, what was received first first."""
    some = select(Job.study_uid).where(Job.state.in_(_FAILED))
    query = select(Study.study_uid).where(Study.study_uid.in_(some)).order_by(Study.last_received_at)
    return list(session.scalars(query))


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
