"""The signs that drift is told by: each tells what it is named after."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hilum.phantom import draw
from hilum.radiograph import network_input
from worker.appearance import SIGNS, appearance

Gray = NDArray[np.uint8]


@pytest.fixture(scope="module")
def chest() -> Gray:
    return np.round(draw(3, "Normal", rows=600, columns=490) * 255).astype(np.uint8)


def test_every_sign_has_a_number_and_words(chest: Gray) -> None:
    assert appearance(network_input(chest)).keys() == SIGNS.keys()


def test_the_numbers_are_those_of_their_definitions(chest: Gray) -> None:
    image = network_input(chest)
    found, gray = appearance(image), image / 255
    assert found["brightness"] == pytest.approx(gray.mean(), abs=1e-4)
    assert found["contrast"] == pytest.approx(gray.std(), abs=1e-4)
    assert found["black"] == pytest.approx((image < 32).mean(), abs=1e-4)
    assert found["white"] == pytest.approx((image >= 224).mean(), abs=1e-4)
    steps = [np.abs(np.diff(gray, axis=axis)).mean() for axis in (0, 1)]
    assert found["sharpness"] == pytest.approx(np.mean(steps), abs=1e-4)
    rest = np.ones_like(gray, dtype=bool)
    rest[56:168, 56:168] = False
    assert found["middle"] == pytest.approx(gray[~rest].mean() - gray[rest].mean(), abs=1e-4)


def test_a_flat_image_has_numbers_too() -> None:
    for value in (0, 255):
        assert np.isfinite(list(appearance(np.full((224, 224), value, np.uint8)).values())).all()


def test_what_goes_wrong_with_a_detector_moves_a_sign(chest: Gray) -> None:
    before = appearance(network_input(chest))
    darker = np.round(255 * (chest / 255) ** 1.5).astype(np.uint8)
    softer = np.asarray(Image.fromarray(chest).resize((60, 73)).resize(chest.shape[::-1]))
    cases = {
        "brightness": (darker, -0.05),
        "middle": (255 - chest, -2 * before["middle"]),
        "sharpness": (softer, -0.2 * before["sharpness"]),
        "black": (np.pad(chest, 100), 0.1),
    }
    for name, (image, change) in cases.items():
        moved = appearance(network_input(image))[name] - before[name]
        assert abs(moved) > 0.7 * abs(change) and moved * change > 0, (name, moved)
