"""What learns: the network, the average of its weights, its teacher, and how they change."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import ResNet

from hilum import network as artefacts
from hilum.network import features, head_of, pooled
from hilum.radiograph import INPUT_SIZE
from training import recipe as recipes
from training.augment import resized
from training.batches import seed
from training.recipe import Adam, Recipe, RecipeError
from training.teacher import TEACHERS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_AT_ONCE = 32  # images, where nothing is learnt
_TAUGHT_WIDTH = 2048  # channels of the last of a network's maps that teachers were made for


class Schedule(Protocol):
    """What the learning rate does in the course of a training."""

    def before_step(self, done: float) -> None:
        """Set the rate, given the part of the training that is done."""

    def after_epoch(self, loss: float) -> None:
        """Take note of an epoch's validation loss."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Cosine:
    """A rise in a line, then half a cosine down to nothing."""

    def __init__(self, optimizer: torch.optim.Optimizer, peak: float, warm_up: float) -> None:
        self._optimizer, self._peak, self._warm_up = optimizer, peak, warm_up

    def before_step(self, done: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak * self.rate(done)

    def rate(self, done: float) -> float:
        """Return the part of the peak's rate that holds when a part of the training is done."""
        if done < self._warm_up:
            return done / self._warm_up
        return 0.5 * (1 + math.cos(math.pi * (done - self._warm_up) / (1 - self._warm_up)))

    def after_epoch(self, loss: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Plateau(ReduceLROnPlateau):
    """torch's ReduceLROnPlateau on the validation loss."""

    def before_step(self, done: float) -> None:
        pass

    def after_epoch(self, loss: float) -> None:
        self.step(loss)


@dataclass
class Learner:
    """Everything the loop changes, and so everything a checkpoint holds."""

    network: nn.Module
    maps_of: Callable[[nn.Module, Tensor], list[Tensor]]
    """From the network and its input to the maps that its teacher compares; the last goes to the head."""
    average: AveragedModel
    """Of the network's weights: what is validated and kept."""
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    losses: Tensor
    """(2,), of labels and teacher, summed over the steps of the epoch so far."""
    epoch: int = 0
    step: int = 0
    """Within the epoch."""
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        plain = (self.epoch, self.step, self.best, self.best_loss, self.history, self.losses)
        return {"parts": [part.state_dict() for part in self._parts()], "plain": plain}

    def restore(self, state: dict[str, Any]) -> None:
        for part, values in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(values)
        self.epoch, self.step, self.best, self.best_loss, self.history, self.losses = state["plain"]

    def _parts(self) -> tuple[Any, ...]:
        return self.network, self.average, self.teacher, self.optimizer, self.schedule

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self.teacher.parameters()]

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def statistics(self) -> list[Tensor]:
        """Return what batch normalisation gathered of the images: means and variances."""
        modules = (self.network, self.average, self.teacher)
        return [held for module in modules for held in module.buffers() if held.is_floating_point()]

    def is_done(self, recipe: Recipe) -> bool:
        """Tell whether every epoch was, or the last stage's validation loss falls no more."""
        seen = [entry["loss"] for entry in self.history[recipe.epochs - recipe.stages[-1].epochs :]]
        is_stuck = bool(seen) and len(seen) - 1 - int(np.argmin(seen)) >= recipe.stop_after
        return self.epoch == recipe.epochs or is_stuck


def begin(recipe: Recipe) -> Learner:
    """Return a learner with the recipe's first weights; random ones are the same for the same seed.

    Raises
    ------
    RecipeError
        If the backbone cannot take the stages' images, or the recipe's teacher is not for it.
    TeacherMissing
        If the teacher's packages are not installed.
    NetworkError
        If there is no such backbone, or the weights do not fit it.
    """
    seed(recipe.seed)
    network = artefacts.build(recipe.backbone, recipe.weights).to(DEVICE)
    network.to(memory_format=torch.channels_last)
    _try_sizes(recipe, network)
    teacher = _teacher(recipe, network).to(DEVICE)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True)
    optimizer = _optimizer([*network.parameters(), *teacher.parameters()], recipe.optimizer)
    return Learner(
        network=network,
        maps_of=layer_maps if isinstance(network, ResNet) else _last_map,
        average=average,
        teacher=teacher,
        optimizer=optimizer,
        schedule=_schedule(optimizer, recipe),
        losses=torch.zeros(2, device=DEVICE),
    )


@torch.no_grad()
def _try_sizes(recipe: Recipe, network: nn.Module) -> None:
    network.eval()
    for size_px in {size for stage in recipe.stages for size in (stage.size_px, stage.validation_size_px)}:
        try:
            features(network, torch.zeros(1, 3, size_px, size_px, device=DEVICE))
        except (AssertionError, RuntimeError) as error:  # how torchvision and torch say it
            raise RecipeError(f"{recipe.backbone} cannot take images of {size_px} px: {error}") from error


def _teacher(recipe: Recipe, network: nn.Module) -> nn.Module:
    if recipe.teacher not in TEACHERS:
        raise RecipeError(f"teacher is {recipe.teacher!r}, and has to be one of {', '.join(TEACHERS)}")
    if recipe.teacher != "nobody" and not _can_be_taught(network):
        raise RecipeError(
            f'{recipe.teacher} can teach resnet50 and its like, not {recipe.backbone}: set teacher = "nobody"'
        )
    return TEACHERS[recipe.teacher]()


def _can_be_taught(network: nn.Module) -> bool:
    return isinstance(network, ResNet) and next(network.fc.parameters()).shape[1] == _TAUGHT_WIDTH


def _optimizer(parameters: list[nn.Parameter], how: Adam) -> torch.optim.Optimizer:
    adam = torch.optim.AdamW if how.kind == "adamw" else torch.optim.Adam
    return adam(parameters, how.learning_rate, weight_decay=how.weight_decay, fused=True)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> Schedule:
    how = recipe.schedule
    if isinstance(how, recipes.Plateau):
        return Plateau(optimizer, patience=how.patience, factor=how.factor)
    return Cosine(optimizer, recipe.optimizer.learning_rate, how.warm_up)


def layer_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what a ResNet's four layers give out of images (B, 3, H, W), the last one (B, C, H/32, W/32)."""
    assert isinstance(network, ResNet)  # noqa: S101 - for mypy
    value = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    maps = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        value = layer(value)
        maps.append(value)
    return maps


def _last_map(network: nn.Module, images: Tensor) -> list[Tensor]:
    return [features(network, images)]


@torch.no_grad()
def predict(
    network: nn.Module, pixels: NDArray[np.uint8], size_px: int = INPUT_SIZE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (N, 4) and pooled features (N, C) of images (N, 224, 224)."""
    network.eval()
    logits, seen = [], []
    for start in range(0, len(pixels), _AT_ONCE):
        gray = torch.from_numpy(pixels[start : start + _AT_ONCE]).to(DEVICE).float()[:, None]
        with torch.autocast(DEVICE.type, torch.bfloat16):
            one = pooled(features(network, artefacts.normalise(resized(gray, size_px))))
            logits.append(head_of(network)(one).float().cpu().numpy())
        seen.append(one.float().cpu().numpy())
    return np.concatenate(logits), np.concatenate(seen)


@torch.no_grad()
def settle(network: nn.Module, pixels: NDArray[np.uint8], size_px: int) -> None:
    """Measure a network's batch statistics anew, on images (N, 224, 224) at size_px.

    Those it learnt with are of smaller images, and of the weights before they were averaged.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and len(pixels):
            module.train()
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    for start in range(0, len(pixels), _AT_ONCE):
        gray = torch.from_numpy(pixels[start : start + _AT_ONCE]).to(DEVICE).float()[:, None]
        with torch.autocast(DEVICE.type, torch.bfloat16):
            features(network, artefacts.normalise(resized(gray, size_px)))
