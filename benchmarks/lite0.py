"""What a small network with ImageNet weights reaches on the same folds: the bar for our ResNet50.

`python -m benchmarks.lite0 --data FOLDER --out FOLDER` fine-tunes EfficientNet-Lite0 (see `training.teacher`
for its packages) once per fold of `hilum train hilum --folds 5`, on radiographs alone, and prints the pooled
figures as JSON. Each fold's answers are kept in `out`: run again, it goes on with the next.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilum.network import LABELS
from training import data, evaluate
from training import recipe as recipes
from training.augment import resized
from training.batches import Drawing, batch, seed
from training.checkpoint import Training, write_safely
from training.data import Images
from training.folds import fold_parts, folds
from training.learner import DEVICE
from training.losses import loss_of
from training.recipe import Recipe
from training.teacher import efficientnet_lite0
from training.train import gather

SIZE_PX, EPOCHS, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 224, 8, 5e-4, 0.05, 0.3
FEATURES = 1280


class Lite0(nn.Module):
    """EfficientNet-Lite0 and one linear layer on its pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = efficientnet_lite0()
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(FEATURES, len(LABELS)))

    def forward(self, gray: Tensor) -> Tensor:
        images = ((resized(gray, SIZE_PX) - 127) / 128).expand(-1, 3, -1, -1)
        maps = self.body.extract_features(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def fine_tuned(recipe: Recipe, images: Images, training: NDArray[np.bool_]) -> Lite0:
    """Return the network after training on the images of a mask (N,), as they come."""
    seed(recipe.seed)
    network = Lite0()
    network.to(DEVICE).to(memory_format=torch.channels_last)
    drawing = Drawing(recipe, images, training)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    steps = EPOCHS * drawing.steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    loss_for = loss_of(recipe.loss)
    network.train()
    for epoch in range(EPOCHS):
        for step, chosen in enumerate(drawing.epoch(epoch)):
            seed(recipe.seed, epoch, step)
            gray, targets = batch(recipe, images, chosen[0], DEVICE)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                logits = network(gray)
            loss = loss_for(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return network


@torch.no_grad()
def answers(network: Lite0, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    said = []
    for start in range(0, len(pixels), 32):
        gray = torch.from_numpy(pixels[start : start + 32]).to(DEVICE).float()[:, None]
        with torch.autocast(DEVICE.type, torch.bfloat16):
            said.append(network(gray).float().cpu().numpy())
    return np.concatenate(said)


def fold(recipe: Recipe, images: Images, is_kept: NDArray[np.bool_], file: Path) -> NDArray[np.float64]:
    """Return calibrated probabilities (N, 4) of the images kept; from the file, if it is there.

    Raises CheckpointError when the file is of another recipe, other images or another fold.
    """
    parts = fold_parts(recipe, images, is_kept)
    training = Training(recipe, images, parts)
    if not file.exists():
        network = fine_tuned(recipe, images, parts == "train")
        validation = images.where(parts == "validation")
        temperature = evaluate.temperature(answers(network, validation.pixels), validation.labels)
        logits = answers(network, images.where(is_kept).pixels)
        said = {
            "of": training.described,
            "sha256": images.digests[is_kept].tolist(),
            "probabilities": evaluate.softmax(logits / temperature).tolist(),
        }
        write_safely(file, json.dumps(said).encode())
    kept = json.loads(file.read_text(encoding="utf-8"))
    training.require(file, kept["of"])
    of = dict(zip(kept["sha256"], kept["probabilities"], strict=True))
    return np.array([of[digest] for digest in images.digests[is_kept].tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    ours = recipes.read(recipes.find("hilum"))
    everything = gather(ours, arguments.data, arguments.manifest)
    is_real = everything.sources != data.PHANTOM
    fold_of = folds(ours, everything, arguments.folds)[is_real]
    images = everything.where(is_real)
    recipe = ours.model_copy(
        update={"balance": "none", "phantom_share": 0.0, "images_per_epoch": "all", "batches_per_step": 1}
    )
    probabilities = np.zeros((len(images), len(LABELS)))
    for number in range(arguments.folds):
        file = arguments.out / f"lite0-fold-{number + 1}.json"
        probabilities[fold_of == number] = fold(recipe, images, fold_of == number, file)
    print(json.dumps(evaluate.report(probabilities, images), indent=1))


if __name__ == "__main__":
    main()
