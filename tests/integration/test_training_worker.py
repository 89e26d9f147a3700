"""Trainings by a real worker: from verdicts to a network that was judged, through deaths and stops."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from db import networks, verdicts
from db.schema import upgrade
from db.session import transaction
from db.tables import Job, JobState, NetworkState, RunState, Study, TrainingRun
from hilum import phantom
from hilum.network import LABELS, load_artefact
from hilum.queue import TRAIN, ring
from hilum.settings import settings
from tests.conftest import SettingsChange
from tests.integration.test_verdicts import add_image
from tests.peers.broker import Broker
from tests.peers.helpers import wait_for
from tests.peers.studies import job
from tests.peers.system import with_argument
from tests.unit import artefacts, recipes
from tests.unit.images import save
from training import night
from training.data import PARTS
from worker.sweep import sweep

pytestmark = pytest.mark.timeout(900)

BACKBONE = "mobilenet_v3_small"
PATIENTS, EPOCHS = 32, 40
LEARNS_WITHIN_S, ENDS_WITHIN_S = 240, 500


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows nothing."""
    return artefacts.untrained(tmp_path_factory.mktemp("poor"), BACKBONE)


@pytest.fixture
def site(valkey: Broker, hilum_env: SettingsChange, poor: Path, tmp_path: Path) -> None:
    """A place where people have labelled images, and a recipe whose epochs take half a second."""
    tiny = recipes.tiny(
        weights="champion",
        phantom_share=0.25,
        images_per_epoch=16,
        stages=[{"epochs": EPOCHS, "size_px": 32, "validation_size_px": 32}],
        stop_after=EPOCHS,
    )
    recipe = recipes.write(tmp_path / "tiny.toml", tiny)
    hilum_env(
        broker_url=valkey.url,
        network_dir=poor,
        training_recipe=recipe,
        lease_s=3,
        device="cpu",
        training_largest_author_share=1,
    )
    upgrade(settings().database)
    label_phantoms()


def label_phantoms() -> None:
    """Images of PATIENTS patients in the store, on which somebody spoke."""
    (settings().store / "instances").mkdir(parents=True)
    for number in range(PATIENTS):
        label = LABELS[number % len(LABELS)]
        ds = phantom.phantom(1000 + number, label, rows=320, columns=262, study_uid=f"1.2.{number}")
        path = f"instances/p{number}.dcm"
        save(ds, settings().store / path)
        with transaction() as session:
            uid = add_image(session, f"1.2.{number}", path=path, view="PA", pixel_hash=f"{number:064d}")
            session.get_one(Study, f"1.2.{number}").patient_id = f"P{number}"
            verdicts.add(session, uid, label, "Dr. R", "csv")


class Worker:
    """A training worker, as `hilum up` starts it."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "worker.log"
        self.start()

    def start(self) -> None:
        celery = ("-P", "-m", "celery", "-A", "training.app", "worker", "-Q", "training")
        pool = ("--pool", "prefork", "-c", "1", "-n", "training@%h", "--without-gossip", "--without-mingle")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *celery, *pool],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> list[int]:
        """The processes of its pool."""
        return with_argument("training@%h", parents={self.process.pid})

    def learning(self) -> list[int]:
        """The process that learns."""
        return with_argument("training", parents={*self.children()})

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@pytest.fixture
def worker(site: None, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    yield worker
    worker.stop()


def begin() -> int:
    with transaction() as session:
        run_id = night.begin_by_hand(session, settings())
    assert run_id is not None
    ring(TRAIN, str(run_id))
    return run_id


def seen(run_id: int) -> TrainingRun:
    with transaction() as session:
        return session.get_one(TrainingRun, run_id)


def epochs(run_id: int) -> int:
    """How many a run has behind it, as its row tells."""
    return len((seen(run_id).progress or {}).get("history", []))


def test_from_verdicts_to_a_network_that_was_judged_through_a_kill_and_a_stop(
    worker: Worker, poor: Path
) -> None:
    run_id = begin()
    wait_for(lambda: epochs(run_id) >= 2, LEARNS_WITHIN_S, "two epochs")
    running = seen(run_id)
    progress = running.progress or {}
    assert (running.state, progress["doing"], progress["epochs"]) == (RunState.RUNNING, "learning", EPOCHS)
    assert progress["loss"] > 0
    assert progress["left_s"] > 0

    [learning] = worker.learning()
    worker.kill()
    wait_for(lambda: not Path(f"/proc/{learning}").exists(), 30, "the end of what learnt")
    worker.start()
    wait_for(lambda: swept(TRAIN, run_id).deaths == 1, 60, "the death to be seen")
    before = epochs(run_id)
    wait_for(lambda: swept(TRAIN, run_id) and epochs(run_id) > before, LEARNS_WITHIN_S, "it to go on")
    assert [each["epoch"] for each in (seen(run_id).progress or {})["history"]][:3] == [1, 2, 3]

    worker.stop()
    stopped = job(TRAIN, str(run_id))
    assert (stopped.state, stopped.lease_token, stopped.deaths) == (JobState.WAITING, None, 1)
    assert stopped.error == "its worker was stopped; it goes on"
    worker.start()
    wait_for(lambda: swept(TRAIN, run_id).state == JobState.DONE, ENDS_WITHIN_S, "the end")

    run = seen(run_id)
    assert run.state in (RunState.PASSED, RunState.REFUSED), worker.log
    made = load_artefact(Path(run.artefact))
    assert (run.succeeded, run.network_digest) == (True, made.digest)
    assert made.manifest["recipe"]["weights"].endswith(load_artefact(poor).digest)
    assert {part: sum(made.manifest["data"][part].values()) for part in PARTS} == {
        "train": PATIENTS // 2 + 16,  # and the recipe's phantoms
        "validation": PATIENTS // 4 + 8,
        "test": PATIENTS // 4 + 8,
    }
    with transaction() as session:
        champion = networks.champion(session)
        assert champion is not None
        assert champion.digest == load_artefact(poor).digest
        state = networks.find(session, made.digest).state
    assert state in (NetworkState.CANDIDATE, NetworkState.REFUSED)
    assert not (Path(run.folder) / "checkpoint.pt").exists()


def swept(kind: str, run_id: int) -> Job:
    sweep()
    return job(kind, str(run_id))


def test_a_run_that_is_stopped_keeps_what_it_has_learnt_and_can_go_on(worker: Worker) -> None:
    run_id = begin()
    wait_for(lambda: epochs(run_id) >= 1, LEARNS_WITHIN_S, "an epoch")
    with transaction() as session:
        assert night.stop(session, run_id, "Dr. R")
    wait_for(lambda: not worker.learning(), 60, "the end of what learnt")
    run = seen(run_id)
    assert (run.state, run.error) == (RunState.FAILED, "stopped by Dr. R")
    assert (Path(run.folder) / "checkpoint.pt").exists()
