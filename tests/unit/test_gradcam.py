from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hilum.errors import NetworkError
from hilum.export import patterns
from hilum.gradcam import grad_cam, heat_map
from hilum.network import LABELS, Head, features, head_of, normalise
from tests.unit.artefacts import random_network

torch = pytest.importorskip("torch")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")


def random_head(seed: int) -> Head:
    rng = np.random.default_rng(seed)
    shapes = ((512, 2048), (512,), (4, 512), (4,))
    return Head(*((rng.standard_normal(shape) / 30).astype(np.float32) for shape in shapes))


def random_features(seed: int) -> NDArray[np.float32]:
    return np.maximum(np.random.default_rng(seed).standard_normal((2048, 7, 7)), 0).astype(np.float32)


def head_as_read(network: Any) -> Head:
    kept = head_of(network).state_dict()
    return Head(*(kept[name].numpy() for name in ("1.weight", "1.bias", "4.weight", "4.bias")))


def by_library(network: Any, layer: Any, images: Any, class_index: int) -> NDArray[np.float32]:
    """Return what pytorch-grad-cam makes of images, (B, h, w), before it scales each to 0..1."""
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(class_index)] * len(images)
    with pytorch_grad_cam.GradCAM(network, [layer]) as cam:
        cam(images, targets)
        hooked = cam.activations_and_grads
        heat = cam.get_cam_image(
            images, layer, targets, hooked.activations[0].numpy(), hooked.gradients[0].numpy(), False
        )
    return np.asarray(np.maximum(heat, 0), dtype=np.float32)


LAST_LAYERS = {"resnet50": "layer4", "mobilenet_v3_small": "features"}


@pytest.mark.parametrize("backbone", LAST_LAYERS)
def test_the_closed_form_is_what_pytorch_grad_cam_gives(backbone: str) -> None:
    network = random_network(backbone).eval()
    images = normalise(torch.from_numpy(patterns()[2:, ::2, ::2]).float()[:, None])
    maps = features(network, images).detach().numpy()
    head = head_as_read(network)
    for class_index in range(len(LABELS)):
        ours = np.stack([grad_cam(head, one, class_index) for one in maps])
        layer = network.get_submodule(LAST_LAYERS[backbone])
        expected = by_library(network, layer, images, class_index)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * expected.max())


@settings(deadline=None)
@given(seed=st.integers(0, 1000), class_index=st.integers(0, 3))
def test_a_heat_map_is_between_0_and_1(seed: int, class_index: int) -> None:
    heat = heat_map(random_head(3), random_features(seed), class_index)
    assert heat.shape == (7, 7)
    assert heat.dtype == np.float32
    assert 0 <= heat.min() <= heat.max() <= 1


def test_where_nothing_speaks_for_the_class_the_map_is_zero() -> None:
    assert not heat_map(random_head(4), np.zeros((2048, 7, 7), np.float32), 0).any()


def test_the_place_that_speaks_for_the_class_is_hot() -> None:
    head, features = random_head(5), np.zeros((2048, 7, 7), np.float32)
    hidden = (head.first_bias > 0).astype(np.float32)
    speaking = ((head.second_weight[1] * hidden) @ head.first_weight) > 0
    features[speaking, 2, 5] = 1e-3
    heat = heat_map(head, features, 1)
    assert heat[2, 5] == 1
    assert heat.sum() == 1


def test_features_that_are_no_map_are_refused() -> None:
    with pytest.raises(NetworkError, match="no heat map"):
        heat_map(random_head(6), np.ones(2048, np.float32), 0)
