"""What nights of training gain: `python benchmarks/nightly.py --data FOLDER --out FOLDER`.

A network learns from a third of the labelled patients and is the champion. In each of three nights a third of
the others is labelled too, a challenger learns from all that is labelled so far, beginning with the champion,
and the gate decides whether it takes its place. The test patients are the same from the first to the last.
The reference learns from everybody at once, as the first network does from its third.

Prints a line a step and JSON on the last one: of each step how many patients were learnt from, the figures of
the test patients, and of a night whether it passed, and why. Each training is kept in `out`: given again with
the same arguments, it goes on. `--epochs 1 --start-epochs 1 --size 64 --patients 500 --backbone
mobilenet_v3_small` takes minutes and says nothing.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.engine import choose_engine
from hilum.network import LABELS, Artefact, load_artefact
from hilum.radiograph import INPUT_SIZE
from training import data, evaluate, reader, split
from training import recipe as recipes
from training.data import Images
from training.evaluate import POOLED
from training.gate import Rule, judge
from training.recipe import Recipe
from training.report import read
from training.unseen import held_out_phantoms

NIGHTS = 3
_FOLDS = 3 * NIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled radiographs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start-epochs", type=int, default=24, help="of the first network and the reference")
    parser.add_argument("--epochs", type=int, default=6, help="of a night")
    parser.add_argument("--size", type=int, default=112, help="side of the images learnt from, px")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--patients", type=int, help="about as many of them only")
    parser.add_argument("--least-cases", type=int, default=Rule().least_cases, help="of the gate")
    arguments = parser.parse_args()
    bench = Benchmark(arguments)
    print(json.dumps(bench.steps()))


class Benchmark:
    """Radiographs, and when each becomes labelled."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        arguments.out.mkdir(parents=True, exist_ok=True)
        found = reader.collect(arguments.data)
        chosen = some(found.images, arguments.patients)
        self.images = found.images.where(chosen)
        self.names = [name for name, is_in in zip(found.names, chosen, strict=True) if is_in]
        self.parts = split.parts(self.images, (0.70, 0.15, 0.15), 2026)
        self.known_from = np.maximum(split.folds(self.images, _FOLDS, 7) - NIGHTS, -1) // 2 + 1
        self.test = self.images.where(self.parts == "test")

    def steps(self) -> list[dict[str, Any]]:
        champion = self.trained("start", self.first(), night=0)
        told = [self.step("start", champion, 0)]
        for night in range(1, NIGHTS + 1):
            challenger = self.trained(f"night-{night}", self.nightly(champion), night)
            phantoms = held_out_phantoms(challenger.manifest)
            rule = Rule(least_cases=self.arguments.least_cases)
            verdict = judge(champion, challenger, data.together([self.test, phantoms]), rule=rule)
            said = {"passed": verdict.passed, "sentences": [*verdict.sentences]}
            told.append({**self.step(f"night {night}", challenger, night), **said})
            champion = challenger if verdict.passed else champion
        told.append(self.step("champion in the end", champion, NIGHTS))
        told.append(self.step("reference", self.trained("reference", self.first(), NIGHTS), NIGHTS))
        return told

    def step(self, name: str, artefact: Artefact, night: int) -> dict[str, Any]:
        answers = read(choose_engine(artefact), self.test)
        figures = evaluate.report(answers.probabilities, self.test, repeats=200)[POOLED]
        learnt = self.images.patients[self.learnt(night)]
        told = {
            "step": name,
            "network": artefact.version,
            "patients": len(np.unique(learnt)),
            **{each: figures.get(each) for each in ("images", "accuracy", "macro_f1", "macro_auroc")},
            "sensitivity": {of: each["recall"] for of, each in figures.get("classes", {}).items()},
        }
        accuracy = (figures.get("accuracy") or {}).get("value")
        print(f"{name}: {len(np.unique(learnt))} patients, accuracy {accuracy}", flush=True)
        return told

    def learnt(self, night: int) -> NDArray[np.bool_]:
        return np.asarray((self.parts != "test") & (self.known_from <= night))

    def trained(self, name: str, recipe: Recipe, night: int) -> Artefact:
        """Return the network of a recipe, trained on who is labelled until a night."""
        from training.train import train

        out = self.arguments.out / name
        out.mkdir(exist_ok=True)
        (out / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
        chosen = self.learnt(night) | (self.parts == "test")
        write(out / "images.csv", self.images, self.names, self.parts, chosen)
        return load_artefact(
            train(out / "recipe.json", out, images=self.arguments.data, manifest=out / "images.csv")
        )

    def first(self) -> Recipe:
        said = recipes.parsed(recipes.find("hilum"))
        if self.arguments.backbone != said["backbone"]:
            said |= {"backbone": self.arguments.backbone, "teacher": "nobody", "teacher_weight": 0.0}
        return self.sized({**said, "name": "start"}, self.arguments.start_epochs)

    def nightly(self, champion: Artefact) -> Recipe:
        said = recipes.parsed(recipes.find("nightly"))
        said |= {"weights": str(champion.folder), "backbone": champion.backbone}
        return self.sized(said, self.arguments.epochs)

    def sized(self, said: dict[str, Any], epochs: int) -> Recipe:
        stage = {"epochs": epochs, "size_px": self.arguments.size, "validation_size_px": INPUT_SIZE}
        few = {} if self.arguments.patients is None else {"images_per_epoch": self.arguments.patients}
        return recipes.checked({**said, **few, "stages": [stage]}, "benchmark")


def some(images: Images, patients: int | None) -> NDArray[np.bool_]:
    """Whether an image is of so many families of patients, about, of all classes and sources alike."""
    count = 1 if patients is None else max(1, len(np.unique(split.families(images))) // patients)
    return np.asarray(split.folds(images, count, 0) == 0)


def write(
    file: Path, images: Images, names: Sequence[str], parts: NDArray[np.str_], chosen: NDArray[np.bool_]
) -> None:
    """Write a manifest with the part of each image."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["file", "class", "patient_id", "source_dataset", "view", "sex", "age", "part"])
        for index in np.flatnonzero(chosen):
            age = images.ages_years[index]
            writer.writerow(
                [
                    names[index],
                    LABELS[images.labels[index]],
                    images.patients[index],
                    images.sources[index],
                    images.views[index],
                    images.sexes[index],
                    "" if np.isnan(age) else f"{age:g}",
                    parts[index],
                ]
            )


if __name__ == "__main__":
    main()
