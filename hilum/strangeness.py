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


def why_refused(score: float) -> str | None:
    """Return None, or why an image so strange is not assessed: the end of "Not assessed, because ..."."""
    if score <= LIMIT:
        return None
    return "it does not look like a frontal chest radiograph to the network"


@dataclass(frozen=True)
class Strangeness:
    """How far from everything known an image's pooled features lie."""

    means: NDArray[np.float32]
    """(K, C), one per group of images trained on."""
    spread: NDArray[np.float32]
    """(C,), the standard deviation around the means."""
    quantiles: NDArray[np.float32]
    """(101,), distances of images never trained on, at 0, 1, ... 100 percent."""

    def distances(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (B,) the mean squared standard score of (B, C) from the nearest mean."""
        scores = (pooled[:, None, :] - self.means) / self.spread
        return np.asarray(np.square(scores).mean(axis=2).min(axis=1), dtype=np.float32)

    def of(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how strange images are, (B,), of their pooled features (B, C).

        Up to 1 it is the share of images never trained on that are less strange; above 1 it means so many
        times as far away as the strangest of them.
        """
        distances = self.distances(pooled)
        shares = np.interp(distances, self.quantiles, np.linspace(0, 1, len(self.quantiles)))
        beyond = distances / self.quantiles[-1]
        return np.asarray(np.where(beyond > 1, beyond, shares), dtype=np.float32)

    def content(self) -> bytes:
        """Return what the file in an artefact holds."""
        return save(vars(self))


def load(file: Path) -> Strangeness:
    """Return what `Strangeness.content` gave; NetworkError when it is not that."""
    try:
        return Strangeness(**load_file(file))
    except (SafetensorError, OSError, TypeError) as error:
        raise NetworkError(
            f"{file} does not tell how strange an image is: {error}. Put a complete artefact there."
        ) from error
