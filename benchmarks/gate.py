"""How often the gate errs: `python benchmarks/gate.py [--trials 200] [--patients 300,1000]`.

Draws test parts of a hospital and the answers of a champion who is right in four of five images, and of
challengers whose worth is known, and asks the gate about each. Prints a line a setting, and JSON on the last:
by patients and challenger the share that passed.

Champion and challenger err on the same images as far as trainings that begin with the champion do: an equal
challenger answers about `--apart` of the images otherwise.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.data import Images
from training.evaluate import softmax
from training.gate import Rule, compare
from training.report import Answers

ROOMS, ROOM_SHARES = np.array(["ROOM1", "ROOM2", "ROOM3", "WARD"]), (0.45, 0.3, 0.2, 0.05)
CLASS_SHARES = (0.45, 0.25, 0.1, 0.2)
RIGHT = 0.80

Values = NDArray[np.float64]
Gain = Callable[[Images], Values]
"""How much oftener than the champion a challenger is right, (N,)."""


def but(rest: float, there: float, chosen: Callable[[Images], NDArray[np.bool_]]) -> Gain:
    return lambda images: np.where(chosen(images), there, rest)


CHALLENGERS: dict[str, Gain] = {
    "equal": lambda images: np.zeros(len(images)),
    "better by 3 points": lambda images: np.full(len(images), 0.03),
    "better by 6 points": lambda images: np.full(len(images), 0.06),
    "worse by 3 points": lambda images: np.full(len(images), -0.03),
    "better by 8, in ROOM3 (a fifth) worse by 10": but(0.08, -0.10, lambda of: of.sources == "ROOM3"),
    "better by 8, in ROOM3 (a fifth) worse by 20": but(0.08, -0.20, lambda of: of.sources == "ROOM3"),
    "better by 12, for women (a half) worse by 10": but(0.12, -0.10, lambda of: of.sexes == "F"),
    "better by 8, on WARD (a twentieth) worse by 20": but(0.08, -0.20, lambda of: of.sources == "WARD"),
    "better by 8, for COVID-19 (a tenth) worse by 20": but(0.08, -0.20, lambda of: of.labels == 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--patients", default="200,500,1000", help="of the test part")
    parser.add_argument("--repeats", type=int, default=200, help="of the bootstrap")
    parser.add_argument(
        "--apart", type=float, default=0.10, help="share that equal networks answer otherwise"
    )
    arguments = parser.parse_args()
    told = {
        count: rates(int(count), arguments.trials, arguments.apart, Rule(repeats=arguments.repeats))
        for count in arguments.patients.split(",")
    }
    print(json.dumps({"trials": arguments.trials, "apart": arguments.apart, "passed": told}))


def rates(count: int, trials: int, apart: float, rule: Rule) -> dict[str, float]:
    passed = {}
    for name, gain in CHALLENGERS.items():
        verdicts = [compare(*pair(count, gain, apart, seed), rule=rule).passed for seed in range(trials)]
        passed[name] = float(np.mean(verdicts))
        print(f"{count:5d} patients, {name}: {100 * passed[name]:.0f} % passed")
    return passed


def pair(count: int, gain: Gain, apart: float, seed: int) -> tuple[Answers, Answers]:
    """Return a champion's and a challenger's answers to a test part drawn anew."""
    rng = np.random.default_rng(seed)
    images = test_part(count, rng)
    noise = rng.standard_normal((count, 4))
    anew = rng.random(count)[:, None] < apart / (2 * RIGHT * (1 - RIGHT))
    other = np.where(anew, rng.standard_normal((count, 4)), noise)
    return answers(images, noise, np.full(count, RIGHT)), answers(images, other, RIGHT + gain(images))


def answers(images: Images, noise: Values, right: Values) -> Answers:
    """Return answers that are right so often, (N,), and as sure as they are right on average.

    Of evidence that is normal about the truth a softmax gives the probabilities (linear discriminants).
    """
    logits = (np.interp(right, SHARES, STRENGTHS)[:, None] * np.eye(4)[images.labels] + noise) * np.interp(
        right.mean(), SHARES, STRENGTHS
    )
    return Answers(images, logits.astype(np.float32), softmax(logits), np.zeros(len(images), np.bool_))


STRENGTHS = np.linspace(0, 5, 51)
"""How far evidence may lean towards the truth."""
SHARES = np.array(
    [
        np.mean(found[:, 0] + strength > found[:, 1:].max(axis=1))
        for found in [np.random.default_rng(0).standard_normal((20_000, 4))]
        for strength in STRENGTHS
    ]
)
"""How often it then tells the truth, among four."""


def test_part(count: int, rng: np.random.Generator) -> Images:
    return Images(
        pixels=np.zeros((count, 1, 1), np.uint8),
        labels=rng.choice(4, count, p=CLASS_SHARES),
        sources=rng.choice(ROOMS, count, p=ROOM_SHARES),
        patients=np.arange(count).astype(np.str_),
        digests=np.arange(count).astype(np.str_),
        views=rng.choice(np.array(["PA", "AP"]), count, p=(0.7, 0.3)),
        sexes=rng.choice(np.array(["F", "M"]), count),
        ages_years=rng.normal(58, 17, count).clip(16, 100),
    )


if __name__ == "__main__":
    main()
