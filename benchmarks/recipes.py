"""What each part of the shipped network's recipe is worth.

`python -m benchmarks.recipes --data FOLDER --out FOLDER` trains a short form of the recipe, and the same with
one thing changed at a time, on the same split, and prints JSON: figures on the *validation* radiographs (test
patients are not looked at), of the image as it is, and averaged with mirrored and cropped views of it. Each
training is kept in `out`: run again, the next one follows.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.radiograph import INPUT_SIZE
from training import data, evaluate
from training import recipe as recipes
from training.augment import resized
from training.crew import Alone
from training.data import Images
from training.learner import begin, predict
from training.recipe import Recipe
from training.train import prepare, run

SHORT = [
    {"epochs": 6, "size_px": 80, "validation_size_px": 112},
    {"epochs": 3, "size_px": 112, "validation_size_px": INPUT_SIZE},
]
VARIANTS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "no teacher": {"teacher": "nobody", "teacher_weight": 0.0},
    "classes evenly": {"balance": "class"},
    "classes and sources evenly": {"balance": "class and source"},
    "no phantoms": {"phantom_share": 0.0, "training_phantoms": 0, "held_out_phantoms": 0},
    "generalised cross entropy": {"loss": {"kind": "generalised cross entropy", "q": 0.7}},
    "symmetric cross entropy": {"loss": {"kind": "symmetric cross entropy", "forward": 0.5, "reverse": 2.0}},
    "one size": {"stages": [{"epochs": 6, "size_px": 112, "validation_size_px": INPUT_SIZE}]},
    "head as learnt": {"head": {"kind": "kept"}},
}
"""`one size` takes about as long as the others do."""


def variant(changes: dict[str, Any]) -> Recipe:
    ours = recipes.read(recipes.find("hilum")).model_dump(mode="json")
    return Recipe.model_validate({**ours, "stages": SHORT, **changes})


def cropped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the central parts of images, seven eighths of a side, enlarged to (N, 224, 224)."""
    gray = torch.from_numpy(pixels[:, 14:-14, 14:-14]).float()[:, None]
    return np.asarray(resized(gray, INPUT_SIZE)[:, 0].round().byte().numpy())


VIEWS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "plain": lambda pixels: pixels,
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, :, ::-1]),
    "cropped": cropped,
}


def figures(logits: NDArray[np.floating], images: Images) -> dict[str, float]:
    """Return pooled and honest figures of logits (N, 4), calibrated on the same images."""
    calibrated = logits / evaluate.temperature(logits, images.labels)
    slices = evaluate.report(evaluate.softmax(calibrated), images, repeats=1)
    return {
        "log loss": evaluate.log_loss(calibrated, images.labels),
        "accuracy": slices[evaluate.POOLED]["accuracy"]["value"],
        "macro AUROC": slices[evaluate.POOLED]["macro_auroc"]["value"],
        f"{evaluate.NIH_CLASSES}: accuracy": slices[evaluate.NIH_CLASSES]["accuracy"]["value"],
        f"{evaluate.NIH_ABNORMAL}: AUROC": slices[evaluate.NIH_ABNORMAL]["macro_auroc"]["value"],
        f"{evaluate.COVID_OR_PNEUMONIA}: AUROC": slices[evaluate.COVID_OR_PNEUMONIA]["macro_auroc"]["value"],
    }


def measured(recipe: Recipe, images: Path, manifest: Path | None, out: Path) -> dict[str, Any]:
    """Return the figures of one recipe; from its folder, if it has them."""
    told = out / "figures.json"
    if not told.exists():
        out.mkdir(parents=True, exist_ok=True)
        everything, parts = prepare(recipe, images, manifest, out, Alone())
        learner = begin(recipe)
        run(recipe, learner, everything, parts, out, Alone())
        held = everything.where((parts == "validation") & (everything.sources != data.PHANTOM))
        said = {name: predict(learner.network, view(held.pixels))[0] for name, view in VIEWS.items()}
        found = {
            "plain": figures(said["plain"], held),
            "with mirrored views": figures((said["plain"] + said["mirrored"]) / 2, held),
            "with mirrored and cropped views": figures(np.mean(list(said.values()), axis=0), held),
        }
        told.write_text(json.dumps(found))
    return dict(json.loads(told.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=VARIANTS, action="append", help="may be given several times")
    arguments = parser.parse_args()
    found = {
        name: measured(
            variant(VARIANTS[name]),
            arguments.data,
            arguments.manifest,
            arguments.out / name.replace(" ", "-"),
        )
        for name in arguments.only or VARIANTS
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
