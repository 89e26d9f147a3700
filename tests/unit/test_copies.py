import numpy as np
import pytest

from tests.unit.test_split import images_of
from training import copies
from training.data import Images


def noise(count: int, copied: int) -> Images:
    """So many images, the first of which is there `copied` times, in files of their own."""
    images = images_of([str(index) for index in range(count)], [0] * count)
    images.pixels[:] = np.random.default_rng(1).integers(0, 255, images.pixels.shape, dtype=np.uint8)
    images.pixels[:copied] = images.pixels[0]
    return images


def test_every_pair_of_copies_is_found_once_across_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_AT_ONCE", 3)
    pairs, count = copies.near(noise(10, copied=5))
    found = {(pair.first, pair.second) for pair in pairs}
    assert found == {(first, second) for second in range(5) for first in range(second)}
    assert count == len(pairs) == 10


def test_of_very_many_pairs_the_likest_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "KEPT", 4)
    images = noise(10, copied=5)
    images.pixels[4, :120] = np.clip(images.pixels[4, :120] + 1.0, 0, 255)
    pairs, count = copies.near(images)
    assert count == 10
    assert len(pairs) == 4
    assert 4 not in {index for pair in pairs for index in (pair.first, pair.second)}


def test_the_same_file_twice_is_no_near_copy() -> None:
    images = images_of(["a", "b", "c"], [0] * 3, ["1", "1", "2"])
    images.pixels[:] = np.random.default_rng(1).integers(0, 255, (1, 224, 224), dtype=np.uint8)
    images.pixels[2] = 255 - images.pixels[2]
    assert copies.near(images) == ([], 0)
