"""From a trained network to its artefact: calibrated, evaluated, and described."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hilum.errors import HilumError
from hilum.network import load_artefact, save_artefact
from training import agreement, data, evaluate, known, quantise, report
from training.data import Images
from training.learner import predict
from training.recipe import Recipe
from training.unseen import remembering

log = logging.getLogger(__name__)

_CALIBRATING = 256  # images trained on, from whose features int8's ranges are taken
_COMPARED = 32  # validation images on which the engines are compared


_MAY_DIFFER = {"name", "licence"}  # of a recipe: they change no figure


class WrongCrossValidation(HilumError):
    """The person who trains must give another file: this one is none, or tells of another recipe."""


def publish(
    recipe: Recipe,
    network: nn.Module,
    everything: Images,
    parts: NDArray[np.str_],
    folder: Path,
    cross_validation: Path | None = None,
    notes: str = "",
) -> Path:
    """Return the folder of a trained network's artefact and card.

    Validation patients set the temperature and what counts as strange; test patients only give the figures.
    `cross_validation` is what `read_cross_validation` takes; `notes`, Markdown, stand in the card.
    """
    training, validation, test = (everything.where(parts == part) for part in data.PARTS)
    temperature = fitted_temperature(recipe, predict(network, validation.pixels)[0], validation)

    def pooled_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(network, pixels)[1]

    strangeness = known.fit(training, validation, pooled_of)
    described = {
        "recipe": recipe.model_dump(mode="json"),
        "licence": recipe.licence,
        "data": {"digest": data.digest(everything, parts), **data.counts(everything, parts)},
        "strangeness": known.rates(strangeness, test, pooled_of),
        **({"cross_validation": read_cross_validation(cross_validation, recipe)} if cross_validation else {}),
        **({"notes": notes} if notes else {}),
    }
    now = datetime.now(UTC).replace(microsecond=0)
    artefact = save_artefact(
        folder,
        network,
        recipe.backbone,
        strangeness,
        version=f"{recipe.name}-{now:%Y%m%d}",
        temperature=temperature,
        described=described,
        created=now,
    )
    before = [load_artefact(recipe.ancestor)] if recipe.ancestor else []
    artefact = remembering(artefact, everything, parts, *before)
    calibration = training.where(_some(recipe, training, _CALIBRATING))
    artefact = quantise.add_int8(artefact, calibration, validation)
    artefact = agreement.state(artefact, validation.pixels[_some(recipe, validation, _COMPARED)])
    return report.measure(artefact, everything, parts).folder


def fitted_temperature(recipe: Recipe, logits: NDArray[np.float32], validation: Images) -> float:
    """Return the temperature of logits (N, 4) of validation images: of radiographs, if the recipe has any."""
    chosen = (validation.sources == data.PHANTOM) != recipe.needs_radiographs
    temperature = evaluate.temperature(logits[chosen], validation.labels[chosen])
    if temperature in evaluate.TEMPERATURES:
        log.warning(
            "the temperature is %g, as far as it is looked for: the probabilities of this network cannot be "
            "trusted. Give more validation patients, or train it longer.",
            temperature,
        )
    return temperature


def _some(recipe: Recipe, images: Images, count: int) -> NDArray[np.int64]:
    """Indices of some images of all sources, the same every time."""
    return np.random.default_rng(recipe.seed).permutation(len(images))[:count]


def read_cross_validation(file: Path, recipe: Recipe) -> dict[str, Any]:
    """Return what `training.folds` wrote of a recipe.

    Raises WrongCrossValidation when a file is something else, or tells of a recipe with other numbers.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        theirs = dict(found["recipe"]) if found["folds"] and found["pooled"] else {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WrongCrossValidation(
            f"{file} is no cross-validation ({error}): give the file that `hilum train --folds` wrote"
        ) from error
    ours = recipe.model_dump(mode="json")
    different = {key for key in {*ours, *theirs} - _MAY_DIFFER if ours.get(key) != theirs.get(key)}
    if different:
        raise WrongCrossValidation(
            f"{file} tells of another recipe ({', '.join(sorted(different))}): its figures would be taken "
            "for this one's. Cross-validate this recipe, or leave --cross-validation out"
        )
    return found


def notes_of(recipe_file: Path) -> str:
    """Return what the card is to say of a recipe, Markdown: NAME.notes.md beside NAME.toml; "" without it."""
    file = recipe_file.with_suffix(".notes.md")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
