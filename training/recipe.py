"""A recipe: every number of a training run, read from a TOML file."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from hilum.errors import HilumError
from hilum.network import MANIFEST

OWN = Path(__file__).parent / "recipes"
"""Where the recipes that come with Hilum are."""

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class RecipeError(HilumError):
    """The author of a recipe must mend it: the text names the file and the keys."""


class _Table(BaseModel):
    """Every key has to be there, and no other: what a run was made with is then all in its recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Stage(_Table):
    """Some epochs at one image size: small images first, because they are cheap."""

    epochs: Count
    size_px: Annotated[int, Field(ge=32, le=224)]
    """Side of the images trained on."""
    validation_size_px: Annotated[int, Field(ge=32, le=224)]
    """At work networks read at 224: a network that is to be used needs that in its last stage."""


class Augmentation(_Table):
    """How differently each image is shown every time; see `training.augment`."""

    area: Annotated[tuple[Part, Part], Field(strict=False)]
    """Least and largest part of the image that is cut out and enlarged."""
    aspect: Annotated[tuple[Positive, Positive], Field(strict=False)]
    """Least and largest width of that part by its height; 1 and 1 keep the shape."""
    turn_degrees: Annotated[float, Field(ge=0, le=180)]
    """At most, to either side."""
    mirror: Share
    """Part of the images that are mirrored, left to right."""
    brightness: Share
    """Gray values are multiplied by 1 - this to 1 + this."""
    contrast: Share
    """Likewise their distances from the image's mean."""


class Adam(_Table):
    kind: Literal["adam", "adamw"]
    """Adam adds weight decay to the gradient, AdamW takes it off the weights."""
    learning_rate: Positive
    """At its peak."""
    weight_decay: Annotated[float, Field(ge=0)]


class Cosine(_Table):
    """The learning rate rises in a line and then falls along half a cosine, to nothing."""

    kind: Literal["cosine"]
    warm_up: Annotated[float, Field(gt=0, lt=1)]
    """Part of the training in which it rises."""


class Plateau(_Table):
    """The learning rate falls when the validation loss no longer does (ReduceLROnPlateau)."""

    kind: Literal["plateau"]
    patience: Annotated[int, Field(ge=0)]
    """Epochs without a lower validation loss that are borne."""
    factor: Annotated[float, Field(gt=0, lt=1)]
    """What the rate is multiplied by then."""


class CrossEntropy(_Table):
    kind: Literal["cross entropy"]


class GeneralisedCrossEntropy(_Table):
    """Bounded, so that a wrong label pulls less (Zhang and Sabuncu, NeurIPS 2018)."""

    kind: Literal["generalised cross entropy"]
    q: Annotated[float, Field(gt=0, le=1)]
    """Near 0 it is cross entropy, at 1 the mean absolute error; they propose 0.7."""


class SymmetricCrossEntropy(_Table):
    """Cross entropy and its reverse, which is bounded (Wang et al., ICCV 2019)."""

    kind: Literal["symmetric cross entropy"]
    forward: Annotated[float, Field(ge=0)]
    """Weight of cross entropy."""
    reverse: Annotated[float, Field(ge=0)]


class KeptHead(_Table):
    """The head stays as it was learnt with the rest."""

    kind: Literal["kept"]


class RefitHead(_Table):
    """A new head is fitted at the end to the finished network's features; see `training.head`."""

    kind: Literal["refit"]
    epochs: Count
    """Over the training images' features."""
    learning_rate: Positive
    """AdamW's, at its peak."""
    weight_decay: Annotated[float, Field(ge=0)]


class Recipe(_Table):
    """All of one training; `training.train` says what is done with it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Becomes part of the network's version: small letters, digits and dashes."""
    licence: str
    """Of the network, as its data allow; an SPDX identifier."""
    seed: Annotated[int, Field(ge=0)]

    shares: Annotated[tuple[Share, Share, Share], Field(strict=False)]
    """Parts of the patients that go into training, validation and test."""
    training_phantoms: Annotated[int, Field(ge=0)]
    held_out_phantoms: Annotated[int, Field(ge=0)]
    """In validation and in test, each."""
    phantom_share: Share
    """Part of the drawn training images that are phantoms; at 1 no radiographs are asked for."""
    balance: Literal["class", "class and source", "none"]
    """What is drawn evenly: classes; classes and in each its sources; or images, as they come."""
    images_per_epoch: Count | Literal["all"]
    """`all`: as many as there are in training; with balance `none` each of them comes once."""

    backbone: str
    """torchvision's name: resnet50, mobilenet_v3_small, vit_b_16 and others of these families."""
    weights: str
    """What to begin with: `random`, `download` (torchvision's), a file, or the folder of an artefact.

    In a training of the night also `champion`: the network that reads (`training.tasks`).

    Paths are seen from the folder in which the command is given.
    """
    teacher: str
    """Whose features the network also learns to predict: a key of `training.teacher.TEACHERS`."""
    teacher_weight: Annotated[float, Field(ge=0)]
    """Of the teacher's loss, beside that of the labels."""

    batch_size: Annotated[int, Field(ge=2)]
    """Images that go through the network together: batch normalisation sees so many."""
    batches_per_step: Count
    """Whose gradients are averaged before the weights change; several processes share them out."""
    optimizer: Adam
    schedule: Annotated[Cosine | Plateau, Field(discriminator="kind")]
    gradient_norm: Positive
    """Longer gradients are shortened to it."""
    averaging: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of the moving average of the weights, which is what is kept; at 0 it is the weights."""
    settling_images: Annotated[int, Field(ge=0)]
    """On which the average's batch statistics are measured anew; at 0 they stay as they were learnt."""
    stop_after: Count
    """Epochs of the last stage without a lower validation loss after which training ends."""

    loss: Annotated[
        CrossEntropy | GeneralisedCrossEntropy | SymmetricCrossEntropy, Field(discriminator="kind")
    ]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Part of each label that is spread evenly over all four."""
    mixup: Annotated[float, Field(ge=0)]
    """Beta distribution's parameter for mixing two images (Zhang et al., ICLR 2018); at 0 none are mixed."""
    augmentation: Augmentation
    head: Annotated[KeptHead | RefitHead, Field(discriminator="kind")]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        for name, wrong in (
            ("shares have to add up to 1", abs(sum(self.shares) - 1) > 1e-6),
            ("all three shares have to be more than 0", min(self.shares) == 0),
            (
                "phantom_share has to be 0 when training_phantoms is",
                self.phantom_share > 0 and self.training_phantoms == 0,
            ),
            (
                "a phantom_share of 1 needs held_out_phantoms",
                self.phantom_share == 1 and self.held_out_phantoms == 0,
            ),
            (
                "a teacher_weight has no meaning for the teacher nobody",
                self.teacher == "nobody" and self.teacher_weight > 0,
            ),
        ):
            if wrong:
                raise ValueError(name)
        return self

    @property
    def ancestor(self) -> Path | None:
        """The folder of the artefact that the weights are of; None where they are of none that can be known.

        A file that lies beside a manifest is one of its artefact's.
        """
        given = Path(self.weights)
        if given.is_file() and (given.parent / MANIFEST).is_file():
            return given.parent
        return given if given.is_dir() else None

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    @property
    def needs_radiographs(self) -> bool:
        return self.phantom_share < 1

    def stage_of(self, epoch: int) -> Stage:
        """Return the stage of an epoch, counted from 0."""
        return [stage for stage in self.stages for _ in range(stage.epochs)][epoch]


def find(named: str) -> Path:
    """Return the file of a recipe: a path, or the name of one that comes with Hilum.

    Raises RecipeError, which lists those names, when it is neither.
    """
    for file in (Path(named), OWN / f"{named}.toml"):
        if file.is_file():
            return file
    names = ", ".join(sorted(file.stem for file in OWN.glob("*.toml")))
    raise RecipeError(f"{named} is no file, and no recipe that comes with Hilum: those are {names}")


def read(file: Path) -> Recipe:
    """Return the recipe in a TOML file, or in a JSON file as a training of the night has it.

    Raises RecipeError, which names every key that is missing, unknown or of a wrong value.
    """
    try:
        return checked(parsed(file), str(file))
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: not {_format(file)}: {error}") from error


def checked(said: Mapping[str, Any], named: str) -> Recipe:
    """Return the recipe that a mapping says, as `read` does."""
    try:
        return Recipe.model_validate(dict(said))
    except ValidationError as error:
        faults = "\n".join(f"{named}: {_in_words(fault)}" for fault in error.errors())
        raise RecipeError(faults) from error


def parsed(file: Path) -> dict[str, Any]:
    """Return what a recipe's file says, unchecked."""
    text = file.read_text(encoding="utf-8")
    return dict(json.loads(text) if _format(file) == "JSON" else tomllib.loads(text))


def _format(file: Path) -> str:
    return "JSON" if file.suffix == ".json" else "TOML"


def _in_words(fault: ErrorDetails) -> str:
    if fault["type"] == "extra_forbidden":
        return f"{fault['loc'][-1]} is no key of {_place(fault['loc'][:-1]) or 'a recipe'}"
    key = _place(fault["loc"])
    if fault["type"] == "missing":
        return f"{key} is missing"
    said = fault["msg"].removeprefix("Value error, ").replace("Input should", "has to")
    return f"{key} {said}, and is {fault['input']!r}" if key else said


def _place(loc: tuple[int | str, ...]) -> str:
    """The keys that lead to a fault; pydantic also names the kind that a table was taken for."""
    keys = {name for table in _Table.__subclasses__() for name in table.model_fields}
    return ".".join(str(part) for part in loc if isinstance(part, int) or part in keys)
