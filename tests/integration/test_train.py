"""Training as a person starts it: stopped and taken up again, by several processes, and cross-validated."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilum.errors import HilumError
from tests.unit import recipes
from training import data
from training.data import Images
from training.recipe import Recipe

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from hilum.engine import choose_engine  # noqa: E402 - they need torch
from hilum.network import load_artefact  # noqa: E402
from training.folds import cross_validate, fold_parts, folds  # noqa: E402
from training.train import phantom_parts, run, train  # noqa: E402

ROOT = Path(__file__).parents[2]

# what `hilum train` does, but for the artefact at its end
RUN = """
import sys
from pathlib import Path
import torch
from training import recipe, train
from training.crew import assembled
from training.learner import begin
out = Path(sys.argv[2])
ours = recipe.read(Path(sys.argv[1]))
with assembled(ours) as crew:
    images, parts = train.prepare(ours, None, None, out, crew)
    learner = begin(ours)
    train.run(ours, learner, images, parts, out, crew)
    torch.save(learner.network.state_dict(), out / f"rank-{crew.rank}.pt")
"""


def start(*command: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=280)
    return process.returncode, said


def wait_for_epochs(process: "subprocess.Popen[str]", out: Path, count: int) -> None:
    deadline = time.monotonic() + 200
    while len(history(out)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def history(out: Path) -> list[dict[str, float]]:
    file = out / "history.json"
    return list(json.loads(file.read_text())) if file.exists() else []


def kept(out: Path) -> dict[str, Any]:
    return dict(torch.load(out / "checkpoint.pt", weights_only=True)["state"])


def test_a_training_that_was_stopped_by_ctrl_c_goes_on_to_an_artefact_that_reads(tmp_path: Path) -> None:
    long = recipes.tiny(backbone="resnet18", images_per_epoch=64)
    out, file = tmp_path / "run", recipes.write(tmp_path / "long.toml", long)
    command = ("-m", "console.cli", "train", file, "--out", out)
    process = start(*command)
    wait_for_epochs(process, out, 1)
    process.send_signal(signal.SIGINT)
    status, said = finish(process)
    assert (status, "the same command goes on from there" in said) == (130, True), said
    assert "Traceback" not in said
    assert not (out / "artefact").exists()

    status, said = finish(start(*command))
    assert status == 0, said
    lines = [line.partition(":")[0] for line in said.splitlines() if line.startswith("epoch")]
    assert lines[-1] == "epoch 3/3"
    assert len(lines) < 3
    artefact = load_artefact(out / "artefact")
    assert Recipe.model_validate(artefact.manifest["recipe"]) == long
    assert artefact.manifest["metrics"]["phantoms"]["images"] == 8
    assert "phantom" in (out / "artefact" / "MODEL_CARD.md").read_text()
    assert choose_engine(artefact, "cpu").read(data.phantoms([7]).pixels).probabilities.shape == (1, 4)
    assert not (out / "artefact.new").exists()

    assert train(file, out) == out / "artefact"  # once more
    assert load_artefact(out / "artefact").digest == artefact.digest


def test_two_processes_train_the_network_that_one_trains(tmp_path: Path) -> None:
    unsettled = recipes.tiny(settling_images=0)
    tiny, script = recipes.write(tmp_path / "tiny.toml", unsettled), tmp_path / "run.py"
    script.write_text(RUN)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    alone, together = start(script, tiny, tmp_path / "one"), start(*torchrun, script, tiny, tmp_path / "two")
    said = []
    for process in (alone, together):
        status, told = finish(process)
        assert status == 0, told
        said.append([line for line in told.splitlines() if line.startswith("epoch")])
    assert [len(lines) for lines in said] == [3, 3]
    one, two = (kept(tmp_path / name)["parts"][0] for name in ("one", "two"))
    batch_statistics = ("running_mean", "running_var", "num_batches_tracked")  # of half as many batches each
    for name, value in one.items():
        if not name.endswith(batch_statistics):
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    first, second = (torch.load(tmp_path / "two" / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


@pytest.fixture
def everything() -> Images:
    """32 phantoms that pass for radiographs, two of each patient, and the 32 of the recipe."""
    radiographs = data.phantoms(range(100, 132))
    radiographs.sources[:] = "somewhere"
    radiographs.patients[:] = [f"patient-{index // 8}-{index % 4}" for index in range(32)]
    return data.together([radiographs, data.phantoms(range(32))])


def test_every_patient_and_every_held_out_phantom_is_in_one_fold(everything: Images) -> None:
    tiny = recipes.tiny(phantom_share=0.5)
    fold_of = folds(tiny, everything, 2)
    assert (fold_of[:32] >= 0).all()
    for patient in np.unique(everything.patients[:32]):
        assert len(np.unique(fold_of[everything.patients == patient])) == 1
    held_out = np.array(phantom_parts(tiny, everything.where(np.arange(32, 64)))) == "test"
    np.testing.assert_array_equal(fold_of[32:] >= 0, held_out)
    parts = fold_parts(tiny, everything, fold_of == 1)
    assert (parts[:32][fold_of[:32] == 1] == "test").all()
    assert set(parts[:32][fold_of[:32] == 0]) == {"train", "validation"}
    assert (parts[32:][~held_out] != "test").all()


def test_a_cross_validation_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, out = recipes.write(tmp_path / "tiny.toml", recipes.tiny(held_out_phantoms=16)), tmp_path / "folds"
    begun = []

    def run_or_die(recipe: Recipe, *more: Any) -> None:
        begun.append(more[3].name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        run(recipe, *more)

    monkeypatch.setattr("training.folds.run", run_or_die)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(tiny, out, 2)
    said = json.loads(cross_validate(tiny, out, 2).read_text())
    assert begun == ["fold-1", "fold-2", "fold-2"]
    assert said["folds"] == len(said["per_fold"]) == 2
    assert said["pooled"]["phantoms"]["images"] == sum(fold["images"] for fold in said["per_fold"]) == 16
    assert said["temperature"] == pytest.approx(np.mean([fold["temperature"] for fold in said["per_fold"]]))
    answers = (out / "fold-1" / "answers.csv").read_text().splitlines()
    assert answers[0] == "sha256,class,logit Normal,logit Pneumonia,logit COVID-19,logit Other"
    assert not (out / "fold-1" / "checkpoint.pt").exists()

    answered, *rest = (out / "fold-1" / "answers.csv").read_text().splitlines()[1:]
    (out / "fold-1" / "answers.csv").write_text("\n".join([answers[0], *rest, answered]) + "\n")
    assert json.loads(cross_validate(tiny, out, 2).read_text()) == said  # in whatever order they stand
    (out / "fold-1" / "answers.csv").write_text("\n".join([answers[0], *rest]) + "\n")
    with pytest.raises(HilumError, match="does not answer the images of its fold"):
        cross_validate(tiny, out, 2)

    other = recipes.write(tmp_path / "tiny.toml", recipes.tiny(held_out_phantoms=16, mixup=0.3))
    with pytest.raises(HilumError, match=r"fold-1/fold\.json is of another recipe"):
        cross_validate(other, out, 2)
