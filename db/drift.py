"""What the images of each sender and view are like, against the first ones that came from there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, String, case, cast, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from db import alerts, audit, jobs
from db.clock import from_now
from db.tables import (
    Delivery,
    DeliveryState,
    DriftHold,
    DriftReference,
    Finding,
    Instance,
    Report,
    Role,
    Study,
    Verdict,
)
from db.upsert import insert
from hilum.labels import REJECTED
from hilum.queue import DELIVER

KIND = "drift"
"""Of alerts."""
OF_IMAGES = ""
"""The network's place in a reference of the images themselves."""
MOST_GROUPS = 200
"""Senders and views that are looked at, those with most images first: anybody may invent an AE title."""
_DAY_S = 86_400


@dataclass(frozen=True)
class Group:
    """The images that one sender sends of one view."""

    sender_ae: str
    view: str

    def __str__(self) -> str:
        return f"{self.sender_ae}, {self.view}" if self.view else self.sender_ae


@dataclass(frozen=True)
class Seen:
    """What is compared of one image."""

    finding_id: int
    statistics: Mapping[str, float]
    ood: float
    label: str
    confidence: float
    """The probability of the label."""


def groups(session: Session, network_digest: str, *, days: float) -> list[Group]:
    """Whose images the network read in the last so many days; phantoms are no images of anybody."""
    query = (
        _read(select(Instance.sender_ae, Instance.view), network_digest, days)
        .group_by(Instance.sender_ae, Instance.view)
        .order_by(func.count().desc(), Instance.sender_ae, Instance.view)
    )
    return [Group(row[0], row[1]) for row in session.execute(query.limit(MOST_GROUPS))]


def reference(session: Session, group: Group, network_digest: str) -> DriftReference:
    """What the group's images are compared with, locked; one without images when there is none yet."""
    key = {"sender_ae": group.sender_ae, "view": group.view, "network_digest": network_digest}
    statement = insert(session, DriftReference).values(**key, values={})
    session.execute(statement.on_conflict_do_nothing())
    return session.get_one(DriftReference, tuple(key.values()), with_for_update=True)


def first(
    session: Session, group: Group, network_digest: str, *, after: int, days: float, most: int
) -> list[Seen]:
    """What the network found in the group's images of these days, after a finding; the oldest first."""
    return _seen(session, group, network_digest, after, days, Finding.id.asc(), most)


def latest(
    session: Session, group: Group, network_digest: str, *, after: int, days: float, most: int
) -> list[Seen]:
    """Likewise; the newest first."""
    return _seen(session, group, network_digest, after, days, Finding.id.desc(), most)


def agreement(
    session: Session, group: Group, network_digest: str, *, days: float
) -> tuple[dict[bool, int], dict[bool, int]]:
    """How often people's standing verdicts agree with what the network found: before these days, and in them.

    Each is whether they agree -> how many verdicts; those that reject an image say nothing of the finding.
    """
    later = aliased(Verdict)
    superseded = select(later.id).where(later.supersedes == Verdict.id).exists()
    is_late = case((Verdict.created_at >= from_now(-days * _DAY_S), 1), else_=0).label("is_late")
    agrees = case((Verdict.label == Finding.label, 1), else_=0).label("agrees")
    query = (
        select(is_late, agrees, func.count())
        .select_from(Verdict)
        .join(Instance, Instance.uid == Verdict.uid)
        .join(Study, Study.study_uid == Instance.study_uid)
        .join(Finding, Finding.uid == Verdict.uid)
        .where(
            Finding.network_digest == network_digest,
            Finding.pixel_hash == Instance.pixel_hash,
            Finding.shadow.is_(False),
            Verdict.label != REJECTED,
            ~superseded,
            ~Study.phantom,
            *_of(group),
        )
        .group_by(is_late, agrees)
    )
    counted = {(bool(row[0]), bool(row[1])): int(row[2]) for row in session.execute(query)}
    before, now = (
        {agrees: counted.get((late, agrees), 0) for agrees in (True, False)} for late in (False, True)
    )
    return before, now


def references(session: Session) -> list[DriftReference]:
    """All there is, by sender and view."""
    order = (DriftReference.sender_ae, DriftReference.view, DriftReference.network_digest)
    return list(session.scalars(select(DriftReference).order_by(*order)))


def hold(session: Session, sender_ae: str, because: str) -> bool:
    """Hold a sender's results back; False when they are."""
    statement = insert(session, DriftHold).values(sender_ae=sender_ae, because=because)
    return session.scalar(statement.on_conflict_do_nothing().returning(DriftHold.sender_ae)) is not None


def holds(session: Session) -> list[DriftHold]:
    """The senders whose results are held back."""
    return list(session.scalars(select(DriftHold).order_by(DriftHold.sender_ae)))


def held_because(session: Session, study_uid: str) -> str | None:
    """Why a study's results are held back: one of its images is of a sender on hold; None when none is."""
    query = (
        select(DriftHold)
        .join(Instance, Instance.sender_ae == DriftHold.sender_ae)
        .join(Study, Study.study_uid == Instance.study_uid)
        .where(Instance.study_uid == study_uid, Instance.role == Role.IMAGE, ~Study.phantom)
        .limit(1)
    )
    hold = session.scalars(query).one_or_none()
    if hold is None:
        return None
    return (
        f"held back since {hold.since.astimezone():%Y-%m-%d %H:%M}: {hold.because}; "
        f"`hilum drift accept {hold.sender_ae}` lets it go"
    )


def held_studies(session: Session) -> dict[str, int]:
    """Sender on hold -> how many of its studies have a report that waits."""
    query = (
        select(Instance.sender_ae, func.count(Instance.study_uid.distinct()))
        .join(DriftHold, DriftHold.sender_ae == Instance.sender_ae)
        .join(Report, Report.study_uid == Instance.study_uid)
        .join(Delivery, Delivery.report_id == Report.id)
        .where(Delivery.state == DeliveryState.WAITING, Instance.role == Role.IMAGE)
        .group_by(Instance.sender_ae)
    )
    return {row[0]: int(row[1]) for row in session.execute(query)}


def accept(
    session: Session, sender_ae: str, *, actor: str, because: str, as_before: bool = False
) -> list[tuple[str, str, bool]]:
    """End a sender's alerts and hold; return (kind, subject, urgent) of what may go now, to ring for.

    What comes from now on is what later images are compared with; the first images stay that `as_before`.
    """
    for each in references(session):
        if each.sender_ae == sender_ae:
            alerts.end(session, KIND, str(Group(each.sender_ae, each.view)))
    if not as_before:
        last = session.scalar(select(func.max(Finding.id))) or 0
        anew: dict[str, Any] = {"images": 0, "values": {}, "until_finding": last, "compared": None}
        mine = update(DriftReference).where(DriftReference.sender_ae == sender_ae)
        session.execute(mine.values(**anew))
    audit.note(
        session,
        actor=actor,
        action="accept drift",
        detail=f"{sender_ae}{', as before' if as_before else ''}: {because}",
    )
    ended = session.execute(delete(DriftHold).where(DriftHold.sender_ae == sender_ae))
    if not ended.rowcount:  # type: ignore[attr-defined]
        return []
    return jobs.hurry(session, DELIVER, _waiting_of(sender_ae))


def _waiting_of(sender_ae: str) -> Select[str]:
    """The subjects of the work for what destinations have not got yet of a sender's studies."""
    sent = select(Instance.study_uid).where(Instance.sender_ae == sender_ae, Instance.role == Role.IMAGE)
    return (
        select(cast(Delivery.id, String))
        .join(Report, Report.id == Delivery.report_id)
        .where(Delivery.state == DeliveryState.WAITING, Report.study_uid.in_(sent))
    )


def _read(query: Any, network_digest: str, days: float) -> Any:
    """Findings of a network in images that came in the last so many days."""
    return (
        query.select_from(Study)
        .join(Instance, Instance.study_uid == Study.study_uid)
        .join(Finding, Finding.uid == Instance.uid)
        .where(
            Study.last_received_at >= from_now(-days * _DAY_S),  # which has an index
            Instance.received_at >= from_now(-days * _DAY_S),
            Finding.pixel_hash == Instance.pixel_hash,
            Finding.network_digest == network_digest,
            Finding.shadow.is_(False),
            ~Study.phantom,
        )
    )


def _of(group: Group) -> Sequence[ColumnElement[bool]]:
    return Instance.sender_ae == group.sender_ae, Instance.view == group.view


def _seen(
    session: Session,
    group: Group,
    network_digest: str,
    after: int,
    days: float,
    order: ColumnElement[int],
    most: int,
) -> list[Seen]:
    columns = (Finding.id, Finding.statistics, Finding.ood, Finding.label, Finding.probabilities)
    query = _read(select(*columns), network_digest, days).where(Finding.id > after, *_of(group))
    rows = session.execute(query.order_by(order).limit(most))
    return [
        Seen(row.id, row.statistics or {}, row.ood, row.label, float(row.probabilities.get(row.label, 0)))
        for row in rows
    ]
