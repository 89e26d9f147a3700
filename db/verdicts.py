"""What people said of images."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from db.tables import Instance, Role, Study, Verdict


@dataclass(frozen=True)
class Labelled:
    """An assessed image, and the label that people gave it or its study."""

    instance: Instance
    study: Study
    label: str


def labelled_images(session: Session) -> list[Labelled]:
    """The assessed images of all studies that have a verdict, by SOP Instance UID; phantoms stay out.

    So do images whose files were removed. A verdict that another one supersedes does not count. An image's
    own latest verdict stands; an image of which nobody spoke has the label that its study was given last.
    """
    of_image, of_study = _standing(session)
    assessed = (
        select(Instance, Study)
        .join(Study, Study.study_uid == Instance.study_uid)
        .where(
            Study.study_uid.in_(select(Instance.study_uid).join(Verdict, Verdict.uid == Instance.uid)),
            Instance.role == Role.IMAGE,
            Instance.prepared_path != "",
            Instance.removed_at.is_(None),
            Instance.not_assessed_because.is_(None),
            ~Study.phantom,
        )
    )
    return [
        Labelled(instance, study, of_image.get(instance.uid, of_study[study.study_uid]))
        for instance, study in session.execute(assessed.order_by(Instance.uid))
        if study.study_uid in of_study
    ]


def _standing(session: Session) -> tuple[dict[str, str], dict[str, str]]:
    """SOP Instance UID -> its label, and Study Instance UID -> the label it was given last."""
    later = aliased(Verdict)
    superseded = select(later.id).where(later.supersedes == Verdict.id).exists()
    standing = select(Verdict, Instance.study_uid).join(Instance, Instance.uid == Verdict.uid)
    of_image: dict[str, str] = {}
    of_study: dict[str, str] = {}
    for verdict, study_uid in session.execute(standing.where(~superseded).order_by(Verdict.id)):
        of_image[verdict.uid] = of_study[study_uid] = verdict.label
    return of_image, of_study
