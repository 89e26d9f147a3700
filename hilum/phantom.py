"""Phantom radiographs: chests that nobody has, for demonstrations, tests, training and constancy checks."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from hilum.anatomy import (
    FINEST_ROWS,
    LABELS,
    PER_CM_BONE,
    PER_CM_WATER,
    Field,
    Grid,
    airway,
    bones,
    joined,
    lung,
    mediastinum,
    patient,
    rod,
    soft_tissue,
    stomach,
    vessels,
)
from hilum.lesions import lost_air

__all__ = ["LABELS", "PATIENT_ID_PREFIX", "draw"]

PATIENT_ID_PREFIX = "HILUM-PHANTOM-"


def draw(seed: int, label: str, *, rows: int = 2500, columns: int = 2048) -> NDArray[np.float32]:
    """Return a frontal chest radiograph as a reader would see it, bone white.

    The seed alone decides about the patient, the position and the exposure, so that the same seed
    with another label differs by the lesion only.

    Returns
    -------
    (rows, columns) float32 in [0, 1], where 0 is black. The same picture at every size, softer
    where it is small.

    Raises
    ------
    ValueError
        If the label is none of `LABELS`, or the seed is negative.
    """
    if label not in LABELS:
        raise ValueError(f"no phantom can show {label!r}: choose one of {', '.join(LABELS)}")
    fine = min(rows, FINEST_ROWS)
    grid = Grid(fine, max(round(columns * fine / rows), 1), patient(_random(seed, "patient")))
    exposed = _exposed(grid, seed, label)
    if fine < rows:
        exposed = _resized(exposed, rows, columns)
    return _developed(exposed, _random(seed, "exposure"), _random(seed, "noise"))


def _random(seed: int, purpose: str) -> Generator:
    """A stream of its own for each purpose: what one part draws never shifts another."""
    return np.random.default_rng([seed, *purpose.encode()])


def _resized(field: Field, rows: int, columns: int) -> Field:
    return np.asarray(
        Image.fromarray(field).resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.float32
    )


def _attenuation(grid: Grid, seed: int, label: str) -> Field:
    """Sum of attenuation x thickness along each ray (no unit)."""
    rng = _random(seed, "tissue")
    lungs = (lung(grid, -1), lung(grid, 1))
    heart = mediastinum(grid)
    tree = vessels(grid, rng)
    air = np.maximum(lungs[0].depth + lungs[1].depth - heart, 0)
    lost = lost_air(grid, lungs, label, _random(seed, f"lesion {label}"))
    if lost is not None:
        air *= 1 - lost
        tree *= 1 - 1.5 * lost
    markings = 1 + 0.02 * grid.texture(rng, 1.2) + 0.025 * grid.texture(rng, 0.45)
    body = soft_tissue(grid)
    gas = 0.76 * air * markings + np.minimum(airway(grid), 1.8) + stomach(grid, rng)
    water = np.maximum(body - gas, 0) + 1.25 * tree * filled(air) + 0.25 * grid.texture(rng, 2.5) * (body > 0)
    return PER_CM_WATER * water + PER_CM_BONE * bones(grid) * (body > 0.1)


def filled(air: Field) -> Field:
    return np.clip(air / 3, 0, 1)


def _exposed(grid: Grid, seed: int, label: str) -> Field:
    """What reaches the detector, as the negative logarithm of the open beam's share; scatter included."""
    rng = _random(seed, "scatter")
    primary = np.exp(-(_attenuation(grid, seed, label) + _marker(grid, _random(seed, "marker"))))
    scatter = _coarse(primary, 24) * rng.uniform(0.15, 0.6)
    return -np.log(primary + scatter + 1e-4)


def _coarse(field: Field, count: int) -> Field:
    """The field as only `count` rows would show it."""
    rows, columns = field.shape
    small = Image.fromarray(field).resize(
        (max(round(count * columns / rows), 2), count), Image.Resampling.BOX
    )
    return np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.float32).clip(0)


def _developed(exposed: Field, rng: Generator, noise: Generator) -> Field:
    """The detector's noise, then contrast and brightness as a manufacturer's processing sets them."""
    quanta = rng.uniform(0.006, 0.03)
    rows = exposed.shape[0]
    grain = noise.standard_normal(exposed.shape, dtype=np.float32)
    exposed = exposed + grain * np.exp(exposed * 0.5) * (quanta * min(1, (rows / 1600) ** 0.5))
    exposed -= rng.uniform(0.1, 0.5) * (_coarse(exposed, 9) - 2)
    low, high = rng.uniform(0.5, 1.2), rng.uniform(3.2, 4.0)
    tone = (exposed - ((low + high) / 2)) * (rng.uniform(3.4, 5.2) / (high - low))
    image = 1 / (1 + np.exp(-tone))
    return np.clip(_collimated(image, rng), 0, 1).astype(np.float32)


def _collimated(image: Field, rng: Generator) -> Field:
    """The image behind the collimator's leaves, blackened as manufacturers do."""
    rows, columns = image.shape
    for axis in range(4):
        width, closed = rng.uniform(0.01, 0.06), rng.random() < 0.3
        if not closed:
            continue
        size = rows if axis < 2 else columns
        ramp = np.clip((np.arange(size, dtype=np.float32) / size - width) * 300 + 1, 0.02, 1)
        ramp = ramp if axis % 2 else ramp[::-1]
        image = image * (ramp[:, None] if axis < 2 else ramp[None, :])
    return image


def _marker(grid: Grid, rng: Generator) -> Field:
    """Attenuation of the lead letter L or R, laid on the detector by the radiographer."""
    size, letter = rng.uniform(0.7, 1.3), "LR"[int(rng.integers(2))]
    x, y = (14.0 if letter == "L" else -14.5) + rng.normal(0, 0.8), -17.5 + rng.normal(0, 1.5)
    strokes: list[list[tuple[float, float]]] = {
        "L": [[(0, 0), (0, 2)], [(0, 2), (1.2, 2)]],
        "R": [[(0, 0), (0, 2)], [(0, 0), (1.9, 0.0), (1.9, 1.0), (0, 1)], [(0.4, 1), (1.3, 2)]],
    }[letter]
    rods = [
        rod(grid, [(x + a * size, y + b * size) for a, b in corners], 0.14, 0.1, 0.3) for corners in strokes
    ]
    lead = grid.blur([(grid.splat(*joined(rods)), 0.03)])
    return np.minimum(lead * 6, 3)
