"""Recipes for tests: so small that a training takes seconds."""

import tomllib
from pathlib import Path
from typing import Any

from training.recipe import Recipe

TINY = """
name = "tiny"
licence = "Apache-2.0"
seed = 1
shares = [0.5, 0.25, 0.25]
training_phantoms = 16
held_out_phantoms = 8
phantom_share = 1.0
balance = "class"
images_per_epoch = 32
backbone = "mobilenet_v3_small"
weights = "random"
teacher = "nobody"
teacher_weight = 0.0
batch_size = 8
batches_per_step = 2
optimizer = { kind = "adamw", learning_rate = 1e-3, weight_decay = 0.05 }
schedule = { kind = "cosine", warm_up = 0.1 }
gradient_norm = 10.0
averaging = 0.8
settling_images = 16
stop_after = 9
loss = { kind = "cross entropy" }
label_smoothing = 0.1
mixup = 0.2
head = { kind = "kept" }

[augmentation]
area = [0.7, 1.0]
aspect = [0.9, 1.1]
turn_degrees = 10.0
mirror = 0.5
brightness = 0.2
contrast = 0.2

[[stages]]
epochs = 1
size_px = 32
validation_size_px = 32

[[stages]]
epochs = 2
size_px = 48
validation_size_px = 64
"""


def tiny(**changes: Any) -> Recipe:
    return Recipe.model_validate({**tomllib.loads(TINY), **changes})


def write(file: Path, recipe: Recipe) -> Path:
    """Write a recipe as TOML."""
    values = recipe.model_dump(mode="json")
    stages, augmentation = values.pop("stages"), values.pop("augmentation")
    lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
    lines += ["[augmentation]", *(f"{name} = {_toml(value)}" for name, value in augmentation.items())]
    for stage in stages:
        lines += ["[[stages]]", *(f"{name} = {_toml(value)}" for name, value in stage.items())]
    file.write_text("\n".join(lines) + "\n")
    return file


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
