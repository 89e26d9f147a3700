"""What people said of images: added, superseded, standing, and what of it can be trained on.

A person's verdict on an image stands until the same person says another one of it. Where people's standing
verdicts on an image differ, nobody is taken at their word: the image has no label until they agree.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Row, ScalarSelect, Select, func, select
from sqlalchemy.orm import Session, aliased

from db import jobs
from db.chunks import AT_ONCE, chunks
from db.tables import Instance, Report, ReportObject, Role, Study, Verdict
from hilum.labels import REJECTED, VERDICTS
from hilum.queue import VERDICT

FILE_REMOVED = "file removed"
NOT_ASSESSED = "not assessed"
READERS_DISAGREE = "readers disagree"
IS_REJECTED = "rejected"

NAMES_UNKNOWN = "it names no image of ours, or one that is not here yet"
"""Why an object brought no verdict, or not all: when images come, it is heard again."""


@dataclass(frozen=True)
class Said:
    """A person's word on an image, before it is a verdict; see `add`."""

    uid: str
    label: str
    author: str
    source: str
    comment: str = ""
    origin: str | None = None
    said_at: datetime | None = None


@dataclass(frozen=True)
class Labelled:
    """An image that people spoke of, and its label, when they agree on one."""

    instance: Instance
    study: Study
    label: str
    """One of `hilum.labels.VERDICTS`; empty when they do not agree."""
    authors: tuple[str, ...]
    """Whose verdicts stand, sorted."""
    created_at: datetime
    """When the last of the standing verdicts came here."""
    left_out_because: str | None
    """Why it is nothing to train on; None when it is."""


def add(
    session: Session,
    uid: str,
    label: str,
    author: str,
    source: str,
    comment: str = "",
    origin: str | None = None,
    said_at: datetime | None = None,
) -> Verdict:
    """Write down a person's verdict on an image, which supersedes the one of theirs that stands.

    Nothing changes when this `origin` has brought one on the image before, or when the author's standing
    verdict was said later. Returned is then the verdict that is there, otherwise the new one. The study's row
    is locked, so that two verdicts of one person at the same time follow each other.
    """
    [verdict] = add_all(session, [Said(uid, label, author, source, comment, origin, said_at)])
    return verdict


def add_all(session: Session, said: Sequence[Said]) -> list[Verdict]:
    """Likewise, for many at once and in their order: some queries for each 500 images, and none for each.

    Raises ValueError for a label that nobody can say.
    """
    for each in said:
        if each.label not in VERDICTS:
            raise ValueError(f"{each.label!r} is none of {', '.join(VERDICTS)}")
    uids = {each.uid for each in said}
    _lock(session, uids)
    brought_before = _verdicts_brought(session, {each.uid for each in said if each.origin is not None})
    standing = {(verdict.uid, verdict.author): verdict for verdict in standing_on(session, uids)}
    added: list[Verdict] = []
    for each in said:
        before = standing.get((each.uid, each.author))
        known = brought_before.get((each.uid, each.origin or ""))
        if known is None and before is not None and _is_outdated(each, before):
            known = before
        if known is None:
            known = _new(session, each, before)
            standing[each.uid, each.author] = known
            if each.origin is not None:
                brought_before[each.uid, each.origin] = known
        added.append(known)
        if len(session.new) >= AT_ONCE:  # PostgreSQL ends a transaction that is silent for long
            session.flush()
    session.flush()
    return added


def said_at(verdict: Verdict) -> datetime:
    """When the person said so, as far as it is known."""
    return verdict.said_at or verdict.created_at


def standing(session: Session, study_uid: str) -> list[Verdict]:
    """The verdicts that stand on a study's images, by image, the oldest first."""
    of_study = _standing().join(Instance, Instance.uid == Verdict.uid).where(Instance.study_uid == study_uid)
    return list(session.scalars(of_study.order_by(Verdict.uid, Verdict.id)))


def standing_on(session: Session, uids: Collection[str]) -> Iterator[Verdict]:
    """The verdicts that stand on these images, by image, the oldest first."""
    for some in chunks(uids):
        yield from session.scalars(_standing().where(Verdict.uid.in_(some)).order_by(Verdict.uid, Verdict.id))


def all_standing(session: Session) -> Iterator[tuple[Verdict, str]]:
    """Every verdict that stands, with its Study Instance UID, by image; of phantoms none."""
    joined = _standing(Verdict, Instance.study_uid).join(Instance, Instance.uid == Verdict.uid)
    real = joined.join(Study, Study.study_uid == Instance.study_uid).where(~Study.phantom)
    ordered = real.order_by(Verdict.uid, Verdict.id)
    for row in session.execute(ordered, execution_options={"yield_per": 1000}):
        yield row[0], row[1]


def history(session: Session, study_uid: str) -> list[Verdict]:
    """All that was ever said of a study's images, by image, the oldest first."""
    of_study = select(Verdict).join(Instance, Instance.uid == Verdict.uid)
    ordered = of_study.where(Instance.study_uid == study_uid).order_by(Verdict.uid, Verdict.id)
    return list(session.scalars(ordered))


def brought(session: Session, uids: Collection[str], origin: str) -> set[str]:
    """Those of these images on which this origin has brought a verdict."""
    found: set[str] = set()
    for some in chunks(uids):
        query = select(Verdict.uid).where(Verdict.uid.in_(some), Verdict.origin == origin)
        found |= set(session.scalars(query))
    return found


def hear_again(session: Session, study_uid: str) -> list[str]:
    """Want another look at a study's objects that spoke of images which were not here; return their UIDs."""
    unheard = select(Instance.uid).where(
        Instance.study_uid == study_uid, Instance.no_verdict_because == NAMES_UNKNOWN
    )
    uids = list(session.scalars(unheard.order_by(Instance.uid)))
    return [uid for uid in uids if jobs.want(session, VERDICT, uid, study_uid=study_uid)]


def report_files(session: Session, uids: Collection[str]) -> dict[str, str]:
    """Of these UIDs, those of objects of our own reports -> their files, as far as they are here."""
    found: dict[str, str] = {}
    for some in chunks(uids):
        query = (
            select(ReportObject.uid, ReportObject.path)
            .join(Report)
            .where(ReportObject.uid.in_(some), Report.removed_at.is_(None))
        )
        found |= {row[0]: row[1] for row in session.execute(query)}
    return found


def disagree(standing_on_one: Iterable[Verdict]) -> bool:
    """Whether people whose verdicts stand on one image say different things of it."""
    return len({verdict.label for verdict in standing_on_one}) > 1


def new_since(session: Session, moment: datetime | None) -> list[Verdict]:
    """The standing verdicts that came after a moment, or all of them, the oldest first; of phantoms none."""
    return list(session.scalars(_new_since(_standing(), moment).order_by(Verdict.id)))


def count_new_since(session: Session, moment: datetime | None) -> int:
    """On how many images there are such verdicts; quick enough to be asked every few minutes."""
    counted = _new_since(_standing(func.count(Verdict.uid.distinct())), moment)
    return session.scalar(counted) or 0


def labelled(session: Session) -> Iterator[Labelled]:
    """Every image that people spoke of, by SOP Instance UID; phantoms stay out.

    Those with a `left_out_because` of None are assessed, their files are there and people agree on one of
    the network's classes.
    """
    rows = _standing(Verdict.uid, Verdict.label, Verdict.author, Verdict.created_at, Instance, Study)
    joined = rows.join(Instance, Instance.uid == Verdict.uid).join(
        Study, Study.study_uid == Instance.study_uid
    )
    ordered = joined.where(~Study.phantom).order_by(Verdict.uid, Verdict.id)
    streamed = session.execute(ordered, execution_options={"yield_per": 1000})
    for _, of_image in groupby(streamed, key=lambda row: row.uid):
        yield _labelled(list(of_image))


def labelled_images(session: Session) -> list[Labelled]:
    """The images that can be trained on, by SOP Instance UID; see `labelled`."""
    return [each for each in labelled(session) if each.left_out_because is None]


def agreed_label() -> ScalarSelect[str]:
    """For a query of Instance: the class that all whose verdicts on it stand agree on; NULL without one."""
    said = _standing(func.min(Verdict.label)).where(Verdict.uid == Instance.uid).correlate(Instance)
    agreed = func.min(Verdict.label) == func.max(Verdict.label)
    return said.having(agreed, func.min(Verdict.label) != REJECTED).scalar_subquery()


def _labelled(rows: Sequence[Row[Any]]) -> Labelled:
    instance, study = rows[0].Instance, rows[0].Study
    labels = {row.label for row in rows}
    label = labels.pop() if len(labels) == 1 else ""
    return Labelled(
        instance,
        study,
        label,
        authors=tuple(sorted({row.author for row in rows})),
        created_at=max(row.created_at for row in rows),
        left_out_because=_why_left_out(instance, label),
    )


def _why_left_out(instance: Instance, label: str) -> str | None:
    if not label:
        return READERS_DISAGREE
    if label == REJECTED:
        return IS_REJECTED
    if instance.removed_at is not None:
        return FILE_REMOVED
    is_assessed = instance.prepared_path and instance.not_assessed_because is None
    return None if is_assessed and instance.role is Role.IMAGE else NOT_ASSESSED


def _standing(*wanted: Any) -> Select[Any]:
    """Of verdicts what is wanted, or all, and no verdict that another one supersedes."""
    later = aliased(Verdict)
    superseded = select(later.id).where(later.supersedes == Verdict.id).exists()
    return select(*(wanted or (Verdict,))).where(~superseded)


def _new_since(query: Select[Any], moment: datetime | None) -> Select[Any]:
    joined = query.join(Instance, Instance.uid == Verdict.uid).join(
        Study, Study.study_uid == Instance.study_uid
    )
    real = joined.where(~Study.phantom)
    return real if moment is None else real.where(Verdict.created_at > moment)


def _new(session: Session, said: Said, before: Verdict | None) -> Verdict:
    if before is not None and before.id is None:
        session.flush()  # one of the same batch, whose number is wanted
    verdict = Verdict(
        uid=said.uid,
        label=said.label,
        author=said.author,
        source=said.source,
        comment=said.comment,
        supersedes=None if before is None else before.id,
        origin=said.origin,
        said_at=said.said_at,
    )
    session.add(verdict)
    return verdict


def _is_outdated(said: Said, before: Verdict) -> bool:
    """Whether the author has said something later; what comes without a time is said now."""
    then: datetime | None = said_at(before)  # none yet of one of the same batch, which is said now
    return said.said_at is not None and (then is None or said.said_at < then)


def _verdicts_brought(session: Session, uids: Collection[str]) -> dict[tuple[str, str], Verdict]:
    """SOP Instance UID and origin -> the verdict that it brought."""
    found: dict[tuple[str, str], Verdict] = {}
    for some in chunks(uids):
        query = select(Verdict).where(Verdict.uid.in_(some), Verdict.origin.is_not(None))
        found |= {(verdict.uid, verdict.origin or ""): verdict for verdict in session.scalars(query)}
    return found


def _lock(session: Session, uids: Collection[str]) -> None:
    """As `jobs.lock_study`, the rows of all studies of these images, in an order that all keep to."""
    study_uids: set[str] = set()
    for some in chunks(uids):
        study_uids |= set(session.scalars(select(Instance.study_uid).where(Instance.uid.in_(some))))
    for some in chunks(study_uids):
        rows = select(Study.study_uid).where(Study.study_uid.in_(some)).order_by(Study.study_uid)
        session.execute(rows.with_for_update(key_share=True))
