"""A recipe: every number of a training run, read from a TOML file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """Some epochs at one image size: small images first, because they are cheap."""

    epochs: int
    size_px: int
    """Side of the images trained on."""
    validation_size_px: int


@dataclass(frozen=True)
class Recipe:
    name: str
    licence: str
    """Of the network, as its data allow; an SPDX identifier."""
    seed: int
    shares: tuple[float, float, float]
    """Parts of the patients that go into training, validation and test."""
    training_phantoms: int
    held_out_phantoms: int
    """In validation and in test, each."""
    phantom_share: float
    """Part of the drawn training images that are phantoms."""
    images_per_epoch: int
    batch_size: int
    stages: tuple[Stage, ...]
    learning_rate: float
    """At its peak; it warms up over the first twentieth and then falls along a cosine."""
    weight_decay: float
    label_smoothing: float
    mixup: float
    """Beta distribution's parameter for mixing two images; near 0 leaves them nearly unmixed."""
    averaging: float
    """Decay per step of the moving average of the weights; the average is what is kept."""
    teacher: str
    """Whose features the network also learns to predict: a key of `training.teacher.TEACHERS`."""
    teacher_weight: float

    @property
    def steps_per_epoch(self) -> int:
        return self.images_per_epoch // self.batch_size

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * sum(stage.epochs for stage in self.stages)


def read(file: Path) -> Recipe:
    """Return the recipe in a TOML file; a missing or unknown key is a TypeError that names it."""
    values = tomllib.loads(file.read_text())
    stages = tuple(Stage(**stage) for stage in values.pop("stages"))
    return Recipe(shares=tuple(values.pop("shares")), stages=stages, **values)
