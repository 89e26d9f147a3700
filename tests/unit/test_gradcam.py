import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hilum.gradcam import heat_map
from hilum.network import LABELS, Head

torch = pytest.importorskip("torch")


def random_head(seed: int) -> Head:
    rng = np.random.default_rng(seed)
    shapes = ((512, 2048), (512,), (4, 512), (4,))
    return Head(*((rng.standard_normal(shape) / 30).astype(np.float32) for shape in shapes))


def random_features(seed: int) -> NDArray[np.float32]:
    return np.maximum(np.random.default_rng(seed).standard_normal((2048, 7, 7)), 0).astype(np.float32)


def by_autograd(head: Head, features: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
    maps = torch.from_numpy(features).requires_grad_()
    first, first_bias, second, second_bias = (torch.from_numpy(part) for part in vars(head).values())
    logits = second @ torch.relu(first @ maps.mean((1, 2)) + first_bias) + second_bias
    (gradient,) = torch.autograd.grad(logits[class_index], maps)
    heat = torch.relu((gradient.mean((1, 2), keepdim=True) * maps).sum(0)).detach().numpy()
    return np.asarray(heat / heat.max())


@pytest.mark.parametrize("class_index", range(len(LABELS)))
def test_the_closed_form_is_what_autograd_gives(class_index: int) -> None:
    head, features = random_head(1), random_features(2)
    expected = by_autograd(head, features, class_index)
    np.testing.assert_allclose(heat_map(head, features, class_index), expected, atol=1e-5)


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
