"""What may leave for training elsewhere: objects of patients, with what people said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from db.tables import Instance, Role, Study
from db.verdicts import agreed_label


@dataclass(frozen=True)
class Candidate:
    """An object of a study, the label that people gave it, and why, by the record alone, it cannot leave."""

    instance: Instance
    study: Study
    label: str = ""
    stays_because: str | None = None


@dataclass(frozen=True)
class Choice:
    """Which objects: of these studies, or of all when none is named; phantoms stay out."""

    study_uids: Sequence[str] = ()
    first_day: str = ""
    last_day: str = ""
    """Study Dates, YYYYMMDD; a study without one lies on no day."""
    labelled: bool = False
    """Only images that have a label."""


def count(session: Session, choice: Choice) -> int:
    """How many objects a choice takes in."""
    chosen = select(func.count()).select_from(Instance).join(Study, Study.study_uid == Instance.study_uid)
    return session.scalar(chosen.where(*_is_chosen(choice))) or 0


def page(session: Session, choice: Choice, *, after: str, most: int) -> list[Candidate]:
    """The objects of a choice that come next after a SOP Instance UID, in the order of these."""
    chosen = select(Instance, Study, agreed_label()).join(Study, Study.study_uid == Instance.study_uid)
    wanted = chosen.where(*_is_chosen(choice), Instance.uid > after)
    return [
        Candidate(instance, study, said or "", _why_it_stays(instance))
        for instance, study, said in session.execute(wanted.order_by(Instance.uid).limit(most))
    ]


def _is_chosen(choice: Choice) -> list[ColumnElement[bool]]:
    wanted = [~Study.phantom]
    if choice.study_uids:
        wanted.append(Study.study_uid.in_(choice.study_uids))
    if choice.first_day:
        wanted.append(Study.study_date >= choice.first_day)
    if choice.last_day:
        wanted += [Study.study_date <= choice.last_day, Study.study_date != ""]
    if choice.labelled:
        wanted.append(agreed_label().is_not(None))
    return wanted


def _why_it_stays(instance: Instance) -> str | None:
    if instance.role is Role.OURS:
        return "it is a report or heat map of ours"
    if instance.role is Role.OTHER:
        return "it is no image"
    if instance.removed_at is not None:
        return "its file was removed because of its age"
    return instance.not_assessed_because
