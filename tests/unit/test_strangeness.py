from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from hilum import strangeness
from hilum.errors import NetworkError
from hilum.strangeness import Strangeness, why_refused
from tests.unit.artefacts import known

WIDTH = 5


@pytest.fixture
def plain() -> Strangeness:
    """Strangers lie along the first feature; along the first two, values of 2 are usual, else of 1."""
    return replace(known(WIDTH), variances=np.array([4, 4, 1], np.float32))


def at(*values: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([[*values, *[0] * (WIDTH - len(values))]], np.float32)


def test_distance_is_counted_in_what_is_usual_along_each_axis(plain: Strangeness) -> None:
    for features, expected in ((at(2), 1), (at(0, 4), 2), (at(0, 0, 3), 3), (at(2, 2, 1, 1), 2)):
        assert plain.signs(features)[0, 1] == pytest.approx(expected)


def test_likeness_to_strangers_has_a_sign_and_distance_has_none(plain: Strangeness) -> None:
    np.testing.assert_allclose(plain.signs(at(3))[0], [3, 1.5])
    np.testing.assert_allclose(plain.signs(at(-3))[0], [-3, 1.5])


def test_the_stronger_sign_counts_by_its_own_measure(plain: Strangeness) -> None:
    measured = replace(plain, middles=np.array([1, 2], np.float32), reaches=np.array([4, 1], np.float32))
    assert measured.stronger(at(9))[0] == pytest.approx(2.5)  # signs are 9 and 4.5
    assert measured.stronger(at(5))[0] == pytest.approx(1)  # 5 and 2.5


def test_up_to_the_limit_the_score_is_the_share_of_images_that_are_less_strange(plain: Strangeness) -> None:
    skewed = replace(plain, quantiles=np.linspace(0, 1, 101, dtype=np.float32) ** 2)
    scores = [float(skewed.of(at(0, 0, value))[0]) for value in (0, 0.25, 0.64, 1)]
    assert scores == pytest.approx([0, 0.5, 0.8, 1], abs=0.01)


def test_beyond_the_limit_the_score_goes_on_growing(plain: Strangeness) -> None:
    scores = [float(plain.of(at(0, 0, value))[0]) for value in (1.5, 2, 100)]
    assert scores == pytest.approx([2, 3, 199])


def test_only_what_is_beyond_the_limit_is_refused() -> None:
    assert why_refused(1.0) is None
    assert why_refused(1.0001) == "it does not look like a frontal chest radiograph to the network"
    assert why_refused(float("nan")) is not None


def test_what_is_kept_in_a_file_comes_back(plain: Strangeness, tmp_path: Path) -> None:
    turned = replace(plain, axes=np.asfortranarray(plain.axes[:, ::-1]))
    (tmp_path / "file").write_bytes(turned.content())
    for name, value in vars(strangeness.load(tmp_path / "file")).items():
        np.testing.assert_array_equal(value, getattr(turned, name))


@pytest.mark.parametrize(
    "content",
    [b"", b"something else", save({"weights": np.zeros(3)})],
    ids=["empty", "no file of tensors", "other tensors"],
)
def test_a_file_that_is_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(NetworkError, match="does not tell how strange"):
        strangeness.load(tmp_path / "file")
