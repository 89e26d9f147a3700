"""Where a network looked: Grad-CAM in closed form."""

import numpy as np
from numpy.typing import NDArray

from hilum.errors import NetworkError
from hilum.network import Head


def heat_map(head: Head, features: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
    """Return (h, w) float32 in [0, 1]: how much each place of features (C, h, w) speaks for a class.

    This is `grad_cam` with the largest set to 1; all zeros where nothing speaks for the class.
    """
    heat: NDArray[np.float32] = grad_cam(head, features, class_index)
    return np.asarray(heat / np.maximum(heat.max(), np.finfo(np.float32).tiny), dtype=np.float32)


def grad_cam(head: Head, features: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
    """Return Grad-CAM (Selvaraju et al., ICCV 2017) of one image, (h, w) float32, not negative.

    That is the features (C, h, w) weighted by the mean gradient of the class's logit with respect to them,
    negative sums set to 0. After global average pooling only the head is left, so the gradient is the same
    at every place and is had by stepping back through Linear - ReLU - Linear, without the network.

    Raises
    ------
    NetworkError
        If the features are no map but (C,): `Artefact.has_map` tells beforehand.
    """
    if features.ndim != 3:
        raise NetworkError("There is no heat map: the features of this network, a ViT, are no map.")
    places = features[0].size
    hidden = head.first_weight @ features.mean(axis=(1, 2)) + head.first_bias
    gradient = (head.second_weight[class_index] * (hidden > 0)) @ head.first_weight / places
    return np.asarray(np.maximum(np.tensordot(gradient, features, axes=1), 0), dtype=np.float32)
