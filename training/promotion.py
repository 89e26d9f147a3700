"""Promotion: a training's network is judged against the champion, and what it may become is written down.

A network that passes is a candidate, or what the settings make of it; one that does not is kept as refused,
so that a person can look why.
"""

from pathlib import Path

from db import networks, training_runs
from db.session import transaction
from db.tables import NetworkState, TrainingRun
from hilum import artefacts
from hilum.engine import Engine, choose_engine
from hilum.network import Artefact
from hilum.queue import have_networks_loaded
from hilum.settings import settings
from hilum.store import Store
from training import data, reader, split
from training.data import Images
from training.drawings import FOLDER, draw
from training.gate import Rule, Verdict, judge, verdict_of
from training.unseen import held_out_phantoms


def test_images(
    images: Path | None,
    manifest: Path | None,
    split_file: Path,
    artefact: Artefact,
    cache: Path | None = None,
) -> Images:
    """Return what a training kept for its test: its radiographs, and its phantoms, drawn anew.

    `images`, `manifest` and `cache` are what `training.reader.read` takes; without images it is phantoms
    alone. Raises WrongSplit when the split is of other images.
    """
    phantoms = held_out_phantoms(artefact.manifest)
    if images is None:
        return phantoms
    everything = reader.read(images, manifest=manifest, cache=cache)
    return data.together([everything.where(split.read(split_file, everything) == "test"), phantoms])


def put_to_the_gate(run_id: int, folder: Path, images: Images) -> Verdict:
    """Return the verdict on a training's network, an artefact's folder, after all that follows from it.

    The network lies in the store then, and has its row; the run's row has the verdict, and beside the
    artefact lie the `training.drawings` of its answers. Where another network
    became the champion meanwhile, it is judged against that one. A run is judged once.

    Raises NetworkError when no network reads here, or one of the two cannot be loaded.
    """
    with transaction() as session:
        told = session.get_one(TrainingRun, run_id).gate
    if told is not None:
        return verdict_of(told)
    challenger = artefacts.keep(Store(settings().store), folder)
    while True:
        reading = champion()
        verdict = judge(reading, challenger, images, rule=rule(), engine_of=_engine)
        if verdict.answers is not None:
            draw(verdict.answers[1], folder.parent / FOLDER)
        if _written(run_id, reading, challenger, verdict):
            have_networks_loaded()  # where the settings have put it into service
            return verdict


def rule() -> Rule:
    """Return the rule that the settings give."""
    ours = settings()
    return Rule(
        margin=ours.gate_margin,
        overall_margin=ours.gate_overall_margin,
        least_cases=ours.gate_least_cases,
    )


def champion() -> Artefact:
    """Return the network that reads here, which a challenger begins with and is judged against.

    Raises NetworkError when there is none, or it is broken.
    """
    reading = networks.serving()[NetworkState.CHAMPION]
    return artefacts.kept(Store(settings().store), reading.digest)


def _engine(artefact: Artefact) -> Engine:
    """The engine that reads at work, but for int8, which a network that was just trained does not have."""
    return choose_engine(artefact, settings().device)


def _written(run_id: int, judged_against: Artefact, challenger: Artefact, verdict: Verdict) -> bool:
    """Whether the verdict was written down; not where it is on another champion than the one that reads."""
    words = " ".join(verdict.sentences)
    with transaction() as session:
        networks.bring(session, challenger, actor=networks.GATE, because=f"training {run_id}", run_id=run_id)
        reading = networks.champion(session)  # nobody changes it now: bring holds all networks
        if reading is None or reading.digest not in (judged_against.digest, challenger.digest):
            return False
        training_runs.judge(session, run_id, passed=verdict.passed, gate=verdict.json())
        networks.after_gate(session, challenger.digest, passed=verdict.passed, because=words)
    return True
