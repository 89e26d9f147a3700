"""How strange an image is to a network, told from its pooled features alone; numpy only.

It lies in an artefact as a file of its own, so that it can be fitted anew to a network that stays as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from hilum.errors import NetworkError

LIMIT = 1.0
"""The score beyond which an image is not assessed."""

Values = NDArray[np.float32]


def why_refused(score: float) -> str | None:
    """Return None, or why an image so strange is not assessed: the end of "Not assessed, because ..."."""
    if score <= LIMIT:
        return None
    return "it does not look like a frontal chest radiograph to the network"


@dataclass(frozen=True)
class Strangeness:
    """Two signs of a stranger, of which the stronger counts.

    How much an image is like strangers that were made of the images trained on (outlier exposure: Hendrycks,
    Mazeika and Dietterich, ICLR 2019), and how far it lies from all those images (Mahalanobis distance: Lee
    et al., NeurIPS 2018; here from one Gaussian for all classes). The first knows an image upside down, which
    is near; the second what is like nothing ever seen.
    """

    mean: Values
    """(C,), of the features of images trained on."""
    direction: Values
    """(C,), the way from them to the strangers."""
    axes: Values
    """(K, C), orthonormal: along these they vary most."""
    variances: Values
    """(K + 1,), along each axis, and along any other direction."""
    middles: Values
    """(2,), each sign's median in images never trained on."""
    reaches: Values
    """(2,), from there to what hardly any of them reaches."""
    quantiles: Values
    """(101,), the stronger sign in those of them that are not refused, at 0, 1, ... 100 percent."""

    def signs(self, pooled: Values) -> Values:
        """Return (B, 2) likeness to strangers and distance, of pooled features (B, C)."""
        centred = pooled - self.mean
        along = centred @ self.axes.T
        beside = np.square(centred).sum(axis=1) - np.square(along).sum(axis=1)
        squares = (np.square(along) / self.variances[:-1]).sum(axis=1) + beside / self.variances[-1]
        return np.stack([centred @ self.direction, np.sqrt(np.maximum(squares, 0))], axis=1)

    def stronger(self, pooled: Values) -> Values:
        """Return (B,) the stronger sign; 0 is usual, and 1 hardly ever reached, in images to be read."""
        return np.asarray(((self.signs(pooled) - self.middles) / self.reaches).max(axis=1), np.float32)

    def of(self, pooled: Values) -> Values:
        """Return how strange images are, (B,), of their pooled features (B, C).

        Up to `LIMIT` it is the share of images to be read that are less strange. Beyond, it grows with the
        stronger sign, by 1 for as much as the limit lies above the median.
        """
        stronger, limit = self.stronger(pooled), self.quantiles[-1]
        shares = np.interp(stronger, self.quantiles, np.linspace(0, 1, len(self.quantiles)))
        beyond = 1 + (stronger - limit) / max(limit - self.quantiles[len(self.quantiles) // 2], 1e-6)
        return np.asarray(np.where(stronger > limit, beyond, shares), np.float32)

    def content(self) -> bytes:
        """Return what the file in an artefact holds."""
        return save({name: np.ascontiguousarray(value) for name, value in vars(self).items()})


def load(file: Path) -> Strangeness:
    """Return what `Strangeness.content` gave; NetworkError when it is not that."""
    try:
        return Strangeness(**load_file(file))
    except (SafetensorError, OSError, TypeError) as error:
        raise NetworkError(
            f"{file} does not tell how strange an image is: {error}. Put a complete artefact there."
        ) from error
