"""The head that is fitted anew at the end of a training."""

from typing import Any

import numpy as np
import pytest

from tests.unit import recipes
from training.data import Images

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # two threads wait for each other where other tests run beside them

from hilum.network import build, head_of  # noqa: E402 - they need torch
from training import head  # noqa: E402
from training.learner import predict  # noqa: E402

REFIT = {"kind": "refit", "epochs": 40, "learning_rate": 1e-3, "weight_decay": 1.0}


@pytest.fixture(scope="module")
def everything() -> Images:
    """Thirty-two images whose label is their gray level: even a network that learnt nothing sees it."""
    labels = np.arange(32) % 4
    gray = np.linspace(20, 235, 4)[labels][:, None, None] + np.zeros((32, 224, 224))
    noise = np.random.default_rng(0).normal(0, 4, gray.shape)
    names = labels.astype(np.str_)
    return Images(
        pixels=np.clip(gray + noise, 0, 255).astype(np.uint8),
        labels=labels,
        sources=names,
        patients=names,
        digests=names,
        views=names,
        sexes=names,
        ages_years=np.full(32, np.nan),
    )


def network() -> Any:
    torch.manual_seed(3)
    return build("resnet18").eval()


def refitted(images: Images) -> Any:
    made = network()
    head.finish(made, recipes.tiny(head=REFIT), images)
    return made


def accuracy(made: Any, images: Images) -> float:
    return float((predict(made, images.pixels)[0].argmax(axis=1) == images.labels).mean())


def test_a_new_head_tells_apart_what_the_features_do(everything: Images) -> None:
    assert accuracy(network(), everything) < 0.5
    assert accuracy(refitted(everything), everything) > 0.9


def test_only_the_head_changes(everything: Images) -> None:
    before, after = network().state_dict(), refitted(everything).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"fc.1.weight", "fc.1.bias", "fc.4.weight", "fc.4.bias"}


def test_the_same_seed_gives_the_same_head(everything: Images) -> None:
    one, other = (head_of(refitted(everything)).state_dict() for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_the_head_was_fitted_with_is_taken_into_its_first_layer() -> None:
    torch.manual_seed(0)
    seen = torch.randn(32, 512) * 3 + 5
    mean, spread = seen.mean(0), seen.std(0)
    fitted = head_of(network())
    expected = fitted((seen - mean) / spread)
    head._take_in(fitted, mean, spread)
    torch.testing.assert_close(fitted(seen), expected, rtol=1e-4, atol=1e-4)


def test_a_recipe_may_keep_the_head(everything: Images) -> None:
    made = network()
    head.finish(made, recipes.tiny(), everything)
    torch.testing.assert_close(made.state_dict(), network().state_dict(), rtol=0, atol=0)
