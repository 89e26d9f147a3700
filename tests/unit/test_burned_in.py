"""Text burned into pixels: found wherever it stands, and not seen where there is none."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hilum.burned_in import text_boxes
from hilum.phantom import draw
from hilum.radiograph import picture

ROWS, COLUMNS = 900, 740


@cache
def chest(seed: int = 3) -> NDArray[np.uint16]:
    """(ROWS, COLUMNS), 12 bits; with a lead letter, as phantoms have."""
    return (draw(seed, "Normal", rows=ROWS, columns=COLUMNS) * 4095).astype(np.uint16)


def written(
    stored: NDArray[np.uint16], words: str, at: tuple[int, int], size: int, value: int
) -> NDArray[np.uint16]:
    """The image with words, their upper left corner at (row, column), `size` pixels high."""
    mask = Image.new("1", stored.shape[::-1])
    ImageDraw.Draw(mask).text(at[::-1], words, fill=1, font=ImageFont.load_default(size))
    return np.where(np.asarray(mask), np.uint16(value), stored)


@pytest.mark.parametrize("seed", range(3))
def test_a_chest_without_text_is_not_flagged(seed: int) -> None:
    assert text_boxes(chest(seed)) == []


@pytest.mark.parametrize(
    ("at", "size", "value"),
    [
        ((10, 12), 14, 4095),
        ((450, 200), 24, 0),
        ((770, 60), 48, 0),
        ((600, 30), 110, 4095),
        ((300, 300), 18, 4095),
    ],
)
def test_text_is_found_where_it_stands(at: tuple[int, int], size: int, value: int) -> None:
    found = text_boxes(written(chest(), "Muster, 1961", at, size, value))
    assert any(
        at[0] - size <= box.top and box.bottom <= at[0] + 2 * size and at[1] - size <= box.left
        for box in found
    )


def test_text_turned_by_a_right_angle_is_found() -> None:
    turned = np.rot90(written(chest(), "MUSTER^EVA 12.03.1961", (20, 100), 24, 4095))
    assert text_boxes(np.ascontiguousarray(turned))


def test_text_outside_the_field_is_found_in_a_negative_too() -> None:
    assert text_boxes(4095 - written(chest(), "ID 4711-0815", (860, 500), 20, 4095))


def test_text_beside_a_pixel_of_absurd_value_is_found() -> None:
    stored = written(chest(), "ID 4711-0815", (30, 300), 20, 4095)
    stored[0, 0] = 65535
    assert text_boxes(stored)


@pytest.mark.parametrize(("border", "value"), [(3000, 4095), (4095, 3000), (1500, 4095), (600, 0)])
def test_text_on_a_bright_border_is_found(border: int, value: int) -> None:
    stored = np.minimum(chest(), 2500)
    stored[:120] = stored[-60:] = border
    stored[:, :60] = stored[:, -60:] = border
    assert text_boxes(written(stored, "MUELLER HANS 12.03.1957", (40, 120), 28, value))


def test_a_marker_of_two_letters_is_passed_over() -> None:
    assert text_boxes(written(chest(), "AP", (20, 600), 30, 4095)) == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (400, 5)])
def test_an_image_too_small_for_text_has_none(shape: tuple[int, int]) -> None:
    assert text_boxes(np.zeros(shape, np.uint16)) == []


def test_noise_is_looked_through_in_bounded_time() -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (1200, 1000)).astype(np.uint16)
    assert len(text_boxes(noise)) < 1000


def test_text_on_real_radiographs_is_found(shared_data: Path) -> None:
    """Names and dates of 10 to 24 pixels anywhere on pictures of 384, but on none that shows text already."""
    rng = np.random.default_rng(5)
    files = sorted((shared_data / "cxr").rglob("*.jpg"))[::40]
    clean = [stored for file in files if not text_boxes(stored := picture(file))]
    found = sum(bool(text_boxes(_with_a_name(stored, rng))) for stored in clean)
    assert len(clean) > 0.6 * len(files)
    assert found >= 0.9 * len(clean)


def _with_a_name(stored: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint16]:
    rows, columns = stored.shape
    words = str(rng.choice(["MUELLER, ANNA", "12.03.1961", "ID 4711-0815", "Smith^John"]))
    at, size = (
        (int(rng.integers(3, rows - 30)), int(rng.integers(3, columns - 170))),
        int(rng.integers(10, 25)),
    )
    around = stored[at[0] : at[0] + size, at[1] : at[1] + 150].mean()
    return written(stored.astype(np.uint16), words, at, size, 0 if around > 128 else 255)
