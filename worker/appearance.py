"""What an image looks like to a machine, in a few numbers with a meaning: the signs that drift is told by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLACK, _WHITE = 32, 224
_MIDDLE = slice(56, 168)


@dataclass(frozen=True)
class Sign:
    """One of these numbers: what it is, and what an image is with more of it, and with less."""

    meaning: str
    more: str
    less: str


SIGNS = {
    "brightness": Sign("mean gray value", "brighter", "darker"),
    "contrast": Sign("spread of gray values", "richer in contrast", "poorer in contrast"),
    "black": Sign("share of black", "blacker in parts", "black in fewer parts"),
    "white": Sign("share of white", "whiter in parts", "white in fewer parts"),
    "sharpness": Sign("step between neighbours", "sharper or noisier", "softer"),
    "middle": Sign("middle above the rest", "brighter in the middle", "darker in the middle"),
}
"""Gray values and steps go from 0 to 1, of a network's input, which is stretched between black and white.

A changed tube voltage or processing shows in the first four, a new detector in the fifth, and an image that
is cropped or inverted in the last and in black and white.
"""


def appearance(image: NDArray[np.uint8]) -> dict[str, float]:
    """Return the signs of a network's input, (224, 224) uint8: name -> number, in 0.2 ms."""
    counts = np.bincount(image.reshape(-1), minlength=256) / image.size
    grays = np.arange(256)
    mean = float(counts @ grays)
    steps = sum(_mean_step(image, axis) for axis in (0, 1)) / 2
    middle = image[_MIDDLE, _MIDDLE]
    rest = (mean * image.size - float(middle.sum())) / (image.size - middle.size)
    values = {
        "brightness": mean / 255,
        "contrast": float(counts @ np.square(grays - mean)) ** 0.5 / 255,
        "black": float(counts[:_BLACK].sum()),
        "white": float(counts[_WHITE:].sum()),
        "sharpness": steps / 255,
        "middle": (float(middle.mean()) - rest) / 255,
    }
    return {name: round(value, 5) for name, value in values.items()}


def _mean_step(image: NDArray[np.uint8], axis: int) -> float:
    """The mean absolute difference between neighbours; of uint8 taken the right way round, for speed."""
    one, other = (image[1:], image[:-1]) if axis == 0 else (image[:, 1:], image[:, :-1])
    return float((np.maximum(one, other) - np.minimum(one, other)).mean())
