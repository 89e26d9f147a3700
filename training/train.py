"""Training, from a recipe and labelled images to an artefact.

Reads from top to bottom: images, network, one loop, what is published. Run again with the same arguments it
goes on where it was stopped, and ends with the same weights as if it had not been.
"""

import errno
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from hilum.errors import HilumError, Interrupted
from hilum.network import LABELS, head_of, load_artefact, normalise, pooled
from training import data, evaluate, head, progress, reader, snapshot, split
from training import recipe as recipes
from training.augment import resized
from training.batches import Drawing, batch, seed
from training.budget import ENDLESS, Budget
from training.checkpoint import Checkpoint, Training
from training.crew import Alone, Interruption, assembled
from training.data import Images
from training.learner import DEVICE, Learner, begin, predict, settle
from training.losses import Loss, loss_of
from training.recipe import Recipe, Stage
from training.unseen import LEARNT, NothingUnseen, unseen

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


class CannotTrain(HilumError):
    """The person who trains must act: images are missing, or the recipe's numbers lead nowhere."""


def train(
    recipe_file: Path,
    out: Path,
    *,
    images: Path | None = None,
    manifest: Path | None = None,
    cross_validation: Path | None = None,
    cache: Path | None = None,
    budget: Budget = ENDLESS,
) -> Path:
    """Return the folder of a trained, calibrated and evaluated network: `out`/artefact.

    `images`, `manifest` and `cache` are what `training.reader.read` takes; phantoms alone need none.
    `cross_validation` is a file that `training.folds` wrote: its figures become part of the artefact. `out`
    also keeps the split, the checkpoint, `history.json` and its figure. The test part is looked at once, when
    all is decided; an artefact that is there already stays as it is. When the budget is used up, learning
    ends with the epoch.
    """
    from training.publish import notes_of, publish, read_cross_validation

    recipe, artefact = recipes.read(recipe_file), out / "artefact"
    if cross_validation:
        read_cross_validation(cross_validation, recipe)
    with in_words(out), assembled(recipe) as crew:
        check_writable(out)
        learner = begin(recipe)
        everything, parts = prepare(recipe, images, manifest, out, crew, cache=cache)
        if not is_finished(artefact, Training(recipe, everything, parts)):
            run(recipe, learner, everything, parts, out, crew, budget)
            if crew.rank == 0:
                aside = empty(out / "artefact.new")
                publish(
                    recipe, learner.network, everything, parts, aside, cross_validation, notes_of(recipe_file)
                )
                aside.rename(artefact)
        crew.wait()
    return artefact


@contextmanager
def in_words(out: Path) -> Iterator[None]:
    """Raise CannotTrain, which says what to do, when within it room or memory runs out."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CannotTrain(
            f"{out}: {error.strerror}: make room and give the same command again; what was kept is used"
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise CannotTrain(
            "the memory does not suffice: end other programs, or lower batch_size or size_px in the recipe"
        ) from error


def is_finished(artefact: Path, training: Training) -> bool:
    """Tell whether there is an artefact already; CheckpointError when it is of another training."""
    if not artefact.exists():
        return False
    manifest = load_artefact(artefact).manifest
    training.require(artefact, {"data": manifest["data"]["digest"], "recipe": manifest["recipe"]})
    log.warning("%s is finished and stays as it is: remove it to have it made anew", artefact)
    return True


def empty(folder: Path) -> Path:
    """Return a folder that is new, whatever an earlier try left there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder


def check_writable(folder: Path) -> None:
    """Make a folder; CannotTrain when nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CannotTrain(f"{folder} cannot be written to ({error.strerror}): name another folder") from error


def prepare(
    recipe: Recipe,
    images: Path | None,
    manifest: Path | None,
    out: Path,
    crew: Alone,
    *,
    cache: Path | None = None,
) -> tuple[Images, NDArray[np.str_]]:
    """Return all images, and the part of each: `out`/split.csv has it, and is written where it is missing.

    Raises
    ------
    CannotTrain
        If a part lacks a class, or nothing is left to test a network that learnt before.
    SplitLeaks, WrongSplit
        If the file was altered, is of other images, or has a patient in two parts.
    """
    everything = gather_in_turn(recipe, images, manifest, crew, cache=cache)
    given = snapshot.parts_of(manifest) if manifest and recipe.needs_radiographs else None
    if given is None:
        parts = split_in(out, everything, lambda: _parts(recipe, everything), crew)
    else:
        parts = split_in(out, everything, lambda: _with_phantoms(recipe, everything, given), crew)
        kept = ~(may_have_been_learnt(recipe, everything) & (parts == "test"))
        if not kept.all():
            log.warning("%d test images are left out: the first network has learnt from them", (~kept).sum())
            everything, parts = everything.where(kept), parts[kept]
    check_parts(everything, parts, (everything.sources == data.PHANTOM) != recipe.needs_radiographs)
    return everything, parts


def split_in(
    folder: Path, everything: Images, make: Callable[[], NDArray[np.str_]], crew: Alone
) -> NDArray[np.str_]:
    """Return the split that a folder has; it is made where there is none."""
    file = folder / "split.csv"
    if crew.rank == 0 and not file.exists():
        split.write(file, everything, make())
    crew.wait()
    return split.read(file, everything)


def _parts(recipe: Recipe, everything: Images) -> NDArray[np.str_]:
    parts = split.parts(everything, recipe.shares, recipe.seed)
    is_phantom = everything.sources == data.PHANTOM
    parts[is_phantom] = phantom_parts(recipe, everything.known_of(is_phantom))
    parts[learnt_before(recipe, everything) & (parts == "test")] = "train"
    return parts


def _with_phantoms(recipe: Recipe, everything: Images, given: NDArray[np.str_]) -> NDArray[np.str_]:
    """The parts that a manifest gives its images, and after them those of phantoms."""
    if unknown := sorted({*given.tolist()} - {*data.PARTS}):
        raise CannotTrain(f"{unknown[0]!r} is no part: a manifest's are {', '.join(data.PARTS)}")
    phantoms = everything.known_of(everything.sources == data.PHANTOM)
    return np.array([*given.tolist(), *phantom_parts(recipe, phantoms)], np.str_)


def learnt_before(recipe: Recipe, everything: Images) -> NDArray[np.bool_]:
    """Return whose patients the network that a recipe begins with has learnt from, (N,): they cannot test it.

    Nobody, where the weights are of no artefact: a file by itself does not tell.

    Raises CannotTrain when that is everybody, or the network does not tell.
    """
    if recipe.ancestor is None:
        return np.zeros(len(everything), np.bool_)
    try:
        return ~unseen(load_artefact(recipe.ancestor), everything)
    except NothingUnseen as error:
        raise CannotTrain(
            f"nothing here can test what is made of {recipe.weights}: it has learnt from all these patients, "
            "or does not tell from whom. Give images of others, or put the split.csv of its training "
            "where this one's is to be"
        ) from error


def may_have_been_learnt(recipe: Recipe, everything: Images) -> NDArray[np.bool_]:
    """Return the same, (N,), as far as the network tells: where it does not, nobody.

    Enough where the parts are given, and one who is tested on was never learnt from here.
    """
    ancestor = None if recipe.ancestor is None else load_artefact(recipe.ancestor)
    if ancestor is None or LEARNT not in ancestor.manifest["sha256"]:
        return np.zeros(len(everything), np.bool_)
    return learnt_before(recipe, everything)


def phantom_parts(recipe: Recipe, phantoms: Images) -> list[str]:
    """Return the part of each phantom, by its seed: first those trained on, then those held out."""
    ends = [recipe.training_phantoms, recipe.training_phantoms + recipe.held_out_phantoms]
    seeds = [int(patient.rsplit("-", 1)[1]) for patient in phantoms.patients]
    return [data.PARTS[int(place)] for place in np.searchsorted(ends, seeds, side="right")]


def gather(
    recipe: Recipe,
    images: Path | None,
    manifest: Path | None,
    *,
    cache: Path | None = None,
    quiet: bool = False,
) -> Images:
    """Return the recipe's phantoms, after the radiographs (see `training.reader.read`) if it asks for any.

    These are read first: what is wrong with them is told at once.
    """
    read = [reader.read(images, manifest=manifest, cache=cache)] if recipe.needs_radiographs else []
    seeds = range(recipe.training_phantoms + 2 * recipe.held_out_phantoms)
    return data.together([*read, data.phantoms(progress.shown(seeds, "drawing phantoms", quiet=quiet))])


def gather_in_turn(
    recipe: Recipe,
    images: Path | None,
    manifest: Path | None,
    crew: Alone,
    *,
    cache: Path | None = None,
) -> Images:
    """Return what `gather` does; the first process decodes, and the others find what it has kept."""
    if crew.rank > 0:
        crew.wait()
    everything = gather(recipe, images, manifest, cache=cache, quiet=crew.rank > 0)
    if crew.rank == 0:
        crew.wait()
    return everything


def check_parts(everything: Images, parts: NDArray[np.str_], needed: NDArray[np.bool_]) -> None:
    """Raise CannotTrain when, of the images of a mask, a part lacks a class, or there are none to test."""
    lacking = [
        f"{part} has no image of {name}"
        for part in ("train", "validation")
        for label, name in enumerate(LABELS)
        if not np.any(needed & (parts == part) & (everything.labels == label))
    ]
    lacking += [] if np.any(needed & (parts == "test")) else ["test has no image"]
    if lacking:
        raise CannotTrain(
            f"{'; '.join(lacking)}: give more patients, or change the recipe's shares: a network "
            "learns no class that it is not shown"
        )


def run(
    recipe: Recipe,
    learner: Learner,
    everything: Images,
    parts: NDArray[np.str_],
    out: Path,
    crew: Alone,
    budget: Budget = ENDLESS,
) -> None:
    """Train from the checkpoint in `out`, if there is one; the network is then finished.

    It has the best weights seen, and the head that the recipe asks for.

    Raises Interrupted, with the state kept, when the process is told to stop.
    """
    checkpoint = Checkpoint(out / CHECKPOINT, Training(recipe, everything, parts))
    if (state := checkpoint.load(DEVICE)) is not None:
        learner.restore(dict(state))
    with Interruption() as interruption:
        learn(recipe, learner, everything, parts, checkpoint, crew, interruption, budget)
    learner.network.load_state_dict(learner.best)
    head.finish(learner.network, recipe, everything.where(parts == "train"))


def learn(
    recipe: Recipe,
    learner: Learner,
    everything: Images,
    parts: NDArray[np.str_],
    checkpoint: Checkpoint,
    crew: Alone,
    interruption: Interruption,
    budget: Budget = ENDLESS,
) -> None:
    """Run the recipe's remaining epochs; afterwards `learner.best` holds the weights to keep.

    Best is the lowest validation loss among the epochs of the last stage, the only ones seen at full size.
    When the budget is used up no epoch is begun any more, but for one of the last stage where there was none.
    """
    drawing = Drawing(recipe, everything, parts == "train")
    validation = everything.where(parts == "validation")
    loss_for = loss_of(recipe.loss)
    with progress.Bar(recipe, drawing.steps, checkpoint.folder, quiet=crew.rank > 0) as bar:
        while not learner.is_done(recipe):
            if crew.any(budget.is_over):
                if learner.best:
                    break
                learner.epoch = max(learner.epoch, recipe.epochs - recipe.stages[-1].epochs)
            stage = recipe.stage_of(learner.epoch)
            for batches in drawing.epoch(learner.epoch)[learner.step :]:
                learner.network.train()
                done = (learner.epoch + learner.step / drawing.steps) / recipe.epochs
                learner.schedule.before_step(crew.of_first(max(done, budget.used)))
                learner.optimizer.zero_grad()
                losses = torch.zeros_like(learner.losses)
                for number in crew.own(len(batches)):
                    seed(recipe.seed, learner.epoch, learner.step, number)
                    gray, targets = batch(recipe, everything, batches[number], DEVICE)
                    losses += _backward(recipe, learner, gray, targets, stage, loss_for) / len(batches)
                crew.add_up([*learner.gradients(), losses])
                norm = clip_grad_norm_(learner.parameters, recipe.gradient_norm)
                loss = _finite(losses, norm, learner.epoch)
                learner.optimizer.step()
                learner.average.update_parameters(learner.network)
                learner.losses += losses
                bar.show(learner.epoch, learner.step, loss)
                learner.step += 1
                _heed(interruption, recipe, learner, checkpoint, crew, is_due=checkpoint.is_due)
            _look(recipe, learner, everything, validation, drawing, crew)
            bar.tell(learner.history[-1])
            _heed(interruption, recipe, learner, checkpoint, crew, is_due=True)


def _backward(
    recipe: Recipe, learner: Learner, gray: Tensor, targets: Tensor, stage: Stage, loss_for: Loss
) -> Tensor:
    """Add a batch's gradients; return its losses (2,), of labels and of the teacher."""
    with torch.autocast(DEVICE.type, torch.bfloat16):
        maps = learner.maps_of(learner.network, normalise(resized(gray, stage.size_px)))
        logits = head_of(learner.network)(pooled(maps[-1]))
        teacher_loss = learner.teacher(gray, maps)
    label_loss = loss_for(logits.float(), targets)
    loss = (label_loss + recipe.teacher_weight * teacher_loss) / recipe.batches_per_step
    loss.backward()
    return torch.stack([label_loss, teacher_loss]).detach()


def _finite(losses: Tensor, norm: Tensor, epoch: int) -> float:
    """The labels' loss, which has to be a number, and the gradients too: the weights cannot be mended."""
    for value, name in ((float(norm), "gradient"), (loss := float(losses[0]), "loss")):
        _require_finite(value, name, epoch)
    return loss


def _require_finite(value: float, name: str, epoch: int) -> None:
    if not math.isfinite(value):
        raise CannotTrain(f"the {name} became {value} in epoch {epoch + 1}: lower the recipe's learning_rate")


def _look(
    recipe: Recipe,
    learner: Learner,
    everything: Images,
    validation: Images,
    drawing: Drawing,
    crew: Alone,
) -> None:
    """End an epoch: measure the average on validation images, and remember its weights if they are best."""
    stage, average = recipe.stage_of(learner.epoch), learner.average.module
    crew.average(learner.statistics())
    is_last = stage is recipe.stages[-1]
    if is_last:
        shown = drawing.some(recipe.settling_images, learner.epoch)
        settle(average, everything.pixels[shown], stage.validation_size_px)
    logits = predict(average, validation.pixels, stage.validation_size_px)[0]
    _require_finite(float(logits.sum()), "validation", learner.epoch)
    training_loss, teacher_loss = (learner.losses / drawing.steps).tolist()
    entry = {
        "epoch": learner.epoch + 1,
        "size_px": stage.validation_size_px,
        "learning_rate": learner.optimizer.param_groups[0]["lr"],
        "training_loss": training_loss,
        "teacher_loss": teacher_loss,
        **_figures(logits, validation, recipe),
    }
    entry["loss"] = crew.of_first(entry["loss"])
    learner.history.append(entry)
    learner.schedule.after_epoch(entry["loss"])
    if is_last and entry["loss"] < learner.best_loss:
        learner.best_loss = entry["loss"]
        learner.best = {name: value.clone() for name, value in average.state_dict().items()}
    learner.losses.zero_()
    learner.epoch, learner.step = learner.epoch + 1, 0


def _figures(logits: NDArray[np.float32], validation: Images, recipe: Recipe) -> dict[str, float]:
    """Loss, accuracy and macro F1 of the radiographs, or of phantoms if the recipe has them alone."""
    is_phantom = validation.sources == data.PHANTOM
    chosen = is_phantom != recipe.needs_radiographs
    said = {"loss": evaluate.log_loss(logits[chosen], validation.labels[chosen])}
    said |= evaluate.short(logits[chosen], validation.labels[chosen])
    if is_phantom.any():
        said["phantoms"] = evaluate.short(logits[is_phantom], validation.labels[is_phantom])["accuracy"]
    return said


def _heed(
    interruption: Interruption,
    recipe: Recipe,
    learner: Learner,
    checkpoint: Checkpoint,
    crew: Alone,
    *,
    is_due: bool,
) -> None:
    """Keep the state when that is due, or when the training is to stop, which it then does."""
    is_asked = crew.any(interruption.asked)
    if crew.rank == 0 and (is_asked or is_due):
        checkpoint.keep(learner.state())
        progress.write(learner.history, checkpoint.folder)
    if is_asked:
        raise Interrupted(
            f"stopped after {learner.epoch} of {recipe.epochs} epochs; all is kept in {checkpoint.folder}: "
            "the same command goes on from there"
        )
