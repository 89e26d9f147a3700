"""The machine's clock is set: nothing waits for the time to come round again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from db import reports, setback
from db.clock import from_now
from db.session import transaction
from db.tables import Circuit, Job
from hilum.queue import PREPARE
from tests.conftest import SettingsChange
from tests.faults.failpoints import Failpoints
from tests.faults.machine import Machine
from tests.peers.broker import Broker
from tests.peers.helpers import end, missing, wait_for
from tests.peers.studies import RECEIVED, claim, job, receive
from worker.sweep import _Watch, sweep

HOUR_S = 3600


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine whose clock can be set for the processes that are started in its environment."""
    machine = Machine(tmp_path / "machine")
    if not machine.has_clock:
        missing("libfaketime is not installed (apt-get install faketime)")
    return machine


@pytest.fixture
def beat(machine: Machine, valkey: Broker, hilum_env: SettingsChange, tmp_path: Path) -> Iterator[None]:
    hilum_env(broker_url=valkey.url, sweep_s=1)
    surroundings = machine.environment | Failpoints(tmp_path / "inside").environment
    arguments = ["-P", "-m", "celery", "-A", "worker.app", "beat", "-S", "celery.beat:Scheduler"]
    process = subprocess.Popen([sys.executable, *arguments], env=os.environ | surroundings)
    yield
    process.send_signal(signal.SIGKILL)
    end(process)


@pytest.mark.parametrize("off_by_s", [HOUR_S, -HOUR_S])
def test_the_sweep_goes_on_when_the_clock_is_set(
    machine: Machine, beat: None, valkey: Broker, off_by_s: int
) -> None:
    wait_for(lambda: valkey.messages("sweep"), 60, "the first sweep")
    with machine.clock_off_by(off_by_s):
        _wait_for_sweeps(valkey)
    _wait_for_sweeps(valkey)


def _wait_for_sweeps(broker: Broker) -> None:
    """Until there are four more: one may have been sent before the clock was seen to be set."""
    before = len(broker.messages("sweep"))
    wait_for(lambda: len(broker.messages("sweep")) >= before + 4, 30, "sweeps on the clock of now")


@pytest.fixture
def set_back(
    database_url: str, valkey: Broker, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's clock was an hour ahead when the sweep last looked at it."""
    hilum_env(broker_url=valkey.url)
    watch = _Watch()
    with transaction() as session:
        watch.set_back_by_s(setback.present(session) + timedelta(seconds=HOUR_S))
    monkeypatch.setattr("worker.sweep._watch", watch)


def test_work_put_off_by_a_clock_that_was_ahead_is_rung_for(set_back: None, valkey: Broker) -> None:
    receive()
    with transaction() as session:
        session.execute(update(Job).values(due_at=from_now(HOUR_S + 2), rung_at=from_now(HOUR_S + 2)))
        session.add(Circuit(destination="pacs", failures=1, open_until=from_now(HOUR_S + 300)))
    sweep()
    assert len(valkey.messages("prepare")) == 1
    assert claim(PREPARE, RECEIVED.study_uid) is not None
    with transaction() as session:
        assert reports.open_for_s(session, "pacs") == 0


def test_work_that_a_dead_worker_took_by_a_clock_that_was_ahead_is_freed(set_back: None) -> None:
    receive()
    assert claim(PREPARE, RECEIVED.study_uid, lease_s=HOUR_S + 3) is not None
    sweep()
    with transaction() as session:
        assert session.query(Job).where(Job.lease_until <= from_now(30)).count() == 1
    assert job(PREPARE, RECEIVED.study_uid).deaths == 0


def test_what_was_put_off_since_waits_on(set_back: None, valkey: Broker) -> None:
    receive(settle_s=300)
    sweep()
    sweep()
    assert claim(PREPARE, RECEIVED.study_uid) is None
