"""What each network has read of patients: how much, how it agrees with another, and what is read anew."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, case, func, not_, or_, select
from sqlalchemy.orm import Session, aliased

from db import jobs
from db.networks import Action
from db.tables import (
    Delivery,
    DeliveryState,
    Finding,
    Instance,
    Job,
    JobState,
    NetworkChange,
    Report,
    Study,
)
from hilum.queue import CLASSIFY, PREPARE
from hilum.strangeness import LIMIT

NOT_ASSESSED = "not assessed"
"""What stands for a label where a network took an image for no frontal chest radiograph."""


@dataclass(frozen=True)
class Share:
    """Of so many images, how many both networks say the same of."""

    images: int = 0
    same: int = 0

    def __add__(self, other: "Share") -> "Share":
        return Share(self.images + other.images, self.same + other.same)


@dataclass(frozen=True)
class Agreement:
    """How a shadow agrees with the champion, on images that both have read."""

    all: Share = Share()
    by_label: dict[str, Share] = field(default_factory=dict)
    """The champion's label -> on how many of these the shadow agrees."""
    by_sender: dict[str, Share] = field(default_factory=dict)
    pairs: dict[tuple[str, str], int] = field(default_factory=dict)
    """(what the champion says, what the shadow says) -> images."""


@dataclass(frozen=True)
class StudyRead:
    """A study that a network has read."""

    study: Study
    read_at: datetime
    """When it read the first image of it."""
    labels: tuple[str, ...]
    """What it found, of each image."""
    stands: bool
    """Whether no other network has read it since."""


@dataclass(frozen=True)
class Progress:
    """How far the studies of a recalled network are read anew."""

    studies: int
    """That it read and whose findings were to be reported."""
    read_anew: int
    lost: int
    """That cannot be read anew, since their files were removed because of their age."""
    changed: int
    """Of those read anew, in how many the other network finds something else of an image."""
    superseding: int
    """Reports that were made of them since."""
    delivered: int
    """Deliveries of these reports that are final."""


def counts(session: Session) -> dict[str, int]:
    """Digest -> how many studies of patients a network has read, a shadow's reading left out."""
    rows = session.execute(
        select(Finding.network_digest, func.count(func.distinct(Instance.study_uid)))
        .join(Instance, Instance.uid == Finding.uid)
        .join(Study, Study.study_uid == Instance.study_uid)
        .where(Finding.shadow.is_(False), Study.phantom.is_(False))
        .group_by(Finding.network_digest)
    )
    return {row[0]: row[1] for row in rows}


def agreement(session: Session, digest: str) -> Agreement:
    """How this network, as a shadow, agrees with what was reported of the same images; no phantoms."""
    beside, reported = aliased(Finding), aliased(Finding)
    same_pixels = and_(reported.uid == beside.uid, reported.pixel_hash == beside.pixel_hash)
    says, beside_says = _said(reported), _said(beside)
    rows = session.execute(
        select(says, beside_says, Instance.sender_ae, func.count())
        .select_from(beside)
        .join(reported, same_pixels)
        .join(Instance, and_(Instance.uid == beside.uid, Instance.pixel_hash == beside.pixel_hash))
        .join(Study, Study.study_uid == Instance.study_uid)
        .where(
            beside.network_digest == digest,
            beside.shadow.is_(True),
            _is_newest(reported),
            Study.phantom.is_(False),
        )
        .group_by(says, beside_says, Instance.sender_ae)
    )
    return _agreement([(row[0], row[1], row[2], row[3]) for row in rows])


def of_network(session: Session, digest: str, *, after: str = "", most: int = 1000) -> list[StudyRead]:
    """Some of the studies of patients that a network has read, a shadow's reading left out.

    By their Study Instance UIDs, those after the one given: they may be too many for one transaction.
    """
    query = select(Study.study_uid).where(_read_by(digest), Study.study_uid > after)
    return _read(session, digest, list(session.scalars(query.order_by(Study.study_uid).limit(most))))


def want_anew(
    session: Session, digest: str, *, after: str, most: int, due_in_s: float, per_s: float
) -> list[str]:
    """Have some studies read again that no network has read since this one; their UIDs, in order.

    They become due one after the other, so that what arrives meanwhile is read between them. What is on its
    way to be read already stays as it is. Nothing is returned when there are none after that UID.
    """
    waits = select(Job.id).where(
        Job.study_uid == Study.study_uid, Job.kind.in_([PREPARE, CLASSIFY]), Job.state == JobState.WAITING
    )
    query = (
        select(Study.study_uid)
        .where(*_stands(digest), Study.study_uid > after, Study.files_removed_at.is_(None), ~waits.exists())
        .order_by(Study.study_uid)
        .limit(most)
    )
    found = list(session.scalars(query))
    for number, study_uid in enumerate(found):
        jobs.lock_study(session, study_uid)
        if session.scalar(waits.where(Study.study_uid == study_uid).limit(1)) is None:
            jobs.want(session, PREPARE, study_uid, study_uid=study_uid, due_in_s=due_in_s + number / per_s)
    return found


def progress(session: Session, digest: str) -> Progress:
    """How far the studies that a recalled network read are read by another."""
    theirs = _read_by(digest)
    standing = session.scalar(select(func.count()).select_from(Study).where(*_stands(digest))) or 0
    lost = (
        select(func.count()).select_from(Study).where(*_stands(digest), Study.files_removed_at.is_not(None))
    )
    studies = session.scalar(select(func.count()).select_from(Study).where(theirs)) or 0
    since = select(func.max(NetworkChange.at)).where(
        NetworkChange.digest == digest, NetworkChange.action == Action.RECALLED.value
    )
    made = (Report.revision > 1, Report.created_at >= since.scalar_subquery())
    superseding = select(func.count()).select_from(Report).join(Study).where(theirs, *made)
    delivered = (
        select(func.count())
        .select_from(Delivery)
        .join(Report)
        .join(Study)
        .where(theirs, *made, Delivery.state == DeliveryState.FINAL)
    )
    return Progress(
        studies=studies,
        read_anew=studies - standing,
        lost=session.scalar(lost) or 0,
        changed=session.scalar(_changed(digest)) or 0,
        superseding=session.scalar(superseding) or 0,
        delivered=session.scalar(delivered) or 0,
    )


def _said(finding: type[Finding]) -> ColumnElement[str]:
    return case((finding.ood > LIMIT, NOT_ASSESSED), else_=finding.label)


def _is_newest(finding: type[Finding]) -> ColumnElement[bool]:
    """Whether it is what was found last of an image, a shadow's left out."""
    newer = aliased(Finding)
    is_newer = select(newer.id).where(
        newer.uid == finding.uid,
        newer.pixel_hash == finding.pixel_hash,
        newer.shadow.is_(False),
        newer.id > finding.id,
    )
    return and_(finding.shadow.is_(False), ~is_newer.exists())


def _agreement(rows: list[tuple[str, str, str, int]]) -> Agreement:
    by_label: dict[str, Share] = {}
    by_sender: dict[str, Share] = {}
    pairs: Counter[tuple[str, str]] = Counter()
    for says, beside_says, sender, count in rows:
        share = Share(count, count if says == beside_says else 0)
        by_label[says] = by_label.get(says, Share()) + share
        by_sender[sender] = by_sender.get(sender, Share()) + share
        pairs[says, beside_says] += count
    return Agreement(sum(by_label.values(), Share()), by_label, by_sender, dict(pairs))


def _read_by(digest: str) -> ColumnElement[bool]:
    """Whether a network has read a patient's study, and not as a shadow."""
    return and_(Study.phantom.is_(False), _findings().where(Finding.network_digest == digest).exists())


def _findings() -> Select[int]:
    """The findings of a study's images as they are, a shadow's left out."""
    return (
        select(Finding.id)
        .join(Instance, and_(Instance.uid == Finding.uid, Instance.pixel_hash == Finding.pixel_hash))
        .where(Instance.study_uid == Study.study_uid, Finding.shadow.is_(False))
        .correlate(Study)
    )


def _stands(digest: str) -> tuple[ColumnElement[bool], ...]:
    """Whether what this network found of a study is what was found last."""
    newest = _findings().order_by(Finding.id.desc()).limit(1).scalar_subquery()
    by_it = select(Finding.id).where(Finding.id == newest, Finding.network_digest == digest)
    return _read_by(digest), by_it.exists()


def _changed(digest: str) -> Select[int]:
    """How many studies another network, which read them last, says something else of."""
    was, stands = aliased(Finding), aliased(Finding)
    same_image = and_(stands.uid == was.uid, stands.pixel_hash == was.pixel_hash)
    return (
        select(func.count(func.distinct(Instance.study_uid)))
        .select_from(was)
        .join(stands, same_image)
        .join(Instance, and_(Instance.uid == was.uid, Instance.pixel_hash == was.pixel_hash))
        .join(Study, Study.study_uid == Instance.study_uid)
        .where(
            was.network_digest == digest,
            was.shadow.is_(False),
            _is_newest(stands),
            or_(was.label != stands.label, (was.ood > LIMIT) != (stands.ood > LIMIT)),
            not_(and_(was.ood > LIMIT, stands.ood > LIMIT)),
        )
    )


def _read(session: Session, digest: str, study_uids: list[str]) -> list[StudyRead]:
    standing = set(
        session.scalars(select(Study.study_uid).where(Study.study_uid.in_(study_uids), *_stands(digest)))
    )
    rows = session.execute(
        select(Study, Finding.created_at, _said(Finding))
        .join(Instance, Instance.study_uid == Study.study_uid)
        .join(Finding, and_(Finding.uid == Instance.uid, Finding.pixel_hash == Instance.pixel_hash))
        .where(Study.study_uid.in_(study_uids), Finding.network_digest == digest, Finding.shadow.is_(False))
        .order_by(Study.study_uid, Instance.uid)
    )
    found: dict[str, StudyRead] = {}
    for study, read_at, label in rows:
        former = found.get(study.study_uid)
        first = min(read_at, former.read_at) if former else read_at
        labels = (*(former.labels if former else ()), label)
        found[study.study_uid] = StudyRead(study, first, labels, study.study_uid in standing)
    return list(found.values())
