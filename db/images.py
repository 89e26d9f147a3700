"""Which images are meant by what people write: UIDs, studies, accession numbers."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from db.chunks import chunks
from db.tables import Instance, Role, Study


@dataclass(frozen=True)
class Image:
    """An image that was sent to be read."""

    uid: str
    study_uid: str
    is_assessed: bool
    """Whether it is one that networks read; what a network says of it plays no part."""
    is_phantom: bool


def known(session: Session, uids: Collection[str]) -> list[Image]:
    """Those of these that are images here, by UID."""
    return [each for some in chunks(uids) for each in _images(session, Instance.uid.in_(some))]


def of_studies(session: Session, study_uids: Collection[str]) -> list[Image]:
    """The images of these studies, by UID in each of some hundred studies."""
    return [each for some in chunks(study_uids) for each in _images(session, Instance.study_uid.in_(some))]


def studies(session: Session, study_uids: Collection[str]) -> set[str]:
    """Those of these that are studies here."""
    found: set[str] = set()
    for some in chunks(study_uids):
        found |= set(session.scalars(select(Study.study_uid).where(Study.study_uid.in_(some))))
    return found


def of_accessions(session: Session, accessions: Collection[str]) -> dict[str, list[str]]:
    """Accession Number -> the studies that bear it, sorted."""
    found: dict[str, list[str]] = {}
    for some in chunks(accessions):
        query = select(Study.accession_number, Study.study_uid).where(Study.accession_number.in_(some))
        for accession, study_uid in session.execute(query.order_by(Study.study_uid)):
            found.setdefault(accession, []).append(study_uid)
    return found


def _images(session: Session, wanted: ColumnElement[bool]) -> Iterator[Image]:
    query = (
        select(
            Instance.uid,
            Instance.study_uid,
            Instance.prepared_path,
            Instance.not_assessed_because,
            Study.phantom,
        )
        .join(Study, Study.study_uid == Instance.study_uid)
        .where(wanted, Instance.role == Role.IMAGE)
    )
    for uid, study_uid, prepared_path, because, phantom in session.execute(query.order_by(Instance.uid)):
        yield Image(uid, study_uid, bool(prepared_path) and because is None, phantom)
