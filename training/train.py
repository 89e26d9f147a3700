"""Training, from a recipe and labelled images to an artefact.

Reads from top to bottom: images, network, one loop, export. Run again with the same arguments it goes on from
its last checkpoint.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import ResNet

from hilum import network as artefacts
from hilum.network import LABELS
from hilum.radiograph import INPUT_SIZE
from hilum.strangeness import Strangeness
from training import card, data, evaluate
from training import recipe as recipes
from training.data import Images
from training.recipe import Recipe, Stage
from training.teacher import TEACHERS

_ENOUGH = 1000  # images trained on that tell what is known
_SETTLING = 480  # images that batch statistics are measured on
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Learner:
    """Everything the loop changes, and so everything a checkpoint holds."""

    network: ResNet
    average: AveragedModel
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        plain = (self.epoch, self.best, self.best_loss, self.history)
        return {"modules": [module.state_dict() for module in self._changing()], "plain": plain}

    def restore(self, state: dict[str, Any]) -> None:
        for module, values in zip(self._changing(), state["modules"], strict=True):
            module.load_state_dict(values)
        self.epoch, self.best, self.best_loss, self.history = state["plain"]

    def _changing(self) -> tuple[Any, ...]:
        return self.network, self.average, self.teacher, self.optimizer


def train(recipe_path: Path, images: Path, manifest: Path, out: Path) -> Path:
    """Return the folder of a trained, calibrated and evaluated network: `out`/artefact.

    `manifest` is a CSV file (see `training.data.radiographs`) of files below `images`. `out` also keeps the
    images as arrays, the split and the checkpoint. The test part is looked at once, when all is decided.
    """
    recipe = recipes.read(recipe_path)
    out.mkdir(parents=True, exist_ok=True)
    everything, parts = prepare(recipe, images, manifest, out)
    learner = begin(recipe)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        learner.restore(torch.load(checkpoint, map_location=DEVICE, weights_only=True))
    learn(
        recipe,
        learner,
        everything.where(parts == "train"),
        everything.where(parts == "validation"),
        checkpoint,
    )
    learner.network.load_state_dict(learner.best)
    return publish(recipe, learner.network, everything, parts, out / "artefact")


def prepare(recipe: Recipe, images: Path, manifest: Path, out: Path) -> tuple[Images, NDArray[np.str_]]:
    """Return all images and the part of each; both are kept in `out`, where people can read the split."""
    kept = out / "images.npz"
    if not kept.exists():
        data.save(_gather(recipe, images, manifest), kept)
    everything = data.load(kept)
    parts = data.split(everything, recipe.shares, recipe.seed)
    for index, source in enumerate(everything.sources):
        if source == data.PHANTOM:
            parts[index] = _phantom_part(recipe, int(everything.patients[index].rsplit("-", 1)[1]))
    rows = zip(everything.patients, everything.digests, parts, strict=True)
    lines = sorted({f"{patient},{image},{part}\n" for patient, image, part in rows})
    (out / "split.csv").write_text("patient_id,sha256,part\n" + "".join(lines))
    return everything, parts


def _gather(recipe: Recipe, images: Path, manifest: Path) -> Images:
    seeds = range(recipe.training_phantoms + 2 * recipe.held_out_phantoms)
    return data.together([data.radiographs(images, manifest), data.phantoms(seeds)])


def _phantom_part(recipe: Recipe, seed: int) -> str:
    if seed < recipe.training_phantoms:
        return "train"
    return "validation" if seed < recipe.training_phantoms + recipe.held_out_phantoms else "test"


def begin(recipe: Recipe) -> Learner:
    """Return a learner with random weights, the same for the same seed."""
    torch.manual_seed(recipe.seed)
    network = artefacts.build().to(DEVICE, memory_format=torch.channels_last)
    teacher = TEACHERS[recipe.teacher]().to(DEVICE)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True)
    trained = [*network.parameters(), *teacher.parameters()]
    optimizer = torch.optim.AdamW(trained, weight_decay=recipe.weight_decay, fused=True)
    return Learner(network, average, teacher, optimizer)


def learn(recipe: Recipe, learner: Learner, training: Images, validation: Images, checkpoint: Path) -> None:
    """Run the recipe's remaining epochs; afterwards `learner.best` holds the weights to keep.

    Best is the lowest validation loss among the epochs of the last stage, the only ones seen at full size.
    """
    with _progress() as progress:
        for stage in _stages(recipe)[learner.epoch :]:
            task = progress.add_task(f"epoch {learner.epoch + 1}", total=recipe.images_per_epoch, told="")
            learner.network.train()
            first_step = learner.epoch * recipe.steps_per_epoch
            for step, (gray, targets) in enumerate(batches(recipe, training, learner.epoch), first_step):
                with torch.autocast(DEVICE.type, torch.bfloat16):
                    maps = layer_maps(learner.network, artefacts.normalise(resized(gray, stage.size_px)))
                    label_loss = functional.cross_entropy(
                        learner.network.fc(maps[-1].mean((2, 3))).float(),
                        targets,
                        label_smoothing=recipe.label_smoothing,
                    )
                    teacher_loss = learner.teacher(gray, maps)
                loss = label_loss + recipe.teacher_weight * teacher_loss
                for group in learner.optimizer.param_groups:
                    group["lr"] = rate(recipe, step)
                learner.optimizer.zero_grad()
                loss.backward()
                learner.optimizer.step()
                learner.average.update_parameters(learner.network)
                told = f"loss {label_loss.item():.3f} teacher {teacher_loss.item():.3f}"
                progress.update(task, advance=len(gray), told=told)
            learner.epoch += 1
            is_last = stage == recipe.stages[-1]
            if is_last:
                settle(recipe, learner.average.module, training, stage.validation_size_px)
            _look(learner, stage, validation, is_last)
            progress.console.print(_told(learner.history[-1]), markup=False, highlight=False, soft_wrap=True)
            _keep(learner, checkpoint)


def _look(learner: Learner, stage: Stage, validation: Images, is_last: bool) -> None:
    size_px = stage.validation_size_px
    logits = predict(learner.average.module, validation.pixels, size_px)[0]
    radiographs, drawn = validation.sources != data.PHANTOM, validation.sources == data.PHANTOM
    entry = {
        "epoch": learner.epoch,
        "size_px": size_px,
        "loss": evaluate.log_loss(logits[radiographs], validation.labels[radiographs]),
        **evaluate.short(logits[radiographs], validation.labels[radiographs]),
        "phantoms": evaluate.short(logits[drawn], validation.labels[drawn])["accuracy"],
    }
    learner.history.append(entry)
    if is_last and entry["loss"] < learner.best_loss:
        learner.best_loss = entry["loss"]
        learner.best = {name: value.clone() for name, value in learner.average.module.state_dict().items()}


def _stages(recipe: Recipe) -> list[Stage]:
    return [stage for stage in recipe.stages for _ in range(stage.epochs)]


class SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f} images/s")


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    return Progress(*columns)


def _told(entry: dict[str, float]) -> str:
    return "validation " + " ".join(f"{name} {value:.3f}" for name, value in entry.items())


def _keep(learner: Learner, checkpoint: Path) -> None:
    aside = checkpoint.with_suffix(".new")
    torch.save(learner.state(), aside)
    aside.replace(checkpoint)


def rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: a linear rise over the first twentieth, then a half cosine to 0."""
    done = step / recipe.steps
    if done < 0.05:
        return recipe.learning_rate * (done / 0.05)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))


def batches(recipe: Recipe, images: Images, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch's batches: gray (B, 1, 224, 224) in 0..255, targets (B, 4) that sum to 1.

    Classes are drawn evenly, phantoms with the recipe's share; every epoch draws, turns and mixes anew, the
    same for the same seed.
    """
    torch.manual_seed(recipe.seed * 1000 + epoch)
    drawn = torch.multinomial(
        torch.from_numpy(weights(recipe, images)), recipe.images_per_epoch, replacement=True
    )
    labels = functional.one_hot(torch.from_numpy(images.labels), len(LABELS)).float()
    mixing = torch.distributions.Beta(recipe.mixup, recipe.mixup)
    for chosen in drawn.split(recipe.batch_size)[: recipe.steps_per_epoch]:
        gray = augment(torch.from_numpy(images.pixels[chosen.numpy()]).to(DEVICE).float()[:, None])
        targets = labels[chosen].to(DEVICE)
        share = float(mixing.sample())
        order = torch.randperm(len(chosen))
        yield (gray.lerp(gray[order], 1 - share), targets.lerp(targets[order], 1 - share))


def weights(recipe: Recipe, images: Images) -> NDArray[np.float64]:
    """Return each image's chance to be drawn, (N,): classes come evenly, phantoms as often as wished."""
    is_phantom = images.sources == data.PHANTOM
    chances = np.zeros(len(images))
    for group, share in ((is_phantom, recipe.phantom_share), (~is_phantom, 1 - recipe.phantom_share)):
        for label in range(len(LABELS)):
            members = group & (images.labels == label)
            chances[members] = share / max(int(members.sum()), 1)
    return chances


def augment(gray: Tensor) -> Tensor:
    """Return gray (B, 1, H, W) in 0..255 as another exposure might have shown it.

    Turned by up to 10 degrees, cropped, half of them mirrored, in another contrast and brightness.
    """
    count = len(gray)
    angle = (torch.rand(count) - 0.5) * 2 * math.radians(10)
    zoom = torch.empty(count).uniform_(0.85, 1.0)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    place = (torch.rand(2, count) - 0.5) * 2 * (1 - zoom)
    rows = [
        torch.stack([zoom * angle.cos() * mirror, -zoom * angle.sin(), place[0]], 1),
        torch.stack([zoom * angle.sin() * mirror, zoom * angle.cos(), place[1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1).to(gray.device), list(gray.shape), align_corners=False)
    turned = functional.grid_sample(gray, grid, padding_mode="reflection", align_corners=False)
    gain = torch.empty(count, 1, 1, 1).uniform_(0.75, 1.25).to(gray.device)
    shift = torch.empty(count, 1, 1, 1).uniform_(-25, 25).to(gray.device)
    return ((turned - 128) * gain + 128 + shift).clamp(0, 255)


@torch.no_grad()
def settle(recipe: Recipe, network: ResNet, training: Images, size_px: int) -> None:
    """Measure a network's batch statistics anew, at size_px: those it learnt with are of smaller images."""
    network.train()
    network.fc.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    count = min(_SETTLING, recipe.images_per_epoch)
    drawn = torch.multinomial(torch.from_numpy(weights(recipe, training)), count, replacement=True)
    for chosen in drawn.split(32):
        gray = torch.from_numpy(training.pixels[chosen.numpy()]).to(DEVICE).float()[:, None]
        with torch.autocast(DEVICE.type, torch.bfloat16):
            layer_maps(network, artefacts.normalise(resized(gray, size_px)))


def resized(gray: Tensor, size_px: int) -> Tensor:
    return functional.interpolate(gray, size=(size_px, size_px), mode="bilinear", antialias=True)


def layer_maps(network: ResNet, images: Tensor) -> list[Tensor]:
    """Return what the four layers give out of images (B, 3, H, W), the last one (B, 2048, H/32, W/32)."""
    value = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    maps = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        value = layer(value)
        maps.append(value)
    return maps


@torch.no_grad()
def predict(
    network: ResNet, pixels: NDArray[np.uint8], size_px: int = INPUT_SIZE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (N, 4) and pooled features (N, 2048) of images (N, 224, 224)."""
    network.eval()
    logits, features = [], []
    for start in range(0, len(pixels), 32):
        gray = torch.from_numpy(pixels[start : start + 32]).to(DEVICE).float()[:, None]
        with torch.autocast(DEVICE.type, torch.bfloat16):
            pooled = layer_maps(network, artefacts.normalise(resized(gray, size_px)))[-1].mean((2, 3))
            logits.append(network.fc(pooled).float().cpu().numpy())
        features.append(pooled.float().cpu().numpy())
    return np.concatenate(logits), np.concatenate(features)


def publish(
    recipe: Recipe, network: ResNet, everything: Images, parts: NDArray[np.str_], folder: Path
) -> Path:
    """Return the folder of a trained network's artefact and card.

    Validation patients set the temperature and what counts as strange; test patients only give the figures.
    """
    training, validation, test = (everything.where(parts == part) for part in data.PARTS)
    some = np.random.default_rng(recipe.seed).permutation(len(training)) < _ENOUGH
    sample = training.where(some)
    logits, pooled = predict(network, validation.pixels)
    real = validation.sources != data.PHANTOM
    temperature = evaluate.temperature(logits[real], validation.labels[real])
    strangeness = known(sample, predict(network, sample.pixels)[1], pooled)
    test_logits = predict(network, test.pixels)[0]
    described = {
        "recipe": asdict(recipe),
        "licence": recipe.licence,
        "data": {"digest": data.digest(everything, parts), **data.counts(everything, parts)},
        "metrics": evaluate.report(evaluate.softmax(test_logits / temperature), test),
    }
    now = datetime.now(UTC).replace(microsecond=0)
    artefact = artefacts.save_artefact(
        folder,
        network,
        strangeness,
        version=f"{recipe.name}-{now:%Y%m%d}",
        temperature=temperature,
        described=described,
        created=now,
    )
    (folder / "MODEL_CARD.md").write_text(card.render(artefact.manifest), encoding="utf-8")
    return folder


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
