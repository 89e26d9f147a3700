"""Reports, their revisions and their deliveries, and destinations that are left alone for a while."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import audit, reports
from db.reports import Rendered
from db.session import transaction
from db.tables import Audit, Delivery, DeliveryState, ObjectKind, Report, Study, StudyState
from tests.integration.examples import STUDY, record_a_study

ARCHIVE, RESEARCH = "archive", "research"


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """A transaction in a database with one study."""
    with transaction() as session:
        record_a_study(session)
    with transaction() as session:
        yield session


def add(session: Session, revision: int = 1) -> Report:
    rendered = Rendered(f"2.25.{revision}", ObjectKind.SR, "2.25.9", "1.2.840.10008.5.1.4.1.1.88.34", "r.dcm")
    return reports.add(session, STUDY, revision=revision, content_digest=str(revision), objects=[rendered])


def state_of_study(session: Session) -> StudyState:
    return session.scalars(select(Study.state).where(Study.study_uid == STUDY)).one()


def state_of(session: Session, delivery: Delivery) -> DeliveryState:
    return session.scalars(select(Delivery.state).where(Delivery.id == delivery.id)).one()


def waiting_at(session: Session, destination: str) -> list[str]:
    return list(session.scalars(reports.waiting_at(destination)))


def test_the_latest_report_is_the_one_of_the_highest_revision(session: Session) -> None:
    assert reports.latest(session, STUDY) is None
    add(session, 1)
    second = add(session, 2)
    latest = reports.latest(session, STUDY)
    assert latest is second
    assert [each.uid for each in latest.objects] == ["2.25.2"]
    assert [report.revision for report in reports.of_study(session, STUDY)] == [1, 2]


def test_a_revision_is_made_only_once(session: Session) -> None:
    add(session)
    with pytest.raises(IntegrityError), session.begin_nested():
        reports.add(session, STUDY, revision=1, content_digest="other", objects=[])


def test_a_study_is_delivered_when_every_destination_has_its_newest_report(session: Session) -> None:
    report = add(session)
    first, second = (reports.send_to(session, report, name) for name in (ARCHIVE, RESEARCH))
    reports.note_final(session, first.id)
    assert state_of_study(session) == StudyState.RECEIVED
    reports.note_final(session, second.id)
    assert state_of_study(session) == StudyState.DELIVERED


def test_a_former_report_that_arrives_late_delivers_nothing(session: Session) -> None:
    former = reports.send_to(session, add(session, 1), ARCHIVE)
    reports.send_to(session, add(session, 2), ARCHIVE)
    reports.note_final(session, former.id)
    assert state_of_study(session) == StudyState.RECEIVED


def test_how_far_a_study_has_come_is_told_by_its_newest_report_alone(session: Session) -> None:
    former = add(session, 1)
    reports.note_error(session, reports.send_to(session, former, ARCHIVE).id, "will not", refused=True)
    newest = add(session, 2)
    assert reports.reached(session, newest) == StudyState.REPORTED, "it goes nowhere"
    delivery = reports.send_to(session, newest, ARCHIVE)
    assert reports.reached(session, newest) == StudyState.REPORTED
    reports.note_final(session, delivery.id)
    assert reports.reached(session, newest) == StudyState.DELIVERED


def test_a_delivery_is_waiting_sent_and_final_in_turn(session: Session) -> None:
    delivery = reports.send_to(session, add(session), ARCHIVE)
    assert waiting_at(session, ARCHIVE) == [str(delivery.id)]
    assert waiting_at(session, RESEARCH) == []
    reports.note_sent(session, delivery.id)
    assert state_of(session, delivery) == DeliveryState.SENT
    assert waiting_at(session, ARCHIVE) == [str(delivery.id)], "its rule asks for more"
    reports.note_final(session, delivery.id)
    assert waiting_at(session, ARCHIVE) == []
    assert reports.counts(session) == [(ARCHIVE, DeliveryState.FINAL, 1)]


def test_an_error_is_kept_until_the_delivery_succeeds(session: Session) -> None:
    delivery = reports.send_to(session, add(session), ARCHIVE)
    reports.note_error(session, delivery.id, "nobody answers")
    session.expire_all()
    assert (delivery.state, delivery.error) == (DeliveryState.WAITING, "nobody answers")
    reports.note_final(session, delivery.id)
    session.expire_all()
    assert (delivery.state, delivery.error) == (DeliveryState.FINAL, None)


def test_a_refused_delivery_no_longer_waits(session: Session) -> None:
    delivery = reports.send_to(session, add(session), ARCHIVE)
    reports.note_error(session, delivery.id, "it will not have it", refused=True)
    assert state_of(session, delivery) == DeliveryState.REFUSED
    assert waiting_at(session, ARCHIVE) == []


def test_a_destination_that_is_away_is_left_alone_for_growing_pauses(session: Session) -> None:
    assert reports.open_for_s(session, ARCHIVE) == 0
    pauses = [reports.open_circuit(session, ARCHIVE, error="away", longest_pause_s=30) for _ in range(5)]
    assert pauses == [5, 10, 20, 30, 30]
    assert 29 < reports.open_for_s(session, ARCHIVE) <= 30
    assert reports.open_for_s(session, RESEARCH) == 0


def test_a_destination_that_answers_is_used_again_at_once(session: Session) -> None:
    assert reports.close_circuit(session, ARCHIVE) is False, "it was never away"
    reports.open_circuit(session, ARCHIVE, error="away", longest_pause_s=30)
    assert reports.close_circuit(session, ARCHIVE) is True
    assert reports.close_circuit(session, ARCHIVE) is False
    assert reports.open_for_s(session, ARCHIVE) == 0
    assert reports.open_circuit(session, ARCHIVE, error="away", longest_pause_s=30) == 5


def test_what_people_did_is_written_down(session: Session) -> None:
    audit.note(session, actor="operator", action="cancel", study_uid=STUDY, detail="2 pieces of work")
    [entry] = session.scalars(select(Audit))
    assert (entry.actor, entry.action, entry.study_uid) == ("operator", "cancel", STUDY)
    assert entry.at is not None


def test_what_a_stranger_says_is_kept_without_what_no_database_takes(session: Session) -> None:
    delivery = reports.send_to(session, add(session), ARCHIVE)
    reports.note_error(session, delivery.id, "no\x00room\x1b[31m\n" + "x" * 5000)
    session.expire_all()
    assert str(delivery.error).startswith("no room [31m xxx")
    assert len(str(delivery.error)) == 2000
