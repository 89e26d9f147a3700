import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import numpy as np

from hilum.engine import OpenVinoEngine
from hilum.network import load_artefact, shipped
from tests.test_rooms import run_alone
from tests.unit.test_evaluate import known_images
from training import page, report


def test_an_evaluation_of_a_few_images_says_so_and_still_gives_its_page() -> None:
    rng = np.random.default_rng(0)
    images = known_images(
        np.array([0, 1, 2, 3]),
        pixels=rng.integers(0, 255, (4, 224, 224), np.uint8),
        sources=np.array(["here", "there", "here", "there"]),
        patients=np.array(["SECRET"] * 4),
    )
    engine = OpenVinoEngine(load_artefact(shipped()))
    evaluation = report.evaluated(engine, images, part="all", repeats=10)
    told = page.rendered(evaluation, engine)
    assert "fewer than 20 images" in told
    assert "Operating points" not in told
    assert "Wrong, and sure of it" in told
    assert "SECRET" not in told
    assert evaluation.about["images"]["learnt_from"] == 0


def test_strange_images_are_counted_and_stay_in_the_figures() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 224, 224), np.uint8)  # noise is no chest
    images = known_images(np.array([0, 1]), pixels=pixels)
    evaluation = report.evaluated(OpenVinoEngine(load_artefact(shipped())), images, repeats=10)
    pooled = evaluation.slices["radiographs"]
    assert pooled["not_assessed"] == pooled["images"] == np.sum(pooled["confusion"]) == 2


def test_an_evaluation_needs_no_torch() -> None:
    assert run_alone("import sys, training.page; print('torch' in sys.modules)") == "False"
