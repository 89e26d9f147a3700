"""Training learns what images tell of their labels, and nothing where they tell nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # two threads wait for each other where other tests run beside them

from training import evaluate, recipe  # noqa: E402 - they need torch
from training.crew import Alone  # noqa: E402
from training.data import Images  # noqa: E402
from training.learner import begin, predict  # noqa: E402
from training.train import gather, phantom_parts, run  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # some minutes, where others want the processor too

PHANTOMS = recipe.read(recipe.find("phantoms"))


@pytest.fixture(scope="session")
def phantoms() -> Images:
    """All that the recipe asks for; drawing them takes almost as long as learning from them."""
    return gather(PHANTOMS, None, None)


def held_out_accuracy(phantoms: Images, out: Path) -> float:
    """Train by the recipe; return the accuracy on the phantoms that were kept for the test."""
    parts = np.array(phantom_parts(PHANTOMS, phantoms))
    learner = begin(PHANTOMS)
    run(PHANTOMS, learner, phantoms, parts, out, Alone())
    test = phantoms.where(parts == "test")
    logits, _ = predict(learner.network, test.pixels, PHANTOMS.stages[-1].validation_size_px)
    return evaluate.short(logits, test.labels)["accuracy"]


def test_phantoms_are_learnt_from_random_weights(phantoms: Images, tmp_path: Path) -> None:
    assert held_out_accuracy(phantoms, tmp_path) >= 0.95


def test_of_shuffled_labels_nothing_is_learnt(phantoms: Images, tmp_path: Path) -> None:
    shuffled = np.random.default_rng(0).permutation(phantoms.labels)
    assert held_out_accuracy(replace(phantoms, labels=shuffled), tmp_path) < 0.5
