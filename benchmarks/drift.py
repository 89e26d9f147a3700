"""How often drift is seen where there is none, and where there is some: `python benchmarks/drift.py`.

Samples are drawn by chance, of a sender's signs and findings; each is compared as a day's look compares it.
A look at images (six signs) and one at findings (label, confidence, strangeness) count as one. The last line
is JSON: images of the week -> what changed -> share of looks that see drift.
"""

import argparse
import json
from typing import Any

import numpy as np
from numpy.random import Generator

from hilum.network import LABELS
from hilum.settings import Settings
from worker.appearance import SIGNS
from worker.drift import distances_of, is_beyond

SHARES = (0.5, 0.3, 0.15, 0.05)
CHANGES: dict[str, tuple[float, float]] = {
    "nothing": (0, 0),
    "a sign by 0.5 of its spread": (0.5, 0),
    "a sign by 0.8 of its spread": (0.8, 0),
    "a sign by 1.2 of its spread": (1.2, 0),
    "Normal in 20 of 100 fewer": (0, 0.2),
    "Normal in 30 of 100 fewer": (0, 0.3),
}
"""Words -> by how much the first sign moves, and how many findings turn from Normal to Pneumonia."""


def main() -> None:
    """Print a line for each number of images, and all of it as JSON."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--looks", type=int, default=1000)
    looks = arguments.parse_args().looks
    ours = Settings()
    seen = {}
    for images in (ours.drift_least_images, 250, 700):
        seen[images] = {words: _share(looks, images, *by, ours) for words, by in CHANGES.items()}
        print(f"{images} images:", ", ".join(f"{words} {share:.3f}" for words, share in seen[images].items()))
    print(json.dumps({"looks": looks, "limit": ours.drift_limit, "seen": seen}))


def _share(looks: int, images: int, moved: float, turned: float, ours: Settings) -> float:
    rng = np.random.default_rng([images, int(100 * moved), int(100 * turned)])
    return sum(_sees(rng, images, moved, turned, ours) for _ in range(looks)) / looks


def _sees(rng: Generator, images: int, moved: float, turned: float, ours: Settings) -> bool:
    before, now = _sample(rng, ours.drift_reference_images, 0, 0), _sample(rng, images, moved, turned)
    for names in (SIGNS.keys(), before.keys() - SIGNS.keys()):
        found = distances_of({name: before[name] for name in names}, {name: now[name] for name in names})
        if any(is_beyond(each, len(found), ours.drift_limit) for each in found.values()):
            return True
    return False


def _sample(rng: Generator, images: int, moved: float, turned: float) -> dict[str, Any]:
    signs = {name: rng.standard_normal(images) + moved * (name == "brightness") for name in SIGNS}
    shares = np.add(SHARES, [-turned, turned, 0, 0])
    findings = {"label": rng.choice(LABELS, images, p=shares).tolist()}
    return signs | findings | {name: rng.uniform(size=images) for name in ("confidence", "ood")}


if __name__ == "__main__":
    main()
