"""A chest computed from parameters: how thick air, soft tissue and bone stand in the way of each ray.

Lengths are centimetres in the patient's frame, seen as a reader sees the image: x grows to the
viewer's right (the patient's left), y downwards, z towards the patient's front; the origin lies in
the middle of the chest. The image is 43 cm high, whatever its number of pixels.

Beer-Lambert: what reaches the detector is exp(-sum of attenuation x thickness), plus scatter.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, floor, pi, radians, sin
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.floating[Any]]
"""One value per pixel of the grid, (rows, columns)."""
Points = NDArray[np.float64]
"""(n, 3): x, y, z."""
Bone = tuple[Points, NDArray[np.float64]]
"""Points, and the volume in cm3 that each stands for."""
Amount = float | NDArray[np.float64]
"""One for all points of a path, or one for each."""

LABELS: tuple[str, ...] = ("Normal", "Pneumonia", "COVID-19", "Other")
HEIGHT_CM = 43.0
FINEST_ROWS = 1000
"""Anatomy is computed on at most this many rows and then enlarged: a detector is softer than its pixels."""
PER_CM_WATER, PER_CM_BONE = 0.19, 0.42
SIDES = (-1, 1)
"""The patient's right lung, on the viewer's left, then the left one."""


@dataclass(frozen=True)
class Patient:
    """One chest and how it stood before the detector. Nothing here depends on the label.

    Lengths in cm, angles in radians (`heart_tilt` in degrees), masses and sizes as shares of the usual.
    """

    sex: str
    age: int
    apex: float
    domes: tuple[float, float]
    half_width: float
    depth: float
    fat: float
    heart: float
    heart_tilt: float
    heart_shift: float
    neck: float
    shoulder: float
    scapula: float
    breast: float
    breast_y: float
    rib_gap: float
    rib_drop: float
    bone: float
    """Mineral of the bones, 1 in a young adult."""
    spine_mass: float
    arm_spread: float
    scoliosis: float
    turn: float
    angle: float
    zoom: float
    shift: tuple[float, float]


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def patient(rng: Generator) -> Patient:
    """An adult drawn at random, well spread in age, build, position and mineral."""
    female = bool(rng.random() < 0.5)
    sex = "O" if rng.random() < 0.04 else "F" if female else "M"
    build = rng.normal()
    dome = rng.normal(8.0, 1.6)
    return Patient(
        sex=sex,
        age=int(rng.integers(18, 90)),
        apex=rng.normal(-15.5, 0.7),
        domes=(dome - rng.uniform(0.2, 1.4), dome + rng.uniform(0.0, 0.8)),
        half_width=_clip(rng.normal(12.6 if female else 13.6, 0.6), 11.2, 15.2),
        depth=_clip(21 + 2.0 * build + rng.normal(0, 0.8), 16.5, 27),
        fat=_clip(2.6 + 0.9 * build, 1.3, 5.0),
        heart=rng.normal(1.0, 0.07),
        heart_tilt=rng.uniform(22, 48),
        heart_shift=rng.normal(0, 0.4),
        neck=rng.uniform(5.2, 7.0),
        shoulder=rng.uniform(-1.2, 1.6),
        scapula=rng.uniform(-1.0, 3.5),
        breast=rng.uniform(1.0, 3.2) if female else rng.uniform(0, 0.8),
        breast_y=rng.uniform(2.5, 7.5),
        rib_gap=rng.normal(2.25, 0.1),
        rib_drop=rng.uniform(10.0, 14.5),
        bone=rng.uniform(0.75, 1.25),
        spine_mass=rng.uniform(0.5, 1.1),
        arm_spread=rng.uniform(0, 6),
        scoliosis=rng.normal(0, 0.35),
        turn=radians(rng.normal(0, 3.0)),
        angle=radians(rng.normal(0, 1.8)),
        zoom=_clip(rng.normal(1.0, 0.06), 0.86, 1.16),
        shift=(rng.normal(0, 0.7), rng.normal(0, 1.0)),
    )


@dataclass(frozen=True)
class Grid:
    """The detector's pixels in the patient's frame."""

    rows: int
    columns: int
    who: Patient

    @property
    def per_cm(self) -> float:
        return self.rows / HEIGHT_CM * self.who.zoom

    @cached_property
    def xy(self) -> tuple[Field, Field]:
        """The patient's x and y under each pixel."""
        columns = np.arange(self.columns, dtype=np.float32) + 0.5 - self.columns / 2
        rows = np.arange(self.rows, dtype=np.float32) + 0.5 - self.rows / 2
        across, down = columns[None, :] / self.per_cm, rows[:, None] / self.per_cm
        c, s = cos(self.who.angle), sin(self.who.angle)
        dx, dy = self.who.shift
        return across * c + down * s - dx, down * c - across * s - dy

    @cached_property
    def edge(self) -> Field:
        """Half width of the chest's inside at each pixel's height."""
        return lung_edge(self.who, self.xy[1])

    def pixel(self, points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Column and row at which points fall; what lies in front moves with the patient's turn."""
        c, s = cos(self.who.angle), sin(self.who.angle)
        x = points[:, 0] + points[:, 2] * sin(self.who.turn) + self.who.shift[0]
        y = points[:, 1] + self.who.shift[1]
        across, down = x * c - y * s, x * s + y * c
        return across * self.per_cm + self.columns / 2 - 0.5, down * self.per_cm + self.rows / 2 - 0.5

    def splat(self, points: Points, volume: NDArray[np.float64]) -> Field:
        """Thickness in cm, padded to `spectrum_shape`, of small volumes (cm3) projected onto the pixels."""
        column, row = self.pixel(points)
        inside = (column >= 0) & (column < self.columns - 1) & (row >= 0) & (row < self.rows - 1)
        column, row, volume = column[inside], row[inside], volume[inside] * self.per_cm**2
        left, top = column.astype(np.int64), row.astype(np.int64)
        right, low = volume * (column - left), row - top
        height, width = self.spectrum_shape
        at = top * width + left
        index = np.concatenate((at, at + 1, at + width, at + width + 1))
        lower_right, lower = right * low, volume * low
        share = np.concatenate(
            (volume - right - lower + lower_right, right - lower_right, lower - lower_right, lower_right)
        )
        return np.bincount(index, share, height * width).reshape(height, width).astype(np.float32)

    @property
    def spectrum_shape(self) -> tuple[int, int]:
        """The grid with room at its edges, so that blurring does not wrap around; sizes an FFT likes."""
        return 32 * ceil((self.rows + 8) / 32), 32 * ceil((self.columns + 8) / 32)

    def blur(self, layers: list[tuple[Field, float]]) -> Field:
        """Sum of splatted layers, each blurred by its own sigma in cm (half a pixel at least)."""
        height, width = self.spectrum_shape
        v, u = np.fft.fftfreq(height)[:, None] ** 2, np.fft.rfftfreq(width)[None, :] ** 2
        total = np.zeros((height, width // 2 + 1), np.complex64)
        for layer, sigma in layers:
            pixels = max(sigma * self.per_cm, 0.55)
            falloff = np.exp(-2 * pi**2 * pixels**2 * (v + u)).astype(np.float32)
            total += np.fft.rfft2(layer) * falloff
        return np.fft.irfft2(total, (height, width)).astype(np.float32)[: self.rows, : self.columns]

    def texture(self, rng: Generator, grain_cm: float) -> Field:
        """Smooth noise, mean 0 and deviation near 1, the same at every resolution."""
        count = ceil(60 / grain_cm) * 2
        noise = rng.standard_normal((count + 4, count + 4), dtype=np.float32) * 4
        for _ in range(2):  # its own grid would show, were it not smoothed first
            noise = 0.25 * noise[:-2] + 0.5 * noise[1:-1] + 0.25 * noise[2:]
            noise = 0.25 * noise[:, :-2] + 0.5 * noise[:, 1:-1] + 0.25 * noise[:, 2:]
        half_x, half_y = (count * side / self.per_cm / 120 for side in (self.columns, self.rows))
        box = (count / 2 - half_x, count / 2 - half_y, count / 2 + half_x, count / 2 + half_y)
        size = (self.columns, self.rows)
        return np.asarray(
            Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC, box=box), dtype=np.float32
        )


def step(values: Field) -> Field:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(values, 0, 1)
    return t * t * (3 - 2 * t)


def rounded(distance: Field) -> Field:
    """A quarter circle's rise from 0 at 0 to 1 at 1: how a round body begins at its edge."""
    t = np.clip(distance, 0, 1)
    height: Field = np.sqrt(t * (2 - t))
    return height


def ellipsoid(grid: Grid, x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> Field:
    """Chord through an ellipsoid, 1 in its middle, 0 outside; tilt in degrees, clockwise."""
    chord = np.zeros((grid.rows, grid.columns), np.float32)
    column, row = (float(at[0]) for at in grid.pixel(np.array([[x, y, 0.0]])))
    reach = max(rx, ry) * grid.per_cm + 1
    near = np.s_[_part(row, reach), _part(column, reach)]
    c, s = cos(radians(tilt)), sin(radians(tilt))
    dx, dy = grid.xy[0][near] - x, grid.xy[1][near] - y
    q = ((dx * c + dy * s) / rx) ** 2 + ((dy * c - dx * s) / ry) ** 2
    chord[near] = np.sqrt(np.maximum(1 - q, 0))
    return chord


def _part(centre: float, reach: float) -> slice:
    return slice(max(floor(centre - reach), 0), max(ceil(centre + reach) + 1, 0))


def lung_edge(who: Patient, y: NDArray[np.floating]) -> NDArray[np.floating]:
    """Half width of the chest's inside at height y."""
    rise = np.clip((2 - y) / (2 - who.apex), 0, 1)
    width: NDArray[np.floating[Any]] = (
        4.9 + (who.half_width - 4.9) * np.sqrt(1 - rise * rise) + 0.05 * np.clip(y, 0, 12)
    )
    return width


@dataclass(frozen=True)
class Lung:
    """One lung on the grid: where it is and how much air it holds."""

    side: int
    depth: Field
    """Thickness of the lung in cm."""
    lateral: Field
    """0 at the midline, 1 at the chest wall."""


def lung(grid: Grid, side: int) -> Lung:
    who, (x, y) = grid.who, grid.xy
    ax, edge = x * side, grid.edge
    rise = np.clip((2 - y) / (2 - who.apex), 0, 1)
    medial = 4.9 - 3.4 * np.sqrt(1 - rise**4)
    across = np.clip((ax - medial) / np.maximum(edge - medial, 0.05), 0, 1)
    wall = np.sqrt(1 - across**2) * rounded((ax - medial) / 3.5) * (ax < edge)
    top = rounded((y - who.apex) / 9)
    centre = 6.6 if side < 0 else 7.6
    crown = who.domes[(side + 1) // 2]
    out = (ax - centre) / 6
    below = y - (crown + np.where(out > 0, 3.2 * out**2, 0.7 * out**2))
    remains = 1 - np.sqrt(step(below / 5)) * 0.25 - 0.75 * step(below / 0.9) * (below > 0)
    depth = (0.78 * who.depth) * wall * top * np.maximum(remains, 0) * (y > who.apex)
    return Lung(side, depth, ax / edge)


def soft_tissue(grid: Grid) -> Field:
    """Thickness of the whole body in cm, as if it had no air and no bone."""
    who, (x, y) = grid.who, grid.xy
    ax = np.abs(x)
    outline_x = np.array([who.neck - 0.6, who.neck, who.neck + 1.5, 10, 13.5, 17, 20, 22.5, 24])
    outline_y = np.array([-40, -21, -18.8, -17.4, -16.6, -15.6, -13.6, -9, 0]) + who.shoulder
    top = np.interp(ax, outline_x, outline_y).astype(np.float32)
    torso = np.where(y < 0, lung_edge(who, np.zeros(1)).astype(np.float32), grid.edge) + (0.6 + who.fat)
    axilla = step((who.shoulder - 1.5 - 0.5 * (ax - 14) - y) / 5)
    width = np.minimum(torso + (26 - torso) * axilla, np.interp(y, outline_y, outline_x).astype(np.float32))
    depth = np.interp(y, [-24, -17, -11, -4, 6, 22], [0.55, 0.56, 0.8, 0.97, 1.0, 1.06]).astype(np.float32)
    across = np.clip(ax / width, 0, 1)
    trunk = who.depth * depth * np.sqrt(1 - across * across * across) * rounded((y - top) / 6)
    body: Field = np.maximum(trunk, arms(grid)) + breasts(grid)
    return body


def arms(grid: Grid) -> Field:
    who, (x, y) = grid.who, grid.xy
    along = np.clip((y + 10) / 25, 0, 1)
    axis = 18.5 + along * (2 + who.arm_spread)
    radius = 4.4 + 0.5 * who.fat
    off = (np.abs(x) - axis) / radius
    return 2 * radius * np.sqrt(np.maximum(1 - off**2, 0)) * step((y + 12) / 6)


def breasts(grid: Grid) -> Field:
    who = grid.who
    total = np.zeros((grid.rows, grid.columns), np.float32)
    for side in SIDES:
        full = ellipsoid(grid, side * 8.8, who.breast_y, 6.6, 6.4, -12 * side)
        total += who.breast * full * step((grid.xy[1] - who.breast_y + 7) / 9)
    return total


def mediastinum(grid: Grid) -> Field:
    """Thickness in cm of heart and great vessels."""
    who = grid.who
    base, size, shift = min(who.domes), who.heart, who.heart_shift
    parts = [
        (ellipsoid(grid, 2.6 + shift, base - 2.2, 7.3 * size, 4.9 * size, who.heart_tilt), 13.0),
        (ellipsoid(grid, -1.2 + shift, base - 4.0, 3.0 * size, 5.4 * size, 8), 11.0),
        (ellipsoid(grid, 2.1 + shift, base - 8.4, 2.6 * size, 4.2 * size, -10), 9.0),
        (ellipsoid(grid, 0.8 + shift, base + 1.5, 7.0, 4.6) ** 2, 15.0),
        (ellipsoid(grid, -3.4, who.apex + 12.2, 1.3, 2.6, 12), 2.6),
        (ellipsoid(grid, 3.9, who.apex + 11.2, 1.4, 2.2, -15), 2.6),
        (ellipsoid(grid, 1.9, who.apex + 7.0, 2.0, 2.3), 9.0),
        (ellipsoid(grid, -0.6, who.apex + 8.0, 2.6, 8.5), 9.0),
        (ellipsoid(grid, 1.1, who.apex + 18, 1.7, 16), 4.5),
        (ellipsoid(grid, 0.0, who.apex - 1.0, 2.6, 9.0), 9.0),
    ]
    total = parts[0][0] * parts[0][1]
    for chord, thickness in parts[1:]:
        total = np.maximum(total, chord * thickness)
    return total


def tube(path: Points, up: Points, out: Points, count: int, cortex: Amount, marrow: Amount) -> Bone:
    """Bone along one path, (n, 3), or several, (m, n, 3): a shell of cortex, marrow within.

    `up` and `out` are the half axes of its oval cross-section at each point of the path, `cortex` and
    `marrow` areas of it in cm2, `count` the points around it.
    """
    turn = np.linspace(0, 2 * pi, count, endpoint=False)[:, None]
    points = path[..., None, :] + up[..., None, :] * np.cos(turn) + out[..., None, :] * np.sin(turn)
    length = np.linalg.norm(np.gradient(path, axis=-2), axis=-1)
    volume = (length * cortex)[..., None] + (length * marrow)[..., None] * np.sin(turn[:, 0]) ** 2
    return points.reshape(-1, 3), volume.ravel() / count


def mirrored(bone: Bone) -> Bone:
    points, volume = bone
    return points * (-1, 1, 1), volume


def ribs(grid: Grid) -> Bone:
    """Eleven ribs of the patient's left: an angle runs around the chest from the spine to the front."""
    who = grid.who
    number = np.arange(1, 12)[:, None]
    angle = np.linspace(0.16, 2.5, ceil(22 * grid.per_cm))[None, :]
    start = who.apex - 0.8 + (number - 1) * who.rib_gap
    fall = who.rib_drop * (0.62 + 0.05 * number) * ((1 - np.cos(angle * 0.95)) / 2) ** 1.25
    y = start + fall - 1.1 * np.sin(angle) * (number > 1)
    reach = np.maximum(lung_edge(who, y), np.minimum(5.2 + 1.4 * number, 8)) + 0.35
    x, z = reach * np.sin(angle), -0.46 * who.depth * np.cos(angle) + np.zeros_like(y)
    high = (0.52 + 0.12 * np.sin(angle) + 0.12 * np.sin(np.maximum(angle - 1.6, 0))) * np.ones_like(y)
    zero = np.zeros_like(y)
    up = np.stack((zero, high, zero), axis=-1)
    out = 0.3 * np.stack((np.sin(angle) + zero, zero, zero - np.cos(angle)), axis=-1)
    fade = who.bone * (1 - 0.75 * np.clip((angle - 1.7) / 0.8, 0, 1))  # towards the cartilage
    return tube(np.stack((x, y, z), axis=-1), up, out, ceil(1.5 * grid.per_cm), 0.36 * fade, 0.44 * fade)


def rod(grid: Grid, corners: list[tuple[float, float]], radius: float, cortex: float, marrow: float) -> Bone:
    """A long bone through given corners, smoothed to a curve, in the plane of the detector."""
    corner = np.array(corners, dtype=np.float64)
    length = np.linalg.norm(np.diff(corner, axis=0), axis=1).sum()
    t = np.linspace(0, 1, ceil(length * grid.per_cm) + 2)
    weights = np.array([_bernstein(len(corner) - 1, k, t) for k in range(len(corner))]).T
    xy = weights @ corner
    slope = np.gradient(xy, axis=0)
    slope /= np.linalg.norm(slope, axis=1, keepdims=True)
    zero = np.zeros_like(t)
    path = np.stack((xy[:, 0], xy[:, 1], zero), axis=1)
    girth = np.sqrt(1 - 0.9 * np.abs(2 * t - 1) ** 16)  # its ends are round
    up = radius * girth[:, None] * np.stack((-slope[:, 1], slope[:, 0], zero), axis=1)
    count = ceil(2.2 * radius * grid.per_cm) + 5
    return tube(path, up, np.zeros_like(up), count, cortex * girth, marrow * girth)


def _bernstein(n: int, k: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    choose = 1
    for i in range(k):
        choose = choose * (n - i) // (i + 1)
    return choose * t**k * (1 - t) ** (n - k)


def shoulder_joint(who: Patient, side: int) -> tuple[float, float]:
    return side * (17.4 + who.scapula * 0.3), who.apex + 1.4 + who.shoulder * 0.5


def shoulder_girdle(grid: Grid) -> list[Bone]:
    """Clavicle, scapula and the shaft of the humerus, of the patient's left."""
    who = grid.who
    joint, top = shoulder_joint(who, 1)
    out = who.scapula * 0.6
    tip = (12.3 + out, top + 14)
    clavicle = [(1.6, top + 1.6), (6, top + 1.4), (9, top - 2.4), (13, top - 3.8), (16.5, top - 3.0)]
    lateral = [(joint - 2, top + 1.2), (14.2 + out, top + 6), tip]
    medial = [(11.2 + out, top - 1.6), (9.8 + out, top + 6), tip]
    blade = [(13.4 + out, top), (12.8 + out, top + 7), tip]
    ridge = [(10.8 + out, top + 2.0), (13 + out, top + 0.2), (joint + 0.6, top - 3)]
    shaft = [(joint + 0.5, top + 1), (joint + 1.0, top + 8), (joint + 2.0 + 0.6 * who.arm_spread, 23)]
    shapes = [
        (clavicle, 0.6, 0.8, 0.65),
        (lateral, 0.34, 0.34, 0.3),
        (medial, 0.18, 0.14, 0.08),
        (blade, 1.9, 0.2, 0.5),
        (ridge, 0.45, 0.3, 0.3),
        (shaft, 1.1, 1.0, 0.9),
    ]
    return [
        rod(grid, corners, radius, cortex * who.bone, marrow * who.bone)
        for corners, radius, cortex, marrow in shapes
    ]


def spine(grid: Grid) -> Bone:
    """All vertebrae in view: one, moved and scaled."""
    who, levels = grid.who, np.arange(-5, 19)
    y = who.apex + 1.7 + levels * 2.25
    x = who.scoliosis * np.sin((y + 6) / 7)
    size = 0.94 + 0.016 * (levels + 5)
    points, volume = vertebra(grid)
    centres = np.stack((x, y, np.zeros_like(y)), axis=1)
    placed = points[None] * size[:, None, None] + centres[:, None, :]
    return placed.reshape(-1, 3), (volume[None] * size[:, None] * who.spine_mass).ravel()


def vertebra(grid: Grid) -> Bone:
    """Body with end plates, pedicles, transverse processes and the spinous process, at the origin."""
    parts = [
        rod(grid, [(0, -0.93), (0, 0.93)], 1.45, 0.5, 2.2),
        rod(grid, [(0, -0.1), (0, 1.0)], 0.28, 0.2, 0.15),
    ]
    for s in SIDES:
        parts += [
            rod(grid, [(-1.45, s * 0.93), (0, s * 0.78), (1.45, s * 0.93)], 0.08, 0.035, 0),
            rod(grid, [(s * 0.95, -0.7), (s * 0.95, 0.0)], 0.28, 0.17, 0.08),
            rod(grid, [(s * 1.1, -0.3), (s * 2.8, -0.7)], 0.34, 0.12, 0.12),
        ]
    return joined(parts)


def joined(parts: list[Bone]) -> Bone:
    return np.concatenate([points for points, _ in parts]), np.concatenate([volume for _, volume in parts])


def bones(grid: Grid) -> Field:
    """Thickness in cm of bone."""
    left = joined([ribs(grid), *shoulder_girdle(grid)])
    parts = [spine(grid), left, mirrored(left)]
    heads = [ellipsoid(grid, *shoulder_joint(grid.who, side), 2.2, 2.4) for side in SIDES]
    return grid.blur([(grid.splat(*joined(parts)), 0.06)]) + 1.1 * (heads[0] + heads[1])


VESSEL_RADII = (0.34, 0.22, 0.14, 0.085)


def vessels(grid: Grid, rng: Generator) -> Field:
    """Thickness in cm of the branching vessels of both lungs."""
    found: list[tuple[Points, NDArray[np.float64], float]] = []
    for side in SIDES:
        found += _branches(grid, rng, side)
    layers = []
    for low, radius in zip((*VESSEL_RADII[1:], 0.0), VESSEL_RADII, strict=True):
        chosen = [
            f
            for f in found
            if low < f[2] / 1.2 <= radius or (radius == VESSEL_RADII[0] and f[2] / 1.2 > radius)
        ]
        if chosen:
            points = np.concatenate([f[0] for f in chosen])
            layers.append((grid.splat(points, np.concatenate([f[1] for f in chosen])), radius * 0.55))
    return grid.blur(layers)


def _branches(grid: Grid, rng: Generator, side: int) -> list[tuple[Points, NDArray[np.float64], float]]:
    """One lung's tree, generation by generation: points, volumes and the radius of each generation."""
    who = grid.who
    count = 12
    angle = np.linspace(-1.5, 1.45, count) + rng.normal(0, 0.12, count)
    x = np.full(count, 3.2) + rng.normal(0, 0.3, count)
    y = who.apex + (11.6 if side < 0 else 10.8) + np.linspace(-1.3, 2.6, count)
    radius, length = 0.4, 2.9
    found = []
    for _ in range(6):
        reach = length * rng.uniform(0.7, 1.35, len(x))
        bend = rng.normal(0, 0.25, len(x))
        t = np.linspace(0, 1, ceil(length * 1.35 * grid.per_cm * 0.9) + 2)[None, :]
        heading = angle[:, None] + bend[:, None] * t
        px = x[:, None] + reach[:, None] * t * np.cos(heading)
        py = y[:, None] + reach[:, None] * t * np.sin(heading)
        volume = pi * radius**2 * reach[:, None] / t.size * np.ones_like(px)
        points = np.stack((side * px.ravel(), py.ravel(), np.zeros(px.size)), axis=1)
        found.append((points, volume.ravel(), radius))
        x, y, angle = px[:, -1], py[:, -1], heading[:, -1]
        spread = rng.uniform(0.2, 0.6, len(x))
        x, y = np.repeat(x, 2), np.repeat(y, 2)
        angle = np.stack((angle - spread, angle + rng.uniform(0.2, 0.6, len(spread))), axis=1).ravel()
        radius, length = radius * 0.72, length * 0.84
    return found


def airway(grid: Grid) -> Field:
    """Thickness in cm of air in trachea and main bronchi."""
    top = grid.who.apex
    carina = top + 8.6
    ways = [
        rod(grid, [(0.15, top - 9), (0.0, top), (-0.1, carina)], 0.85, 0.3, 4.0),
        rod(grid, [(-0.2, carina - 0.3), (-1.4, carina + 1.6), (-3.0, carina + 3.2)], 0.6, 0.15, 1.7),
        rod(grid, [(0.2, carina - 0.3), (1.8, carina + 1.4), (4.0, carina + 2.4)], 0.55, 0.15, 1.5),
    ]
    return grid.blur([(grid.splat(*joined(ways)), 0.12)])


def bowel_gas(grid: Grid, rng: Generator) -> Field:
    """Thickness in cm of the gas under the left dome and in the bowel."""
    dome, size = grid.who.domes[1], rng.uniform(0, 2.2)
    x, y = rng.uniform(4.5, 7.5), dome + 1.4 + size * 0.8
    bubble = ellipsoid(grid, x, y, 1.2 + 1.6 * size, 0.4 + 0.7 * size)
    loops = np.maximum(grid.texture(rng, 1.8) - rng.uniform(0.8, 2.5), 0) * step((grid.xy[1] - dome - 4) / 4)
    gas: Field = bubble * rng.uniform(1.0, 5.0) + np.minimum(loops, 1.5) * rng.uniform(0.5, 1.5)
    return gas
