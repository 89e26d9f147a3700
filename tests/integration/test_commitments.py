"""What is asked of destinations and senders ask of us, on every database."""

from concurrent.futures import ThreadPoolExecutor, wait

from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import commitments, jobs, reports
from db.clock import from_now
from db.commitments import Standing
from db.reports import Rendered
from db.session import transaction
from db.tables import Commitment, CommitmentRequest, Delivery, Job, JobState, ObjectKind
from hilum.commitment import NO_SUCH_OBJECT, Report, Request
from hilum.queue import COMMIT, DELIVER
from tests.integration.examples import STUDY, record_a_study

CLASS = SecondaryCaptureImageStorage


def _deliver(session: Session) -> Delivery:
    record_a_study(session)
    objects = [Rendered(uid, ObjectKind.SC, "1.2.9", CLASS, f"{uid}.dcm") for uid in ("1.2.1", "1.2.2")]
    report = reports.add(session, STUDY, revision=1, content_digest="c" * 64, objects=objects)
    delivery = reports.send_to(session, report, "pacs")
    jobs.want(session, DELIVER, str(delivery.id), study_uid=STUDY, due_in_s=600)
    return delivery


def _standing(session: Session) -> Standing:
    return commitments.standing(session, session.scalars(select(Delivery)).one())


def _answer(transaction_uid: str, *committed: str, failed: dict[str, int] | None = None) -> object:
    report = Report(
        transaction_uid,
        dict.fromkeys(committed, CLASS),
        {uid: (CLASS, reason) for uid, reason in (failed or {}).items()},
    )
    with transaction() as session:
        return commitments.answer(session, report, destinations=["pacs"])


def test_what_is_outstanding_follows_from_all_answers(database_url: str) -> None:
    with transaction() as session:
        delivery = _deliver(session)
        assert _standing(session) == Standing(frozenset(["1.2.1", "1.2.2"]), {}, 0, 0, None, None)
        first, second = (commitments.keep(session, delivery.id) for _ in range(2))
        assert _standing(session).asked_for_s is None, "nobody knows whether the destination was asked"
        commitments.note_asked(session, second)
    with transaction() as session:
        assert 0 <= (_standing(session).asked_for_s or -1) < 60
        assert _standing(session).unanswered == 1
    assert _answer(first, "1.2.1", failed={"1.2.2": NO_SUCH_OBJECT}) == [(DELIVER, str(delivery.id), False)]
    with transaction() as session:
        now = _standing(session)
    assert (now.outstanding, now.failed, now.answers) == (frozenset(["1.2.2"]), {"1.2.2": NO_SUCH_OBJECT}, 1)
    assert now.asked_for_s is None and now.answered_for_s is not None
    with transaction() as session:
        commitments.note_asked(session, commitments.keep(session, delivery.id))
        assert _standing(session).answered_for_s is None, "it was asked anew"
    with transaction() as session:
        assert _standing(session).unanswered == 1
    assert _answer(second, "1.2.2") != []
    with transaction() as session:
        assert _standing(session).outstanding == frozenset()


def test_only_the_destination_that_was_asked_can_answer_and_only_once(database_url: str) -> None:
    with transaction() as session:
        transaction_uid = commitments.keep(session, _deliver(session).id)
        foreign = Report(transaction_uid, {"1.2.1": CLASS})
        assert commitments.answer(session, foreign, destinations=["archive"]) is None
        assert commitments.answer(session, foreign, destinations=[]) is None
    assert _answer("1.2.3.4", "1.2.1") is None
    assert _answer(transaction_uid, "1.2.1") != []
    assert _answer(transaction_uid, "1.2.1", "1.2.2") == []
    with transaction() as session:
        assert _standing(session).outstanding == frozenset(["1.2.2"])


def test_an_answer_lets_only_waiting_work_go_on(database_url: str) -> None:
    with transaction() as session:
        delivery = _deliver(session)
        transaction_uid = commitments.keep(session, delivery.id)
        jobs.cancel(session, STUDY)
    assert _answer(transaction_uid, "1.2.1", "1.2.2") == []


def test_who_waits_sees_an_answer_that_came_while_it_asked(database_url: str) -> None:
    with transaction() as session:
        delivery = _deliver(session)
        transaction_uid = commitments.keep(session, delivery.id)
    with ThreadPoolExecutor(1) as others:
        with transaction() as session:
            jobs.lock_study(session, STUDY)
            answering = others.submit(_answer, transaction_uid, "1.2.1", "1.2.2")
            assert not wait([answering], timeout=0.5).done, "whoever answers waits for us"
            assert _standing(session).outstanding
        assert answering.result(30) == [(DELIVER, str(delivery.id), False)]


def test_a_request_is_kept_once_and_its_answer_wanted_each_time(database_url: str) -> None:
    asked = Request("1.2.3", {"1.2.1": CLASS})
    with transaction() as session:
        subject = commitments.request(session, "MODALITY", asked)
        assert subject == commitments.request(session, "MODALITY", asked)
        assert subject != commitments.request(session, "ANOTHER", asked)
        assert commitments.request(session, "MODALITY", Request("1.2.3", {"1.2.2": CLASS})) is None
        assert commitments.requested(session, int(str(subject)))[0].objects == {"1.2.1": CLASS}
        assert jobs.claim(session, COMMIT, str(subject), lease_s=30) is not None


def test_a_request_that_comes_again_is_as_good_as_new(database_url: str) -> None:
    asked = Request("1.2.3", {"1.2.1": CLASS})
    with transaction() as session:
        subject = int(str(commitments.request(session, "MODALITY", asked)))
        session.execute(update(CommitmentRequest).values(asked_at=from_now(-100_000)))
        assert commitments.requested(session, subject)[1] > 99_000
        commitments.request(session, "MODALITY", asked)
    with transaction() as session:
        assert commitments.requested(session, subject)[1] < 60


def test_old_requests_are_forgotten_with_their_work(database_url: str) -> None:
    with transaction() as session:
        old, new = (commitments.request(session, "MODALITY", Request(uid, {"1": CLASS})) for uid in "12")
        session.execute(update(Job).where(Job.subject == new).values(created_at=from_now(-60)))
        session.execute(
            update(CommitmentRequest)
            .where(CommitmentRequest.id == int(str(old)))
            .values(asked_at=from_now(-60))
        )
        session.execute(
            update(Job).where(Job.subject == old).values(created_at=from_now(-60), state=JobState.DONE)
        )
        waiting = commitments.request(session, "MODALITY", Request("3", {"1": CLASS}))
        late = CommitmentRequest.id == int(str(waiting))
        session.execute(update(CommitmentRequest).where(late).values(asked_at=from_now(-60)))
        commitments.forget_requests(session, older_than_s=30)
    with transaction() as session:
        assert session.scalars(select(CommitmentRequest.transaction_uid)).all() == ["2", "3"]
        assert session.scalars(select(Job.subject)).all() == [new, waiting]


def test_commitments_go_with_their_delivery(database_url: str) -> None:
    with transaction() as session:
        delivery = _deliver(session)
        commitments.keep(session, delivery.id)
        session.delete(delivery)
        session.flush()
        assert session.scalars(select(Commitment)).all() == []
