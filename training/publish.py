"""From a trained network to its artefact: calibrated, evaluated, and described."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hilum.network import save_artefact
from training import agreement, data, evaluate, known, quantise, report
from training.data import Images
from training.learner import predict
from training.recipe import Recipe

_CALIBRATING = 256  # images trained on, from whose features int8's ranges are taken
_COMPARED = 32  # validation images on which the engines are compared


def publish(
    recipe: Recipe,
    network: nn.Module,
    everything: Images,
    parts: NDArray[np.str_],
    folder: Path,
    cross_validation: Path | None = None,
) -> Path:
    """Return the folder of a trained network's artefact and card.

    Validation patients set the temperature and what counts as strange; test patients only give the figures.
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
        **_cross_validation(cross_validation),
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
    some = np.random.default_rng(recipe.seed).permutation(len(training))[:_CALIBRATING]
    artefact = quantise.add_int8(artefact, training.where(some), validation)
    artefact = agreement.state(artefact, validation.pixels[:_COMPARED])
    return report.measure(artefact, everything, parts).folder


def fitted_temperature(recipe: Recipe, logits: NDArray[np.float32], validation: Images) -> float:
    """Return the temperature of logits (N, 4) of validation images: of radiographs, if the recipe has any."""
    chosen = (validation.sources == data.PHANTOM) != recipe.needs_radiographs
    return evaluate.temperature(logits[chosen], validation.labels[chosen])


def _cross_validation(file: Path | None) -> dict[str, Any]:
    return {} if file is None else {"cross_validation": json.loads(file.read_text(encoding="utf-8"))}
