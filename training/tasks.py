"""Training as tasks: the look whether one should begin, and one training, watched while it goes on."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db import audit, jobs, training_runs
from db.jobs import Claim
from db.session import transaction
from db.tables import Snapshot, TrainingRun
from db.work import Bell, work_on
from hilum import pseudonyms
from hilum.errors import HilumError, LeaseLost, MachineAtFault, NetworkError
from hilum.network import Artefact, load_artefact
from hilum.queue import NIGHT, TRAIN, app, ring
from hilum.settings import settings
from hilum.store import Store
from training import night, promotion, recipe, snapshot, tracking
from training.__main__ import CACHE, FAILURE, IMAGES, INTERRUPTED, RECIPE
from training.progress import HISTORY, PROGRESS

log = logging.getLogger(__name__)

NICENESS = 10
"""Of a process that trains: studies that are waiting come first."""
CHAMPION = "champion"
"""In a recipe's `weights`: begin with the network that reads here."""
LOG, CHECKPOINT = "training.log", "checkpoint.pt"
TRIES = 3
"""Of a training whose process ends without a word, before it counts as failed."""
_LOOK_EVERY_S, _NOTE_EVERY_S = 1.0, 10.0
_KEEPS_WITHIN_S = 15.0  # `hilum up` kills what has not ended 20 s after it was told to


class CannotLearn(HilumError):
    """A person must act: this run gives no network, and the text says why."""


class Ended(HilumError):
    """Nobody must act yet: the process that trained ended without a word, and is started again."""


@app.task(name=NIGHT)
def look() -> None:
    """Begin the training of this night, if one should begin now."""
    with transaction() as session:
        run_id = night.begin(session, datetime.now(UTC), settings())
    if run_id is not None:
        log.info("training %d of the night begins", run_id)
        ring(TRAIN, str(run_id))


@app.task(name=TRAIN)
def train(run: str) -> None:
    """Do one training: freeze what is learnt from, learn, and have the network judged.

    It goes on where it was when its worker dies. The network that reads is not touched.
    """
    os.nice(max(0, NICENESS - os.nice(0)))
    work_on(TRAIN, run, _steps)
    tracking.catch_up()


def _steps(claim: Claim) -> Sequence[Bell]:
    run_id = int(claim.subject)
    try:
        _do(claim, run_id)
    except (SystemExit, KeyboardInterrupt):  # this worker is told to end: that is no death
        with transaction() as session:
            jobs.put_off(session, claim, pause_s=0, because="its worker was stopped; it goes on")
        raise
    except (LeaseLost, MachineAtFault, NetworkError, SQLAlchemyError, OSError):
        raise  # no fault of the run
    except Exception as error:  # whatever happens, the run's row has to say so
        is_told = isinstance(error, HilumError) and not isinstance(error, Ended)
        if not is_told and claim.attempts + 1 < TRIES:
            raise
        _give_up(claim, run_id, error)
    return ()


def _do(claim: Claim, run_id: int) -> None:
    with transaction() as session:
        is_judged = session.get_one(TrainingRun, run_id).gate is not None
    if not is_judged:  # else its worker died right after
        folder = _made_ready(run_id)
        artefact = _learnt(claim, run_id, folder)
        with transaction() as session:
            training_runs.succeed(session, run_id, artefact=str(artefact.folder), manifest=artefact.manifest)
        _judge(run_id, folder, artefact)
        (folder / CHECKPOINT).unlink(missing_ok=True)  # as large as all the rest
    with transaction() as session:
        jobs.finish(session, claim)


def _judge(run_id: int, folder: Path, artefact: Artefact) -> None:
    """Put the network to the gate, on the test patients of the snapshot."""
    chosen = recipe.read(folder / RECIPE)
    images = promotion.test_images(
        settings().store if chosen.needs_radiographs else None,
        folder / IMAGES,
        folder / "split.csv",
        artefact,
        settings().data_dir / CACHE,
    )
    promotion.put_to_the_gate(run_id, artefact.folder, images)


def _give_up(claim: Claim, run_id: int, error: Exception) -> None:
    because = str(error) if isinstance(error, HilumError) else f"{type(error).__name__}: {error}"
    log.error("training %d failed: %s", run_id, because, exc_info=not isinstance(error, HilumError))
    with transaction() as session:
        jobs.give_up(session, claim, because=because)
        training_runs.give_up(session, run_id, error=because)


def _made_ready(run_id: int) -> Path:
    """Return the folder of a run, which has recipe and list of images; both stay as they are once there.

    Raises CannotLearn when the new verdicts are such that nothing may be learnt of them unseen, or too few.
    """
    folder = settings().data_dir.resolve() / "training" / f"run-{run_id}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with transaction() as session:
        run = training_runs.set_out(session, run_id, folder=str(folder))
    if run.snapshot_digest is None:
        chosen = _recipe(str(run.recipe["name"]), run_id)
        with transaction() as session:
            frozen = _frozen(session, chosen)
            training_runs.settle(
                session, run_id, snapshot_digest=frozen.digest, recipe=chosen.model_dump(mode="json")
            )
    with transaction() as session:
        run = training_runs.set_out(session, run_id, folder=str(folder))
        if not (folder / IMAGES).exists():
            frozen = session.get_one(Snapshot, run.snapshot_digest)
            snapshot.list_files(
                session, Store(settings().store), _pseudonyms(session), frozen, folder / f"{IMAGES}.new"
            )
            (folder / f"{IMAGES}.new").replace(folder / IMAGES)
    (folder / RECIPE).write_text(json.dumps(run.recipe, indent=1), encoding="utf-8")
    return folder


def _recipe(named: str, run_id: int) -> recipe.Recipe:
    """The recipe of a run: named for it, and, where it begins with the champion, made to fit that."""
    said = recipe.parsed(recipe.find(named))
    if said.get("weights") == CHAMPION:
        champion = promotion.champion()
        said |= {"weights": str(champion.folder), "backbone": champion.backbone}
        said |= {"licence": str(champion.manifest.get("licence", said.get("licence")))}
    return recipe.checked({**said, "name": f"{said.get('name')}-{run_id}"}, named)


def _frozen(session: Session, chosen: recipe.Recipe) -> Snapshot:
    """The snapshot that a run is to learn from."""
    objections = night.objections(session, settings())
    if objections:
        raise CannotLearn(f"not begun: {'; '.join(objections)}")
    frozen = snapshot.freeze(session, Store(settings().store), _pseudonyms(session), chosen.shares)
    lacking = snapshot.lacking(frozen.counts) if chosen.needs_radiographs else []
    if lacking:
        raise CannotLearn(
            f"not begun: {'; '.join(lacking)}: a network learns no class that it is not shown. More labelled "
            "patients are needed"
        )
    return frozen


def _pseudonyms(session: Session) -> pseudonyms.Pseudonyms:
    return pseudonyms.load(settings().data_dir / pseudonyms.KEY_FILE, was_used=audit.has(session, "export"))


def _learnt(claim: Claim, run_id: int, folder: Path) -> Artefact:
    """The artefact that a process of its own learns.

    Raises CannotLearn, in that process's words, Ended when it had none, and LeaseLost when the run was
    stopped or taken over; what was learnt until then is kept in the folder.
    """
    (folder / FAILURE).unlink(missing_ok=True)
    with _process(folder, run_id) as process:
        noted_at = -math.inf
        while process.poll() is None:
            if time.monotonic() - noted_at >= _NOTE_EVERY_S:
                noted_at = time.monotonic()
                _note(claim, run_id, folder)
            time.sleep(_LOOK_EVERY_S)
    _note(claim, run_id, folder)
    if (folder / FAILURE).exists():  # torchrun has a status of its own
        raise CannotLearn((folder / FAILURE).read_text(encoding="utf-8"))
    if process.returncode:
        raise Ended(
            f"The process that trained {_how(process.returncode)}: {folder / LOG} has its last words."
        )
    return load_artefact(folder / "artefact")


def _how(status: int) -> str:
    if status == INTERRUPTED:
        return "was told to stop"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name} (does the memory suffice?)"
    return f"ended with status {status}"


@contextmanager
def _process(folder: Path, run_id: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that trains, which is told to keep what it has when the block is left early."""
    total_s = settings().training_budget_s
    with transaction() as session:
        left_s = total_s - training_runs.since_begun_s(session, run_id)
    argv = (sys.executable, "-P", "-m", "training", str(folder), str(os.getpid()), str(total_s), str(left_s))
    with (folder / LOG).open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own program
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        _keep(process)


def _keep(process: "subprocess.Popen[bytes]") -> None:
    """Tell a process to keep its state and end, and kill it when that takes too long."""
    process.terminate()
    try:
        process.wait(_KEEPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _note(claim: Claim, run_id: int, folder: Path) -> None:
    """Write down how far a run has come; raises LeaseLost when it is no longer ours."""
    try:
        with transaction() as session:
            training_runs.note_progress(session, claim, run_id, _progress(folder))
    except SQLAlchemyError as error:
        log.warning("the database is away; the training goes on: %s", error)


def _progress(folder: Path) -> Mapping[str, Any]:
    said = _read(folder / PROGRESS) or {"doing": "reading images"}
    return {**said, "history": _read(folder / HISTORY) or []}


def _read(file: Path) -> Any:
    with suppress(FileNotFoundError, ValueError):  # it is being written
        return json.loads(file.read_text(encoding="utf-8"))
    return None
