"""One piece of work: claimed once, kept while it goes on, counted when it fails."""

import errno
import json
import threading
import time
from collections.abc import Sequence

import pytest
from PIL import UnidentifiedImageError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db import jobs
from db.jobs import Claim
from db.session import transaction
from db.tables import JobState
from db.work import Bell, work_on
from hilum.errors import MachineAtFault, NetworkError
from hilum.queue import CLASSIFY, PREPARE
from tests.conftest import SettingsChange
from tests.peers.broker import Broker
from tests.peers.helpers import wait_for
from tests.peers.studies import RECEIVED, job, receive

STUDY = RECEIVED.study_uid


def _finish(claim: Claim) -> Sequence[Bell]:
    with transaction() as session:
        jobs.want(session, CLASSIFY, STUDY, study_uid=STUDY)
        jobs.finish(session, claim)
    return [Bell(CLASSIFY, STUDY)]


@pytest.fixture
def system(database_url: str, valkey: Broker, hilum_env: SettingsChange) -> Broker:
    hilum_env(broker_url=valkey.url)
    return valkey


def test_work_that_is_done_rings_for_what_follows(system: Broker) -> None:
    receive()
    work_on(PREPARE, STUDY, _finish)
    assert job(PREPARE, STUDY).state == JobState.DONE
    [message] = system.messages("classify")
    assert json.loads(message)["headers"]["task"] == CLASSIFY


def test_a_repeated_message_does_nothing(system: Broker) -> None:
    receive()
    done: list[Claim] = []

    def steps(claim: Claim) -> Sequence[Bell]:
        done.append(claim)
        return _finish(claim)

    for _ in range(3):
        work_on(PREPARE, STUDY, steps)
    assert len(done) == 1


def test_a_bell_that_comes_too_early_rings_itself_again(system: Broker) -> None:
    receive(settle_s=60)
    work_on(PREPARE, STUDY, lambda claim: pytest.fail("not due yet"))
    [message] = system.messages("prepare")
    assert json.loads(message)["headers"]["eta"] is not None


def test_a_bell_that_comes_too_early_stays_urgent(system: Broker) -> None:
    receive(settle_s=60, urgent=True)
    work_on(PREPARE, STUDY, lambda claim: pytest.fail("not due yet"))
    assert system.messages("prepare") == []
    assert len(system.messages("prepare.urgent")) == 1


def test_work_that_raises_is_put_off_and_shown_as_failed_after_five_times(system: Broker) -> None:
    receive()

    def steps(claim: Claim) -> Sequence[Bell]:
        raise ZeroDivisionError("what a study brings")

    for attempt in range(1, 6):
        assert job(PREPARE, STUDY).state == JobState.WAITING
        with transaction() as session:
            jobs.hurry(session, PREPARE, [STUDY])
        work_on(PREPARE, STUDY, steps)
        assert job(PREPARE, STUDY).attempts == attempt
    failed = job(PREPARE, STUDY)
    assert failed.state == JobState.FAILED
    assert failed.error == "ZeroDivisionError: what a study brings"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "gone for a while"),
        FileNotFoundError(errno.ENOENT, "gone for a while"),
        OperationalError("SELECT", {}, Exception("gone for a while")),
        PoolTimeout("gone for a while"),
        MachineAtFault("gone for a while"),
        NetworkError("gone for a while"),
    ],
    ids=["disk", "store", "database", "connections", "engine", "network"],
)
def test_what_the_machine_is_to_blame_for_holds_work_up_and_fails_none(
    system: Broker, error: Exception
) -> None:
    receive()

    def steps(claim: Claim) -> Sequence[Bell]:
        raise error

    for _ in range(6):
        with transaction() as session:
            jobs.hurry(session, PREPARE, [STUDY])
        work_on(PREPARE, STUDY, steps)
    held_up = job(PREPARE, STUDY)
    assert held_up.state == JobState.WAITING
    assert held_up.lease_token is None
    assert "gone for a while" in str(held_up.error)


def test_a_parsers_complaint_is_no_fault_of_the_disk(system: Broker) -> None:
    receive()

    def steps(claim: Claim) -> Sequence[Bell]:
        raise UnidentifiedImageError("no picture")

    work_on(PREPARE, STUDY, steps)
    assert job(PREPARE, STUDY).attempts == 1


def test_a_lease_is_renewed_while_the_work_goes_on(system: Broker, hilum_env: SettingsChange) -> None:
    hilum_env(lease_s=3)
    receive()
    until = []

    def steps(claim: Claim) -> Sequence[Bell]:
        until.append(job(PREPARE, STUDY).lease_until)
        wait_for(lambda: job(PREPARE, STUDY).lease_until != until[0], 20, "the renewal")
        return _finish(claim)

    work_on(PREPARE, STUDY, steps)
    assert job(PREPARE, STUDY).state == JobState.DONE


@pytest.mark.parametrize("error", [PoolTimeout("all are in use"), ValueError("whatever a driver raises")])
def test_a_renewal_that_fails_is_tried_again(
    system: Broker, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hilum_env(lease_s=3)
    receive()
    renew, failed = jobs.renew, list[bool]()

    def renew_at_second_try(*args: object, **named: object) -> None:
        if not failed:
            failed.append(True)
            raise error
        renew(*args, **named)  # type: ignore[arg-type]

    def steps(claim: Claim) -> Sequence[Bell]:
        until = job(PREPARE, STUDY).lease_until
        monkeypatch.setattr(jobs, "renew", renew_at_second_try)
        wait_for(lambda: job(PREPARE, STUDY).lease_until != until, 20, "the renewal")
        return _finish(claim)

    work_on(PREPARE, STUDY, steps)
    assert failed


def test_work_that_was_cancelled_meanwhile_leaves_no_result(system: Broker) -> None:
    receive()

    def steps(claim: Claim) -> Sequence[Bell]:
        with transaction() as session:
            jobs.cancel(session, STUDY)
        return _finish(claim)

    work_on(PREPARE, STUDY, steps)
    assert job(PREPARE, STUDY).state == JobState.CANCELLED
    assert system.messages("classify") == []


def test_of_many_workers_that_are_rung_at_once_one_works(system: Broker) -> None:
    receive()
    done: list[Claim] = []

    def steps(claim: Claim) -> Sequence[Bell]:
        done.append(claim)
        time.sleep(0.2)  # long enough for the others to ask
        return _finish(claim)

    threads = [threading.Thread(target=work_on, args=(PREPARE, STUDY, steps)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
