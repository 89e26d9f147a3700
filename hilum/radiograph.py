"""Pixels: from a DICOM data set to what a reader sees and to what the network gets.

Training and inference both come through `network_input`, so that they cannot drift apart.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PREPROCESSING = "square-224-v1"
"""Name of what `network_input` does; a finding is kept with it, and a change of it is a new name."""
INPUT_SIZE = 224


def network_input(display: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the network's input, (224, 224) uint8, of a display image (H, W) with bone white.

    The central square is cut out, never padded and never stretched: the shape of a radiograph tells
    its source, and a network would learn that. Gray values are stretched between the
    1st and the 99th percentile.
    """
    side = min(display.shape)
    top, left = (display.shape[0] - side) // 2, (display.shape[1] - side) // 2
    square = Image.fromarray(display[top : top + side, left : left + side])
    small = np.asarray(square.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BOX), dtype=np.float32)
    low, high = np.percentile(small, (1, 99))
    stretched = (small - low) * (255.0 / max(high - low, 1.0))
    return np.clip(stretched.round(), 0, 255).astype(np.uint8)
