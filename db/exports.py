"""What may leave for training elsewhere: objects of patients, with what people said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.tables import Instance, Role, Study
from db.verdicts import labelled_images


@dataclass(frozen=True)
class Candidate:
    """An object of a study, the label that people gave it, and why, by the record alone, it cannot leave."""

    instance: Instance
    study: Study
    label: str = ""
    stays_because: str | None = None


def candidates(
    session: Session,
    study_uids: Sequence[str],
    *,
    first_day: str = "",
    last_day: str = "",
    labelled: bool = False,
) -> list[Candidate]:
    """All objects of these studies, or of all when none is named, by patient and study; phantoms stay out.

    Days are Study Dates, YYYYMMDD; a study without one lies on no day. With `labelled` come only images that
    have a label.
    """
    labels = {each.instance.uid: each.label for each in labelled_images(session)}
    wanted = select(Instance, Study).join(Study, Study.study_uid == Instance.study_uid).where(~Study.phantom)
    if study_uids:
        wanted = wanted.where(Study.study_uid.in_(study_uids))
    if first_day:
        wanted = wanted.where(Study.study_date >= first_day)
    if last_day:
        wanted = wanted.where(Study.study_date <= last_day, Study.study_date != "")
    ordered = wanted.order_by(Study.patient_id, Study.study_uid, Instance.uid)
    return [
        Candidate(instance, study, labels.get(instance.uid, ""), _why_it_stays(instance))
        for instance, study in session.execute(ordered)
        if not labelled or instance.uid in labels
    ]


def _why_it_stays(instance: Instance) -> str | None:
    if instance.role is Role.OURS:
        return "it is a report or heat map of ours"
    if instance.role is Role.OTHER:
        return "it is no image"
    if instance.removed_at is not None:
        return "its file was removed because of its age"
    return instance.not_assessed_because
