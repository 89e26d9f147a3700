"""Images as another exposure might have shown them."""

from typing import TYPE_CHECKING

import pytest

from tests.unit import recipes
from training import data
from training.recipe import Augmentation

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # two threads wait for each other where other tests run beside them

from training.augment import augment, mixed, resized  # noqa: E402 - they need torch

STILL = Augmentation(area=(1, 1), aspect=(1, 1), turn_degrees=0, mirror=0, brightness=0, contrast=0)


@pytest.fixture(scope="module")
def gray() -> "Tensor":
    """The same image 16 times."""
    one: Tensor = torch.from_numpy(data.phantoms([3]).pixels).float()[:, None]
    return one.expand(16, 1, 224, 224)


def changed(gray: "Tensor", **how: object) -> "Tensor":
    torch.manual_seed(0)
    return augment(gray, STILL.model_copy(update=how))


def test_images_keep_their_range_and_each_is_changed_in_its_own_way(gray: "Tensor") -> None:
    torch.manual_seed(0)
    seen = augment(gray, recipes.tiny().augmentation)
    assert seen.shape == gray.shape
    assert 0 <= seen.min() <= seen.max() <= 255
    assert len({round(float(one.mean()), 3) for one in seen}) == 16


def test_with_nothing_to_change_images_stay_as_they_are(gray: "Tensor") -> None:
    torch.testing.assert_close(changed(gray), gray, atol=0.01, rtol=0)


def test_as_many_images_are_mirrored_as_wished(gray: "Tensor") -> None:
    torch.testing.assert_close(changed(gray, mirror=1.0), gray.flip(3), atol=0.01, rtol=0)
    half = (changed(gray, mirror=0.5) - gray).abs().amax((1, 2, 3)) > 1
    assert 4 <= int(half.sum()) <= 12


def test_images_are_turned_by_no_more_than_the_angle() -> None:
    line = torch.zeros(64, 1, 224, 224)
    line[:, :, 111:113] = 255  # level, through the middle
    for one in changed(line, turn_degrees=10.0):
        row = one[0, :, 200].argmax()
        assert abs(float(row) - 111.5) <= 88.5 * 0.1763 + 2  # tan(10 degrees)


def test_a_part_of_the_image_is_enlarged(gray: "Tensor") -> None:
    ramp = torch.linspace(0, 255, 224).expand(16, 1, 224, 224)
    seen = changed(ramp, area=(0.25, 0.25))
    spans = seen[..., -1] - seen[..., 0]
    torch.testing.assert_close(spans, torch.full_like(spans, 127.5), atol=3, rtol=0)


def test_contrast_turns_about_the_mean_and_brightness_multiplies(gray: "Tensor") -> None:
    dim = gray * 0.5
    bright = changed(dim, brightness=0.2)
    ratio = (bright.mean((1, 2, 3)) / dim.mean((1, 2, 3))).numpy()
    assert ((ratio >= 0.8) & (ratio <= 1.2)).all()
    assert ratio.std() > 0.05
    harder = changed(dim, contrast=0.2)
    torch.testing.assert_close(harder.mean((1, 2, 3)), dim.mean((1, 2, 3)), atol=2, rtol=0)


def test_the_same_seed_changes_the_same(gray: "Tensor") -> None:
    how = recipes.tiny().augmentation.model_dump()
    torch.testing.assert_close(changed(gray, **how), changed(gray, **how), atol=0, rtol=0)


def test_mixed_images_have_both_labels_in_the_images_shares() -> None:
    gray = torch.tensor([0.0, 100.0]).view(2, 1, 1, 1)
    targets = torch.eye(2)
    for seed in range(8):
        torch.manual_seed(seed)
        images, labels = mixed(gray, targets, 1.0)
        torch.testing.assert_close(images.flatten() / 100, labels[:, 1])
        torch.testing.assert_close(labels.sum(1), torch.ones(2))
    assert mixed(gray, targets, 0.0)[0] is gray


def test_resizing_down_averages(gray: "Tensor") -> None:
    assert resized(gray, 56).shape == (16, 1, 56, 56)
    torch.testing.assert_close(resized(gray, 56).mean(), gray.mean(), atol=0.5, rtol=0)
