"""What follows from the gate's verdict: rows, the store, and what the network may become."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("torch")

from db import networks, training_runs
from db.session import transaction
from db.tables import NetworkState, NetworkVersion, RunState, TrainingRun
from hilum.artefacts import keep
from hilum.engine import choose_engine
from hilum.network import WEIGHTS, load_artefact
from hilum.settings import settings
from hilum.store import Store
from tests.conftest import SettingsChange
from tests.unit import artefacts
from tests.unit.test_evaluate import known_images
from training import gate, promotion
from training.data import Images
from training.drawings import FOLDER, WORST
from training.promotion import put_to_the_gate

BACKBONE = "mobilenet_v3_small"
RECIPE = {"training_phantoms": 4, "held_out_phantoms": 4}


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact that is sure of its answers."""
    folder = artefacts.untrained(tmp_path_factory.mktemp("right") / "artefact", BACKBONE)
    artefacts.rewrite_manifest(folder, temperature=0.001, recipe=RECIPE)
    return folder


@pytest.fixture(scope="module")
def wrong(right: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact that says the opposite, with the same certainty."""
    folder = tmp_path_factory.mktemp("wrong") / "artefact"
    shutil.copytree(right, folder)
    weights = folder / WEIGHTS
    tensors = load_file(weights)
    for name in ("classifier.4.weight", "classifier.4.bias"):
        tensors[name] = -tensors[name]
    save_file(tensors, weights)
    digests = {
        **load_artefact(right).manifest["sha256"],
        WEIGHTS: hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    artefacts.rewrite_manifest(folder, sha256=digests, version="wrong")
    return folder


@pytest.fixture(scope="module")
def images(right: Path) -> Images:
    """Images whose labels are what the one network answers."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 7, 7), np.uint8).repeat(32, 1).repeat(32, 2)
    said = choose_engine(load_artefact(right), "cpu").read(pixels).logits.argmax(axis=1)
    patients = np.array([f"patient-{index}" for index in range(40)])
    return known_images(said.astype(np.int64), pixels=pixels, patients=patients)


@pytest.fixture
def a_run(database_url: str, hilum_env: SettingsChange) -> int:
    hilum_env(gate_least_cases=20, device="cpu")
    with transaction() as session:
        run = training_runs.begin(session, {"name": "tiny"})
        training_runs.succeed(session, run, artefact="somewhere", manifest={})
    return run


def seen(run: int, folder: Path) -> tuple[TrainingRun, NetworkVersion]:
    with transaction() as session:
        return (
            session.get_one(TrainingRun, run),
            session.get_one(NetworkVersion, load_artefact(folder).digest),
        )


@pytest.mark.parametrize(
    ("promote", "becomes"),
    [
        ("person", NetworkState.CANDIDATE),
        ("shadow", NetworkState.SHADOW),
        ("champion", NetworkState.CHAMPION),
    ],
)
def test_who_passes_becomes_what_the_settings_say(
    a_run: int,
    right: Path,
    wrong: Path,
    images: Images,
    hilum_env: SettingsChange,
    promote: str,
    becomes: NetworkState,
) -> None:
    hilum_env(network_dir=wrong, promote=promote)
    verdict = put_to_the_gate(a_run, right, images)
    assert verdict.passed, verdict.sentences
    run, network = seen(a_run, right)
    assert (run.state, network.state, network.run_id) == (RunState.PASSED, becomes, a_run)
    assert run.gate == verdict.json()
    named = {name: run.gate["networks"][name]["digest"] for name in ("champion", "challenger")}
    assert named == {
        "champion": load_artefact(wrong).digest,
        "challenger": load_artefact(right).digest,
    }
    assert load_artefact(Store(settings().store).path(network.path)).digest == network.digest


def test_who_does_not_pass_is_kept_as_refused(
    a_run: int, right: Path, wrong: Path, images: Images, hilum_env: SettingsChange
) -> None:
    hilum_env(network_dir=right, promote="champion")
    verdict = put_to_the_gate(a_run, wrong, images)
    assert not verdict.passed
    run, network = seen(a_run, wrong)
    assert (run.state, network.state) == (RunState.REFUSED, NetworkState.REFUSED)
    assert load_artefact(Store(settings().store).path(network.path)).digest == network.digest
    with transaction() as session:
        assert networks.champion(session).version == load_artefact(right).version  # type: ignore[union-attr]
        said = networks.changes(session, network.digest)[-1].because
    assert "Worse in radiographs, accuracy: 0.0" in said
    drawn = {file.name for file in (wrong.parent / FOLDER).iterdir()}
    assert drawn == {"confusion.png", "roc.png", "reliability.png", WORST}


def test_a_run_is_judged_once(
    a_run: int, right: Path, wrong: Path, images: Images, hilum_env: SettingsChange
) -> None:
    """Else who has become the champion by itself would be judged against itself."""
    hilum_env(network_dir=wrong, promote="champion")
    verdicts = [put_to_the_gate(a_run, right, images) for _ in range(2)]
    assert verdicts[0].json() == verdicts[1].json()
    assert seen(a_run, right)[0].state is RunState.PASSED


def test_who_was_judged_against_a_former_champion_is_judged_again(
    a_run: int,
    right: Path,
    wrong: Path,
    images: Images,
    tmp_path: Path,
    hilum_env: SettingsChange,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A person promotes another one while the gate reads: the verdict is on who reads then."""
    hilum_env(network_dir=wrong)
    networks.install()
    as_good = tmp_path / "as-good"
    shutil.copytree(right, as_good)
    artefacts.rewrite_manifest(as_good, version="as-good")

    def promoted_meanwhile(*arguments: Any, **how: Any) -> Any:
        verdict = gate.judge(*arguments, **how)
        kept = keep(Store(settings().store), as_good)
        with transaction() as session:
            if networks.champion(session).version != "as-good":  # type: ignore[union-attr]
                networks.bring(session, kept, actor="anna")
                networks.promote(session, kept.digest, actor="anna", because="meanwhile")
        return verdict

    monkeypatch.setattr(promotion, "judge", promoted_meanwhile)
    verdict = put_to_the_gate(a_run, right, images)
    assert "Not better anywhere" in " ".join(verdict.sentences)
    told = seen(a_run, right)[0].gate
    assert json.loads(json.dumps(told))["networks"]["champion"]["version"] == "as-good"


def test_the_test_part_is_read_from_where_the_training_read_it(right: Path, tmp_path: Path) -> None:
    from PIL import Image

    from training import reader, split

    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "manifest.csv").write_text(
        "file,class,patient_id\n" + "".join(f"{n}.png,normal,p{n}\n" for n in range(4))
    )
    for n in range(4):
        Image.fromarray(np.full((64, 64), 40 * n, np.uint8)).save(folder / f"{n}.png")
    everything = reader.read(folder)
    split.write(tmp_path / "split.csv", everything, np.array(["train", "test", "validation", "test"]))
    taken = promotion.test_images(folder, None, tmp_path / "split.csv", load_artefact(right))
    assert taken.patients.tolist() == ["p1", "p3", *(f"phantom-{seed}" for seed in range(8, 12))]
