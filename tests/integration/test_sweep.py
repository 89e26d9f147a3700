"""The sweep: what workers and broker forgot is found, and nothing is rung twice."""

import json

import pytest
from sqlalchemy import update

from db import jobs
from db.clock import from_now
from db.session import transaction
from db.tables import Job, JobState
from hilum.queue import CLASSIFY, PREPARE, SHADOW, ring
from tests.conftest import SettingsChange
from tests.peers.broker import Broker
from tests.peers.studies import RECEIVED, claim, job, receive
from worker.sweep import sweep

STUDY = RECEIVED.study_uid


@pytest.fixture
def broker(database_url: str, valkey: Broker, hilum_env: SettingsChange) -> Broker:
    hilum_env(broker_url=valkey.url)
    return valkey


def _forget_bells() -> None:
    with transaction() as session:
        session.execute(update(Job).values(rung_at=from_now(-3600)))


def _kind(message: bytes) -> str:
    """The task that a message is for."""
    return str(json.loads(message)["headers"]["task"])


def _let_leases_run_out() -> None:
    with transaction() as session:
        session.execute(update(Job).values(lease_until=from_now(-1)))


def test_work_whose_bell_was_lost_is_rung_again(broker: Broker) -> None:
    receive()
    _forget_bells()
    sweep()
    assert len(broker.messages("prepare")) == 1


def test_a_backlog_is_never_rung_twice(broker: Broker) -> None:
    for number in range(5):
        receive(study_uid=f"1.2.{number}", series_uid=f"1.3.{number}", uid=f"1.4.{number}")
        ring(PREPARE, f"1.2.{number}")
    _forget_bells()
    sweep()
    assert len(broker.messages("prepare")) == 5
    broker.empty()
    sweep()
    sweep()
    assert len(broker.messages("prepare")) == 5


def test_the_work_of_a_dead_worker_is_freed_and_its_death_counted(broker: Broker) -> None:
    receive()
    assert claim(PREPARE, STUDY) is not None
    sweep()
    assert job(PREPARE, STUDY).deaths == 0
    _let_leases_run_out()
    sweep()
    assert job(PREPARE, STUDY).deaths == 1
    assert len(broker.messages("prepare")) == 1


def test_after_three_deaths_a_study_is_quarantined_with_its_reason(broker: Broker) -> None:
    receive()
    for _ in range(3):
        assert claim(PREPARE, STUDY) is not None
        _let_leases_run_out()
        sweep()
    assert job(PREPARE, STUDY).state == JobState.QUARANTINED
    assert job(PREPARE, STUDY).error == "the worker died 3 times while at it"
    assert claim(PREPARE, STUDY) is None


def test_without_a_broker_the_sweep_frees_work_all_the_same(broker: Broker) -> None:
    receive()
    assert claim(PREPARE, STUDY) is not None
    _let_leases_run_out()
    broker.stop()
    sweep()
    assert job(PREPARE, STUDY).deaths == 1


def test_a_shadow_is_rung_for_only_when_nothing_waits_for_the_champion(broker: Broker) -> None:
    receive()
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.DONE))
        for kind in (CLASSIFY, SHADOW):
            jobs.want(session, kind, STUDY, study_uid=STUDY)
    _forget_bells()
    sweep()
    assert [_kind(message) for message in broker.messages("classify")] == [CLASSIFY]
    broker.empty()
    with transaction() as session:
        session.execute(update(Job).where(Job.kind == CLASSIFY).values(state=JobState.DONE))
    sweep()
    assert [_kind(message) for message in broker.messages("classify")] == [SHADOW]
