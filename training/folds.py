"""Cross-validation: every patient is answered once, by a network that has not learnt from them."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.network import LABELS
from training import data, evaluate, split
from training import recipe as recipes
from training.checkpoint import Training, write_safely
from training.crew import Alone, assembled
from training.data import Images
from training.learner import begin, predict
from training.publish import fitted_temperature
from training.recipe import Recipe
from training.train import (
    CHECKPOINT,
    CannotTrain,
    check_parts,
    check_writable,
    gather_in_turn,
    in_words,
    learnt_before,
    phantom_parts,
    run,
    split_in,
)

FIGURES = "cross-validation.json"
_ANSWERS, _FOLD = "answers.csv", "fold.json"


@dataclass(frozen=True)
class Answers:
    """What one fold's network said of the images kept from it."""

    logits: NDArray[np.float64]
    """(N, 4), in the order of the images."""
    temperature: float

    @property
    def probabilities(self) -> NDArray[np.float64]:
        return evaluate.softmax(self.logits / self.temperature)


def cross_validate(
    recipe_file: Path,
    out: Path,
    count: int,
    *,
    images: Path | None = None,
    manifest: Path | None = None,
    cache: Path | None = None,
) -> Path:
    """Return `out`/cross-validation.json: the figures of a recipe, cross-validated over patients.

    `images`, `manifest` and `cache` are what `training.reader.read` takes. Each fold trains on the others, of
    which a part is kept for its validation, and has a folder of its own; what a folder already holds is not
    done again. The file has the figures of each fold and `pooled`, those of all answers together
    (`training.evaluate.report`), and the mean temperature.
    """
    recipe = recipes.read(recipe_file)
    with in_words(out), assembled(recipe) as crew:
        check_writable(out)
        everything = gather_in_turn(recipe, images, manifest, crew, cache=cache)
        if learnt_before(recipe, everything).any():
            raise CannotTrain(
                f"{recipe.weights} has learnt from patients of the folds: begin with other weights"
            )
        fold_of = folds(recipe, everything, count)
        answers = [
            _fold(recipe, everything, fold_of == number, out / f"fold-{number + 1}", crew)
            for number in range(count)
        ]
        if crew.rank == 0:
            write_safely(out / FIGURES, json.dumps(_figures(recipe, everything, fold_of, answers)).encode())
        crew.wait()
    return out / FIGURES


def folds(recipe: Recipe, everything: Images, count: int) -> NDArray[np.int64]:
    """Return each image's fold, (N,) in 0..count-1; -1 for phantoms that the recipe does not hold out."""
    fold_of = split.folds(everything, count, recipe.seed)
    is_phantom = everything.sources == data.PHANTOM
    held_out = np.array(phantom_parts(recipe, everything.known_of(is_phantom))) == "test"
    fold_of[is_phantom] = np.where(held_out, fold_of[is_phantom], -1)
    return fold_of


def fold_parts(recipe: Recipe, everything: Images, is_kept: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Return each image's part when a fold, a mask (N,), is kept for the test."""
    _, validation, _ = recipe.shares
    rest = everything.known_of(~is_kept)
    share = validation / (1 - recipe.shares[2])
    parts = np.full(len(everything), "test", "<U10")
    parts[~is_kept] = split.parts(rest, (1 - share, share, 0.0), recipe.seed)
    is_phantom = everything.sources == data.PHANTOM
    parts[is_phantom] = phantom_parts(recipe, everything.known_of(is_phantom))
    return parts


def _fold(recipe: Recipe, everything: Images, is_kept: NDArray[np.bool_], out: Path, crew: Alone) -> Answers:
    """The answers of a network that has not learnt from the images kept; from its folder, if it has them."""
    out.mkdir(exist_ok=True)
    parts = split_in(out, everything, lambda: fold_parts(recipe, everything, is_kept), crew)
    check_parts(everything, parts, (everything.sources == data.PHANTOM) != recipe.needs_radiographs)
    training, kept = Training(recipe, everything, parts), everything.where(is_kept)
    if not (out / _FOLD).exists():
        learner = begin(recipe)
        run(recipe, learner, everything, parts, out, crew)
        validation = everything.where(parts == "validation")
        temperature = fitted_temperature(recipe, predict(learner.network, validation.pixels)[0], validation)
        logits = predict(learner.network, kept.pixels)[0]
        if crew.rank == 0:
            _write_answers(out / _ANSWERS, kept, logits)
            write_safely(
                out / _FOLD, json.dumps({"of": training.described, "temperature": temperature}).encode()
            )
            (out / CHECKPOINT).unlink()
        crew.wait()
    told = json.loads((out / _FOLD).read_text(encoding="utf-8"))
    training.require(out / _FOLD, told["of"])
    return Answers(_read_answers(out / _ANSWERS, kept), told["temperature"])


def _write_answers(file: Path, images: Images, logits: NDArray[np.float32]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sha256", "class", *(f"logit {label}" for label in LABELS)])
    for digest, label, row in zip(images.digests, images.labels, logits.tolist(), strict=True):
        writer.writerow([digest, LABELS[label], *row])
    write_safely(file, text.getvalue().encode())


def _read_answers(file: Path, images: Images) -> NDArray[np.float64]:
    """The logits of each image, in the order of the images, which need not be the file's."""
    with file.open(newline="", encoding="utf-8") as lines:
        answered = {row["sha256"]: row for row in csv.DictReader(lines)}
    if set(answered) != set(images.digests.tolist()):
        raise CannotTrain(
            f"{file} does not answer the images of its fold: remove {file.parent}, and it is trained anew"
        )
    names = [f"logit {label}" for label in LABELS]
    return np.array([[answered[digest][name] for name in names] for digest in images.digests], np.float64)


def _figures(
    recipe: Recipe, everything: Images, fold_of: NDArray[np.int64], answers: list[Answers]
) -> dict[str, Any]:
    logits, probabilities = np.zeros((2, len(everything), len(LABELS)))
    for number, said in enumerate(answers):
        logits[fold_of == number], probabilities[fold_of == number] = said.logits, said.probabilities
    answered = fold_of >= 0
    return {
        "folds": len(answers),
        "recipe": recipe.model_dump(mode="json"),
        "data": {"digest": data.digest(everything, fold_of.astype(np.str_))},
        "temperature": float(np.mean([said.temperature for said in answers])),
        "per_fold": [
            {
                "temperature": said.temperature,
                "images": len(said.logits),
                **_short(everything.where(fold_of == number), said),
            }
            for number, said in enumerate(answers)
        ],
        "pooled": evaluate.report(
            probabilities[answered], everything.where(answered), logits=logits[answered]
        ),
    }


def _short(images: Images, said: Answers) -> dict[str, dict[str, float]]:
    """Loss, accuracy and macro F1 of a fold's radiographs and of its phantoms."""
    is_phantom = images.sources == data.PHANTOM
    return {
        name: {
            "loss": evaluate.log_loss(said.logits[chosen] / said.temperature, images.labels[chosen]),
            **evaluate.short(said.logits[chosen], images.labels[chosen]),
        }
        for name, chosen in (("radiographs", ~is_phantom), ("phantoms", is_phantom))
        if chosen.any()
    }
