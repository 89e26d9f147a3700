"""`hilum training`: what a person sees of trainings, and how one is begun and stopped."""

import json
import re

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from console.cli import app
from db import training_runs
from db.jobs import Claim
from db.session import transaction
from db.tables import Audit, JobState, RunState
from hilum.errors import HilumError
from hilum.queue import TRAIN
from tests.conftest import SettingsChange
from tests.integration.test_night import freeze, say
from tests.peers.broker import Broker
from tests.peers.studies import claim, job


@pytest.fixture(autouse=True)
def site(database_url: str, valkey: Broker, hilum_env: SettingsChange) -> Broker:
    hilum_env(broker_url=valkey.url, training_hour=3, training_least_verdicts=4)
    return valkey


def run(*arguments: str) -> str:
    """What `hilum training` prints; HilumError is raised as the command raises it."""
    outcome = CliRunner().invoke(app, ["training", *arguments])
    if outcome.exception:
        raise outcome.exception
    return re.sub(r"\s+", " ", outcome.output)


def at_work(run_id: int) -> Claim:
    """A run that learns, as its worker has told."""
    held = claim(TRAIN, str(run_id))
    assert held is not None
    frozen = freeze()
    progress = {
        "doing": "learning",
        "done": 0.5,
        "epoch": 3,
        "epochs": 6,
        "loss": 0.4321,
        "images_per_s": 38.2,
        "left_s": 600.0,
        "history": [{"epoch": 1, "loss": 0.6}, {"epoch": 2, "loss": 0.5}],
    }
    with transaction() as session:
        training_runs.set_out(session, run_id, folder="somewhere")
        training_runs.settle(session, run_id, snapshot_digest=frozen.digest, recipe={"name": "nightly-1"})
        training_runs.note_progress(session, held, run_id, progress)
    return held


def test_before_the_first_training_it_is_told_what_one_waits_for() -> None:
    said = run("status")
    assert "none yet" in said
    assert "new verdicts: 0 of 4 wanted; next night: " in said


def test_a_training_that_a_person_begins_is_shown_with_its_loss_and_the_time_left(site: Broker) -> None:
    say(10)
    assert "training 1 begins" in run("start")
    assert len(site.messages("training")) == 1
    at_work(1)
    said = run("status")
    assert "a person's wish" in said
    assert "7 images" in said
    assert "epoch 3 of 6, loss 0.432, 38 images/s, 10 min left" in said
    [told] = json.loads(run("status", "--json"))["runs"]
    assert (told["state"], told["images"]["test"], told["progress"]["done"]) == ("running", 1, 0.5)


def test_a_training_that_is_stopped_can_go_on_and_the_audit_tells_of_both(site: Broker) -> None:
    say(4)
    run("start")
    held = at_work(1)
    assert "training 1 stops" in run("stop")
    assert job(TRAIN, "1").state == JobState.CANCELLED
    with transaction() as session, pytest.raises(HilumError, match="was stopped"):
        training_runs.note_progress(session, held, 1, {})
    assert "stopped by" in run("status")
    run("start", "--run", "1")
    assert job(TRAIN, "1").state == JobState.WAITING
    with transaction() as session:
        assert training_runs.latest(session, 1)[0].state is RunState.WAITING
        done = [each.action for each in session.scalars(select(Audit).order_by(Audit.id))]
    assert done == ["training start", "training stop", "training start"]


@pytest.mark.parametrize(
    ("command", "because"),
    [
        (["start"], "training 1 is waiting: `hilum training stop 1`, or wait"),
        (["start", "--run", "1"], "training 1 neither failed nor was it stopped"),
        (["start", "--run", "9"], "training 9 neither failed nor was it stopped"),
        (["stop", "9"], "training 9 does not go on"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(command: list[str], because: str) -> None:
    run("start")
    with pytest.raises(HilumError, match=because):
        run(*command)


def test_what_holds_a_training_up_is_told() -> None:
    from db import jobs

    run("start")
    held = at_work(1)
    with transaction() as session:
        jobs.put_off(session, held, pause_s=10, because="no room on the disk")
    assert "no room on the disk" in run("status")


def test_what_is_followed_ends_with_the_training() -> None:
    run("start")
    run("stop")
    assert "stopped by" in run("status", "--follow")
