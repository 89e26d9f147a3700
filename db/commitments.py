"""Storage commitment: what we asked of destinations and how far they are, and what senders asked of us."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from pydicom.uid import generate_uid
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import jobs
from db.chunks import AT_ONCE, chunks
from db.clock import from_now, now
from db.tables import Commitment, CommitmentRequest, Delivery, Instance, Job, JobState, Variant
from db.upsert import insert
from hilum.commitment import Report, Request
from hilum.queue import COMMIT, DELIVER


@dataclass(frozen=True)
class Standing:
    """How far a destination has committed itself to the objects of a delivery."""

    outstanding: frozenset[str]
    """UIDs of the objects that it has not committed itself to."""
    failed: Mapping[str, int]
    """Of these, the ones that its newest answer refuses, with the Failure Reason."""
    answers: int
    """How often it has answered."""
    unanswered: int
    """How many requests it has taken since its newest answer."""
    asked_for_s: float | None
    """Seconds since it took the newest request; None when nothing is awaited."""
    answered_for_s: float | None
    """Seconds since its newest answer; None when it was asked again after it, or never answered."""


def keep(session: Session, delivery_id: int) -> str:
    """Write down a new transaction, which must be committed before the destination is asked; its UID."""
    transaction_uid = generate_uid(prefix=None)  # 2.25 and a random UUID: nobody can guess it
    session.add(Commitment(transaction_uid=transaction_uid, delivery_id=delivery_id))
    session.flush()
    return transaction_uid


def note_asked(session: Session, transaction_uid: str) -> None:
    """Write down that the destination has taken the request."""
    of = Commitment.transaction_uid == transaction_uid
    session.execute(update(Commitment).where(of).values(asked_at=now()))


def answer(
    session: Session, report: Report, *, destinations: Collection[str]
) -> list[tuple[str, str, bool]] | None:
    """Write down a report of one of these destinations; return (kind, subject, urgent) to ring.

    None when its transaction is not known, or was asked of another destination: nothing changes then.
    A transaction that is answered stays as it is.
    """
    found = session.execute(
        select(Commitment, Delivery)
        .join(Delivery, Commitment.delivery_id == Delivery.id)
        .where(Commitment.transaction_uid == report.transaction_uid, Delivery.destination.in_(destinations))
    ).one_or_none()
    if found is None:
        return None
    asked, delivery = found
    jobs.lock_study(session, delivery.report.study_uid)  # else who is about to wait would not see it
    session.refresh(asked)
    if asked.answered_at is not None:
        return []
    session.execute(
        update(Commitment)
        .where(Commitment.id == asked.id)
        .values(
            answered_at=now(),
            committed=sorted(report.committed),
            failed={uid: reason for uid, (_, reason) in report.failed.items()},
        )
    )
    return jobs.hurry(session, DELIVER, [str(delivery.id)])


def standing(session: Session, delivery: Delivery) -> Standing:
    """How far this delivery's destination has come."""
    query = select(Commitment).where(Commitment.delivery_id == delivery.id).order_by(Commitment.id)
    asked = session.scalars(query.execution_options(populate_existing=True)).all()
    present = session.scalars(select(now().label("now"))).one()
    outstanding = {each.uid for each in delivery.report.objects}
    outstanding.difference_update(*(each.committed for each in asked))
    answered = [(each.answered_at, each) for each in asked if each.answered_at is not None]
    answered_at, last = max(answered, key=lambda each: each[0], default=(None, None))
    if answered_at is None or last is None or answered_at < asked[-1].kept_at:
        asked_at = asked[-1].asked_at if asked else None
        taken = [each for each in asked if each.asked_at and (not answered_at or each.kept_at > answered_at)]
        return Standing(
            frozenset(outstanding),
            failed={},
            answers=len(answered),
            unanswered=len(taken),
            asked_for_s=None if asked_at is None else (present - asked_at).total_seconds(),
            answered_for_s=None,
        )
    return Standing(
        frozenset(outstanding),
        failed={uid: reason for uid, reason in last.failed.items() if uid in outstanding},
        answers=len(answered),
        unanswered=0,
        asked_for_s=None,
        answered_for_s=(present - answered_at).total_seconds(),
    )


def request(session: Session, sender_ae: str, asked: Request) -> str | None:
    """Write down a sender's request and the work of answering it; the work's subject, to ring.

    None when the sender has used this transaction UID for other objects. The same request once more is
    answered once more.
    """
    statement = insert(session, CommitmentRequest).values(
        sender_ae=sender_ae, transaction_uid=asked.transaction_uid, objects=dict(asked.objects)
    )
    session.execute(statement.on_conflict_do_nothing())
    row = session.scalars(
        select(CommitmentRequest).where(
            CommitmentRequest.sender_ae == sender_ae,
            CommitmentRequest.transaction_uid == asked.transaction_uid,
        )
    ).one()
    if row.objects != asked.objects:
        return None
    session.execute(update(CommitmentRequest).where(CommitmentRequest.id == row.id).values(asked_at=now()))
    jobs.want(session, COMMIT, str(row.id), study_uid=None)
    return str(row.id)


def requested(session: Session, request_id: int) -> tuple[CommitmentRequest, float]:
    """The request of this number, and how many seconds ago it came."""
    row = session.execute(
        select(CommitmentRequest, now().label("now")).where(CommitmentRequest.id == request_id)
    ).one()
    return row[0], (row[1] - row[0].asked_at).total_seconds()


def note_reported(session: Session, request_id: int) -> None:
    """Write down that the sender has taken our report."""
    of = CommitmentRequest.id == request_id
    session.execute(update(CommitmentRequest).where(of).values(reported_at=now()))


def forget_requests(session: Session, *, older_than_s: float) -> None:
    """Remove requests that came so long ago, and the work of answering them unless it still waits.

    Of the oldest, so many as no table must be searched for; there are more of these than come meanwhile.
    """
    first = select(CommitmentRequest.id).order_by(CommitmentRequest.id).limit(AT_ONCE)
    came_long_ago = CommitmentRequest.asked_at < from_now(-older_than_s)
    old = session.scalars(
        select(CommitmentRequest.id).where(CommitmentRequest.id.in_(first.scalar_subquery()), came_long_ago)
    ).all()
    over = (Job.kind == COMMIT, Job.subject.in_([str(each) for each in old]), Job.state != JobState.WAITING)
    ended = session.scalars(delete(Job).where(*over).returning(Job.subject)).all()
    gone = CommitmentRequest.id.in_([int(each) for each in ended])
    session.execute(delete(CommitmentRequest).where(gone))


def held(session: Session, uids: Collection[str]) -> dict[str, Instance]:
    """Those of these objects that we have received, by SOP Instance UID."""
    found = [session.scalars(select(Instance).where(Instance.uid.in_(some))).all() for some in chunks(uids)]
    return {each.uid: each for each in chain(*found)}


def aside(session: Session, uids: Collection[str]) -> Sequence[tuple[str, str]]:
    """(UID, path) of each file that was kept aside because these UIDs came with other pixels too."""
    query = select(Variant.uid, Variant.path)
    rows = [session.execute(query.where(Variant.uid.in_(some))).all() for some in chunks(uids)]
    return [(row[0], row[1]) for row in chain(*rows)]
