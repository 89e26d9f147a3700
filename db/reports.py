"""What was reported, revision by revision, and where each report has got to."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, String, cast, func, select, update
from sqlalchemy.orm import Session

from db.clock import from_now, now
from db.jobs import lock_study
from db.studies import reach
from db.tables import Circuit, Delivery, DeliveryState, ObjectKind, Report, ReportObject, StudyState
from db.upsert import insert


@dataclass(frozen=True)
class Rendered:
    """One object of a report, as it lies in the store."""

    uid: str
    kind: ObjectKind
    series_uid: str
    sop_class_uid: str
    path: str


def latest(session: Session, study_uid: str) -> Report | None:
    """The study's newest report, or None."""
    query = select(Report).where(Report.study_uid == study_uid).order_by(Report.revision.desc()).limit(1)
    return session.scalars(query).one_or_none()


def add(
    session: Session, study_uid: str, *, revision: int, content_digest: str, objects: Sequence[Rendered]
) -> Report:
    """Keep a new revision."""
    report = Report(study_uid=study_uid, revision=revision, content_digest=content_digest)
    session.add(report)
    session.flush()
    for each in objects:
        session.add(
            ReportObject(
                uid=each.uid,
                report_id=report.id,
                kind=each.kind,
                series_uid=each.series_uid,
                sop_class_uid=each.sop_class_uid,
                path=each.path,
            )
        )
    session.flush()
    return report


def send_to(session: Session, report: Report, destination: str) -> Delivery:
    """Write down that a report is to go to a destination."""
    delivery = Delivery(report_id=report.id, destination=destination)
    session.add(delivery)
    session.flush()
    return delivery


def delivery(session: Session, delivery_id: int) -> Delivery:
    """The delivery of this number, with its report and objects."""
    return session.get_one(Delivery, delivery_id)


def of_study(session: Session, study_uid: str) -> list[Report]:
    """All reports of a study, the first revision first."""
    return list(
        session.scalars(select(Report).where(Report.study_uid == study_uid).order_by(Report.revision))
    )


def deliveries(session: Session, study_uid: str) -> list[Delivery]:
    """All deliveries of a study's reports, the oldest first."""
    query = select(Delivery).join(Report).where(Report.study_uid == study_uid).order_by(Delivery.id)
    return list(session.scalars(query))


def note_sent(session: Session, delivery_id: int) -> None:
    """Write down that every object was answered with Success."""
    _note_try(session, delivery_id, state=DeliveryState.SENT, sent_at=now(), error=None)


def note_try(session: Session, delivery_id: int, because: str) -> None:
    """Write down that the destination answers, and why the delivery is not final all the same."""
    _note_try(session, delivery_id, error=because)


def note_final(session: Session, delivery_id: int) -> None:
    """Write down that the destination has the report; the study is delivered when all have its newest."""
    report = session.get_one(Delivery, delivery_id).report
    lock_study(session, report.study_uid)  # else two destinations at once would each take the other for open
    session.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id)
        .values(state=DeliveryState.FINAL, final_at=now(), error=None)
    )
    if latest(session, report.study_uid) is report and reached(session, report) == StudyState.DELIVERED:
        reach(session, report.study_uid, StudyState.DELIVERED)


def note_error(session: Session, delivery_id: int, error: str, *, refused: bool = False) -> None:
    """Write down why a delivery has not succeeded, for good when it was refused."""
    values: dict[str, object] = {"error": error}
    if refused:
        values |= {"state": DeliveryState.REFUSED, "tries": 0}
    session.execute(update(Delivery).where(Delivery.id == delivery_id).values(**values))


def counts(session: Session) -> list[tuple[str, DeliveryState, int]]:
    """(destination, state, how many deliveries)."""
    rows = session.execute(
        select(Delivery.destination, Delivery.state, func.count())
        .group_by(Delivery.destination, Delivery.state)
        .order_by(Delivery.destination, Delivery.state)
    )
    return [(row[0], row[1], row[2]) for row in rows]


def waiting_at(destination: str) -> Select[str]:
    """The subjects of the work for what a destination has not got yet: a query, since it may be very many."""
    return select(cast(Delivery.id, String)).where(
        Delivery.destination == destination,
        Delivery.state.in_([DeliveryState.WAITING, DeliveryState.SENT]),
    )


def circuits(session: Session) -> list[Circuit]:
    """What is known of each destination that was ever away."""
    return list(session.scalars(select(Circuit).order_by(Circuit.destination)))


def open_for_s(session: Session, destination: str) -> float:
    """Seconds for which a destination is to be left alone; 0 when it may be tried."""
    query = select(Circuit.open_until, now().label("now")).where(Circuit.destination == destination)
    row = session.execute(query).one_or_none()
    if row is None or row[0] is None:
        return 0.0
    return max(0.0, float((row[0] - row[1]).total_seconds()))


def open_circuit(session: Session, destination: str, *, error: str, longest_pause_s: float) -> float:
    """Leave a destination alone for a pause that grows with its failures, and return it in seconds."""
    statement = insert(session, Circuit).values(destination=destination, failures=1, error=error)
    failures = session.scalar(
        statement.on_conflict_do_update(
            index_elements=["destination"], set_={"failures": Circuit.failures + 1, "error": error}
        ).returning(Circuit.failures)
    )
    pause_s = min(5.0 * 2.0 ** min((failures or 1) - 1, 20), longest_pause_s)
    session.execute(
        update(Circuit).where(Circuit.destination == destination).values(open_until=from_now(pause_s))
    )
    return pause_s


def close_circuit(session: Session, destination: str) -> bool:
    """Write down that a destination answers; True when it was away before."""
    was_away = (
        update(Circuit)
        .where(Circuit.destination == destination, Circuit.failures > 0)
        .values(failures=0, open_until=None, error=None)
    )
    return bool(session.execute(was_away).rowcount)  # type: ignore[attr-defined]


def _note_try(session: Session, delivery_id: int, **values: object) -> None:
    session.execute(
        update(Delivery).where(Delivery.id == delivery_id).values(tries=Delivery.tries + 1, **values)
    )


def reached(session: Session, newest: Report) -> StudyState:
    """How far a study has come whose newest report this is."""
    states = session.scalars(select(Delivery.state).where(Delivery.report_id == newest.id)).all()
    is_delivered = bool(states) and all(state == DeliveryState.FINAL for state in states)
    return StudyState.DELIVERED if is_delivered else StudyState.REPORTED
