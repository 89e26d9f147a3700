"""Where a network looked: Grad-CAM in closed form."""

import numpy as np
from numpy.typing import NDArray

from hilum.network import Head


def heat_map(head: Head, features: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
    """Return (7, 7) float32 in [0, 1]: how much each place of features (2048, 7, 7) speaks for a class.

    This is Grad-CAM (Selvaraju et al., ICCV 2017): the features weighted by the mean gradient of the
    class's logit with respect to them, negative sums set to 0, the largest to 1; all zeros where nothing
    speaks for the class. After global average pooling only the head is left, so the gradient is the same
    at every place and is had by stepping back through Linear - ReLU - Linear, without the network.
    """
    hidden = head.first_weight @ features.mean(axis=(1, 2)) + head.first_bias
    gradient = (head.second_weight[class_index] * (hidden > 0)) @ head.first_weight
    heat = np.maximum(np.tensordot(gradient, features, axes=1), 0)
    return np.asarray(heat / max(float(heat.max()), np.finfo(np.float32).tiny), dtype=np.float32)
