"""Which images come when."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum.network import LABELS
from tests.unit import recipes
from training import data
from training.data import Images
from training.recipe import RecipeError

torch = pytest.importorskip("torch")

from training.batches import Drawing, batch, chances, seed  # noqa: E402 - they need torch


def images(labels: list[int], sources: list[str]) -> Images:
    count = len(labels)
    return Images(
        pixels=np.zeros((count, 224, 224), np.uint8),
        labels=np.array(labels),
        sources=np.array(sources),
        patients=np.array([f"patient-{index}" for index in range(count)]),
        digests=np.array([f"{index:064x}" for index in range(count)]),
        views=np.full(count, ""),
        sexes=np.full(count, ""),
        ages_years=np.full(count, np.nan),
    )


@pytest.fixture(scope="module")
def uneven() -> Images:
    """100 radiographs of two sources, and 6 phantoms."""
    labels = [0] * 70 + [1] * 20 + [2] * 6 + [3] * 4
    sources = (["north"] * 60 + ["south"] * 10) + ["north"] * 20 + ["south"] * 6 + ["north"] * 4
    return images([*labels, 0, 1, 2, 3, 3, 3], [*sources, *[data.PHANTOM] * 6])


def shares(wanted: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
    return float(wanted[chosen].sum())


def test_classes_are_drawn_evenly_and_phantoms_as_often_as_wished(uneven: Images) -> None:
    wanted = chances(recipes.tiny(phantom_share=0.4), uneven)
    assert shares(wanted, uneven.sources == data.PHANTOM) == pytest.approx(0.4)
    for label in range(len(LABELS)):
        assert shares(wanted, uneven.labels == label) == pytest.approx(0.25)


def test_sources_are_drawn_evenly_within_a_class(uneven: Images) -> None:
    wanted = chances(recipes.tiny(phantom_share=0.0, balance="class and source"), uneven)
    for label, source, share in ((0, "north", 1 / 8), (0, "south", 1 / 8), (1, "north", 1 / 4)):
        chosen = (uneven.labels == label) & (uneven.sources == source)
        assert shares(wanted, chosen) == pytest.approx(share)
        assert len(np.unique(wanted[chosen])) == 1


def test_without_balance_images_come_as_they_are(uneven: Images) -> None:
    wanted = chances(recipes.tiny(phantom_share=0.0, balance="none"), uneven)
    np.testing.assert_allclose(wanted[:100], 1 / 100)


def test_an_epoch_of_all_images_without_balance_shows_each_once(uneven: Images) -> None:
    founding = recipes.tiny(
        phantom_share=0.0, balance="none", images_per_epoch="all", batch_size=5, batches_per_step=1
    )
    drawing = Drawing(founding, uneven, uneven.sources != data.PHANTOM)
    for epoch in range(3):
        assert sorted(drawing.epoch(epoch).ravel()) == list(range(100))


def test_only_images_of_the_part_are_drawn(uneven: Images) -> None:
    part = np.arange(len(uneven)) % 3 == 0
    drawn = Drawing(recipes.tiny(phantom_share=0.5), uneven, part).some(500, 0)
    assert part[drawn].all()
    assert set(drawn) == set(np.flatnonzero(part))


def test_an_epoch_hangs_on_seed_and_number_alone(uneven: Images) -> None:
    def epoch(number: int, **changes: int) -> list[int]:
        drawing = Drawing(recipes.tiny(phantom_share=0.5, **changes), uneven, uneven.labels >= 0)
        return [int(index) for index in drawing.epoch(number).ravel()]

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)
    assert epoch(1) != epoch(1, seed=2)


def test_an_epoch_that_is_no_step_is_refused(uneven: Images) -> None:
    with pytest.raises(RecipeError, match="2 batches of 64"):
        Drawing(recipes.tiny(batch_size=64), uneven, uneven.labels >= 0)


def test_a_batch_is_gray_images_and_shares_of_labels() -> None:
    phantoms = data.phantoms(range(8))
    seed(1, 2, 3)
    gray, targets = batch(recipes.tiny(), phantoms, np.arange(8), torch.device("cpu"))
    assert gray.shape == (8, 1, 224, 224)
    assert 0 <= gray.min() <= gray.max() <= 255
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert targets.min() == pytest.approx(0.1 / 4)
    seed(1, 2, 3)
    again = batch(recipes.tiny(), phantoms, np.arange(8), torch.device("cpu"))
    torch.testing.assert_close(again, (gray, targets), atol=0, rtol=0)
