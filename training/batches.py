"""Which images come when: drawn by their chances, changed and mixed, the same for the same seed."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hilum.network import LABELS
from training import data
from training.augment import augment, mixed
from training.data import Images
from training.losses import smoothed
from training.recipe import Recipe, RecipeError


class Drawing:
    """The images of every epoch, drawn by the recipe's shares and balance from a part of all images.

    Whatever was drawn before, an epoch's images hang on the recipe's seed and the epoch alone.
    """

    def __init__(self, recipe: Recipe, images: Images, part: NDArray[np.bool_]) -> None:
        """Take the images of `part`, a mask (N,); RecipeError when an epoch is less than one step."""
        self._recipe = recipe
        self._members = np.flatnonzero(part)
        self._chances = chances(recipe, images.known_of(part))
        count = len(self._members) if recipe.images_per_epoch == "all" else recipe.images_per_epoch
        self.steps = count // (recipe.batch_size * recipe.batches_per_step)
        if self.steps == 0:
            raise RecipeError(
                f"an epoch has {count} images, and one step takes {recipe.batches_per_step} batches of "
                f"{recipe.batch_size}: lower batch_size in the recipe, or raise images_per_epoch"
            )

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Return an epoch's images as indices, (steps, batches of a step, images of a batch)."""
        shape = (self.steps, self._recipe.batches_per_step, self._recipe.batch_size)
        return self.some(int(np.prod(shape)), number).reshape(shape)

    def some(self, count: int, number: int) -> NDArray[np.int64]:
        """Return indices (count,) of images; each comes as often as its chance says, rounded up or down."""
        rng = np.random.default_rng([self._recipe.seed, number])
        order = rng.permutation(len(self._members))
        ends = np.cumsum(self._chances[order])
        places = np.searchsorted(ends / ends[-1], (rng.random() + np.arange(count)) / count, side="right")
        return rng.permutation(self._members[order[places.clip(max=len(order) - 1)]])


def chances(recipe: Recipe, images: Images) -> NDArray[np.float64]:
    """Return how often each image is to be drawn, (N,), summing to 1.

    Phantoms together have the recipe's share, the others the rest; both are balanced as it says.
    """
    wanted = np.zeros(len(images))
    is_phantom = images.sources == data.PHANTOM
    for members, share in ((is_phantom, recipe.phantom_share), (~is_phantom, 1 - recipe.phantom_share)):
        if members.any():
            wanted[members] = share * _EVENLY[recipe.balance](images.where(members))
    return np.asarray(wanted / wanted.sum())


def _as_they_come(images: Images) -> NDArray[np.float64]:
    return np.full(len(images), 1 / len(images))


def _by_class(images: Images) -> NDArray[np.float64]:
    _, kind, sizes = np.unique(images.labels, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(sizes) * sizes[kind]))


def _by_class_and_source(images: Images) -> NDArray[np.float64]:
    wanted = np.zeros(len(images))
    for label in np.unique(images.labels):
        members = images.labels == label
        _, kind, sizes = np.unique(images.sources[members], return_inverse=True, return_counts=True)
        wanted[members] = 1 / (len(sizes) * sizes[kind])
    return np.asarray(wanted / wanted.sum())


_EVENLY = {"class": _by_class, "class and source": _by_class_and_source, "none": _as_they_come}


def batch(
    recipe: Recipe, images: Images, chosen: NDArray[np.int64], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the chosen images, changed and mixed: gray (B, 1, 224, 224) in 0..255, targets (B, 4)."""
    gray = torch.from_numpy(images.pixels[chosen]).to(device).float()[:, None]
    labels = torch.from_numpy(images.labels[chosen])
    targets = functional.one_hot(labels, len(LABELS)).float().to(device)
    gray, targets = mixed(augment(gray, recipe.augmentation), targets, recipe.mixup)
    return gray, smoothed(targets, recipe.label_smoothing)


def seed(*place: int) -> None:
    """Have torch's chance hang on the place in a training alone: what went before plays no part."""
    torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
