"""What stands in an artefact beside the network: of which files it comes, and which are refused."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from tests.unit import recipes
from tests.unit.test_evaluate import answers, known_images
from training import publish
from training.data import PHANTOM
from training.publish import WrongCrossValidation

FOUND = {"folds": 5, "recipe": recipes.tiny().model_dump(mode="json"), "pooled": {"phantoms": {}}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cross-validation.json"


def test_a_cross_validation_of_the_same_recipe_is_taken(file: Path) -> None:
    file.write_text(json.dumps(FOUND))
    assert publish.read_cross_validation(file, recipes.tiny(name="another-name")) == FOUND


def test_a_cross_validation_of_another_recipe_is_refused_and_what_differs_is_said(file: Path) -> None:
    file.write_text(json.dumps(FOUND))
    with pytest.raises(WrongCrossValidation, match=r"another recipe \(averaging, seed\)"):
        publish.read_cross_validation(file, recipes.tiny(seed=2, averaging=0.5))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", json.dumps({**FOUND, "recipe": 3}), json.dumps({**FOUND, "pooled": {}})],
    ids=["empty", "broken", "a list", "nothing in it", "a recipe that is none", "without figures"],
)
def test_a_file_that_is_no_cross_validation_is_refused(content: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(WrongCrossValidation, match=r"cross-validation\.json"):
        publish.read_cross_validation(file, recipes.tiny())


def test_a_cross_validation_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(WrongCrossValidation, match="no cross-validation"):
        publish.read_cross_validation(file, recipes.tiny())


def test_notes_stand_beside_a_recipe(tmp_path: Path) -> None:
    assert publish.notes_of(tmp_path / "ours.toml") == ""
    (tmp_path / "ours.notes.md").write_text("It was chosen by lot.\n")
    assert publish.notes_of(tmp_path / "ours.toml") == "It was chosen by lot."


@pytest.mark.parametrize("times", [1e-3, 1, 1e3])
def test_a_temperature_as_far_as_it_is_looked_for_is_told(
    times: float, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.random.default_rng(0).integers(0, 4, 400)
    images = known_images(labels, sources=np.full(400, PHANTOM))
    with caplog.at_level(logging.WARNING):
        publish.fitted_temperature(recipes.tiny(), (times * answers(labels)).astype(np.float32), images)
    assert ("cannot be trusted" in caplog.text) == (times != 1)


def test_engines_are_compared_on_images_from_all_over_and_on_the_same_ones_every_time() -> None:
    images = known_images(np.zeros(400, int))
    some, again = (publish._some(recipes.tiny(), images, 32) for _ in range(2))
    assert some.tolist() == again.tolist()
    assert len(set(some.tolist())) == 32
    assert some.max() > 300
