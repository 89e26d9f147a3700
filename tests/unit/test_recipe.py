"""Recipes: what is in them, and what is said of a wrong one."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit import recipes
from training import recipe
from training.recipe import RecipeError


@pytest.mark.parametrize("file", sorted(recipe.OWN.glob("*.toml")), ids=lambda file: file.stem)
def test_every_recipe_that_comes_with_hilum_can_be_read_and_is_named_as_its_file(file: Path) -> None:
    assert recipe.read(file).name == file.stem
    assert recipe.find(file.stem) == file


def test_the_founding_recipe_is_the_founding_note_s() -> None:
    founding = recipe.read(recipe.find("founding"))
    assert (founding.backbone, founding.shares, founding.batch_size) == ("resnet50", (0.70, 0.15, 0.15), 32)
    assert founding.optimizer.model_dump() == {"kind": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4}
    assert founding.schedule.model_dump() == {"kind": "plateau", "patience": 5, "factor": 0.1}
    assert founding.loss.kind == "cross entropy"
    assert (founding.averaging, founding.label_smoothing, founding.mixup) == (0, 0, 0)
    augmentation = founding.augmentation
    assert (augmentation.turn_degrees, augmentation.mirror) == (15, 0.5)
    assert (augmentation.brightness, augmentation.contrast) == (0.2, 0.2)
    assert founding.stages[-1].size_px == 224


def test_a_recipe_that_is_nowhere_is_told_with_those_that_come_with_hilum() -> None:
    with pytest.raises(RecipeError, match="founding, hilum"):
        recipe.find("funding")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("weight_decay = 0.05", "weight_decoy = 0.05", "weight_decoy is no key of optimizer"),
        ("mixup = 0.2", "", "mixup is missing"),
        ("batch_size = 8", 'batch_size = "8"', "batch_size has to be a valid integer, and is '8'"),
        ("batch_size = 8", "batch_size = 8.5", "batch_size has to be a valid integer, and is 8.5"),
        ("mixup = 0.2", "mixup = 0.2\nmixdown = 0.2", "mixdown is no key of a recipe"),
        ("images_per_epoch = 32", "images_per_epoch = 'some'", "images_per_epoch has to be 'all'"),
        ("seed = 1", "seed = true", "seed has to be a valid integer, and is True"),
        ("learning_rate = 1e-3", "learning_rate = 0.0", "learning_rate has to be greater than 0"),
        ('kind = "cosine"', 'kind = "linear"', "schedule.*'linear'.*'cosine', 'plateau'"),
        (
            'balance = "class"',
            'balance = "classes"',
            "balance has to be 'class', 'class and source' or 'none'",
        ),
        ('loss = { kind = "cross entropy" }', 'loss = "ce"', "loss"),
        ("epochs = 2", "epochs = 0", "stages.1.epochs has to be greater than 0"),
        ("size_px = 48", "size_px = 448", "stages.1.size_px has to be less than or equal to 224"),
        ("shares = [0.5, 0.25, 0.25]", "shares = [0.5, 0.2, 0.2]", "shares have to add up to 1"),
        ("training_phantoms = 16", "training_phantoms = 0", "phantom_share has to be 0"),
        ("teacher_weight = 0.0", "teacher_weight = 1.0", "no meaning for the teacher nobody"),
        ("seed = 1", "seed = ", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_with_its_file_and_key(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    assert old in recipes.TINY
    file = tmp_path / "ours.toml"
    file.write_text(recipes.TINY.replace(old, new, 1))
    with pytest.raises(RecipeError, match=said) as refused:
        recipe.read(file)
    assert str(refused.value).startswith(f"{file}: ")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(recipes.TINY.replace("seed = 1", "sead = 1").replace("mixup = 0.2", "mixup = -1.0"))
    with pytest.raises(RecipeError) as refused:
        recipe.read(file)
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"kind": "generalised cross entropy", "q": 0.7}, "images_per_epoch": "all"},
        {"optimizer": {"kind": "adam", "learning_rate": 0.1, "weight_decay": 0.0}},
    ],
)
def test_a_recipe_comes_back_from_its_file(changes: dict[str, Any], tmp_path: Path) -> None:
    given = recipes.tiny(**changes)
    assert recipe.read(recipes.write(tmp_path / "tiny.toml", given)) == given
