"""From a trained network to its artefact: calibrated, evaluated, and described."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hilum.network import LABELS, save_artefact
from hilum.strangeness import Strangeness
from training import data, evaluate, report
from training.data import Images
from training.learner import predict
from training.recipe import Recipe

_ENOUGH = 1000  # images trained on that tell what is known


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
    training, validation = (everything.where(parts == part) for part in ("train", "validation"))
    some = np.random.default_rng(recipe.seed).permutation(len(training)) < _ENOUGH
    sample = training.where(some)
    logits, pooled = predict(network, validation.pixels)
    temperature = fitted_temperature(recipe, logits, validation)
    strangeness = known(sample, predict(network, sample.pixels)[1], pooled)
    described = {
        "recipe": recipe.model_dump(mode="json"),
        "licence": recipe.licence,
        "data": {"digest": data.digest(everything, parts), **data.counts(everything, parts)},
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
    return report.measure(artefact, everything, parts).folder


def fitted_temperature(recipe: Recipe, logits: NDArray[np.float32], validation: Images) -> float:
    """Return the temperature of logits (N, 4) of validation images: of radiographs, if the recipe has any."""
    chosen = (validation.sources == data.PHANTOM) != recipe.needs_radiographs
    return evaluate.temperature(logits[chosen], validation.labels[chosen])


def _cross_validation(file: Path | None) -> dict[str, Any]:
    return {} if file is None else {"cross_validation": json.loads(file.read_text(encoding="utf-8"))}


def known(training: Images, pooled: NDArray[np.float32], held_out: NDArray[np.float32]) -> Strangeness:
    """Return what the network knows: means per label of radiographs and of phantoms, how far others lie."""
    groups = np.where(training.sources == data.PHANTOM, len(LABELS), 0) + training.labels
    members = [pooled[groups == group] for group in np.unique(groups)]
    variance = np.mean([group.var(axis=0) for group in members], axis=0)
    spread = np.sqrt(variance + 0.1 * variance.mean())  # features that hardly vary must not decide alone
    means = np.stack([group.mean(axis=0) for group in members])
    plain = Strangeness(means, spread, np.ones(1, np.float32))
    quantiles = np.quantile(plain.distances(held_out), np.linspace(0, 1, 101)).astype(np.float32)
    return replace(plain, quantiles=quantiles)
