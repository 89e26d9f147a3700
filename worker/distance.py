"""How far apart two samples are, and how likely chance alone puts them so far apart."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distance:
    """How one sample differs from another."""

    distance: float
    """0, of samples alike, to 1, of samples that have nothing in common."""
    chance: float
    """The probability of such a distance between samples of one and the same kind."""
    before: float
    """The median of the first sample; of classes, the share of the one that changed most."""
    now: float
    """Likewise of the second."""
    of: str = ""
    """The class that changed most."""


def of_numbers(before: Sequence[float], now: Sequence[float]) -> Distance:
    """The Kolmogorov-Smirnov distance of two samples that are not empty, with its asymptotic probability.

    The probability is Stephens' approximation (J. R. Stat. Soc. B 32, 1970).
    """
    one, other = np.sort(before), np.sort(now)
    values = np.concatenate([one, other])
    shares = [np.searchsorted(each, values, side="right") / len(each) for each in (one, other)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    size = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    chance = _kolmogorov((size + 0.12 + 0.11 / size) * distance)
    return Distance(distance, chance, float(np.median(one)), float(np.median(other)))


def of_classes(before: Sequence[str], now: Sequence[str]) -> Distance:
    """The total variation distance of two samples of classes: how many in a hundred would have to change.

    The probability is that of Pearson's chi-square test of the two samples.
    """
    one, other = Counter(before), Counter(now)
    classes = sorted(one.keys() | other.keys())
    counts = np.array([[each[name] for name in classes] for each in (one, other)], dtype=float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    most = int(np.abs(shares[0] - shares[1]).argmax())
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    chance = _chi_square_tail(float((np.square(counts - expected) / expected).sum()), len(classes) - 1)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    return Distance(distance, chance, float(shares[0, most]), float(shares[1, most]), classes[most])


def _kolmogorov(scaled: float) -> float:
    """The probability that Kolmogorov's distribution goes beyond."""
    if scaled < 0.2:
        return 1.0  # the series converges slowly there, and its sum is 1 to twelve places
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)]
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def _chi_square_tail(value: float, freedom: int) -> float:
    """The probability that chi-square of so many degrees of freedom goes beyond (Abramowitz, Stegun 26.4)."""
    if freedom == 0:
        return 1.0
    half, odd = value / 2, freedom % 2
    tail = math.erfc(math.sqrt(half)) if odd else math.exp(-half)
    for step in range((freedom - 1) // 2):
        power = step + 1 - odd / 2
        tail += math.exp(power * math.log(half) - half - math.lgamma(power + 1)) if half else 0.0
    return min(1.0, tail)
