"""What a phantom suffers from: how much of the lungs' air is replaced, and where.

A phantom is there to tell whether everything works, so nobody may doubt its label: every lesion is large,
dense and clear of heart, diaphragm and clavicles, and no two labels resemble each other.
"""

from math import cos, pi, sin

import numpy as np
from numpy.random import Generator

from hilum.anatomy import Field, Grid, Lung, Patient, ellipsoid, lung_edge, rounded, step


def consolidation(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    """Share of air lost, (rows, columns) in [0, 1], to pneumonia of one lobe.

    It ends at the fissure; below, the base and the angle beside the diaphragm stay aired, as they do not
    where there is fluid.
    """
    lung = lungs[int(rng.integers(2))]
    x, y = grid.xy
    ragged = 1.0 * grid.texture(rng, 3.0) + 0.4 * grid.texture(rng, 1.0)
    # the left lung's fissure is not seen edge on
    soft = rng.uniform(0.5, 1.5) if lung.side < 0 else rng.uniform(2.0, 4.0)
    fissure = _height(grid.who, lung, rng.uniform(0.45, 0.55)) + 0.08 * (x * lung.side - 6) + 0.15 * ragged
    if rng.random() < 0.5:
        lobe = step((fissure - y) / soft)
    else:
        base = _height(grid.who, lung, rng.uniform(0.87, 0.93)) + 0.7 * ragged
        outer = rng.uniform(0.94, 1.02) + 0.05 * ragged - 0.02 * np.maximum(y - fissure, 0)
        lobe = step((y - fissure) / soft + 0.5) * step((base - y) / 3) * step((outer - lung.lateral) / 0.15)
    patchy = 1 + 0.04 * grid.texture(rng, 2.2) + 0.03 * grid.texture(rng, 0.7)
    lost: Field = np.clip(rng.uniform(0.8, 0.92) * lobe * patchy, 0, 0.97) * (x * lung.side > 0)
    return lost


def _height(who: Patient, lung: Lung, share: float) -> float:
    """The y that lies this share of the way from the lung's apex down to its dome."""
    return who.apex + share * (who.domes[(lung.side + 1) // 2] - who.apex)


def ground_glass(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    """Share of air lost, (rows, columns) in [0, 1], to patches near the chest wall of both lungs."""
    kept = np.ones((grid.rows, grid.columns), np.float32)
    severity = rng.uniform(0.5, 0.72)
    ragged = 0.5 * grid.texture(rng, 1.4) + 0.25 * grid.texture(rng, 0.6)
    for lung in lungs:
        for share in (0.45, 0.65, 0.85)[int(rng.integers(2)) :]:
            patch = _patch(grid, lung, rng, share + rng.uniform(-0.07, 0.07), ragged)
            kept *= 1 - severity * rng.uniform(0.85, 1.1) * patch
    fine = 1 + 0.16 * grid.texture(rng, 1.2) + 0.10 * grid.texture(rng, 0.5)
    return np.clip((1 - kept) * fine, 0, 0.85)


def _patch(grid: Grid, lung: Lung, rng: Generator, share: float, ragged: Field) -> Field:
    y = _height(grid.who, lung, share)
    x = lung.side * float(lung_edge(grid.who, np.array(y))) * rng.uniform(0.8, 0.95)
    across, down, tilt = rng.uniform(4.0, 5.2), rng.uniform(4.5, 7.0), -lung.side * rng.uniform(0, 15)
    near = ellipsoid(grid, x, y, across, down, tilt) ** 2
    return step(near * 1.25 * (1 + 0.5 * ragged)) * (grid.xy[0] * lung.side > 0)


def other(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    """Share of air lost, (rows, columns) in [0, 1], to nodules, a mass, or fluid in one side of the chest."""
    kind = rng.choice(["nodules", "mass", "effusion"])
    if kind == "nodules":
        return _nodules(grid, lungs, rng)
    lung = lungs[int(rng.integers(2))]
    if kind == "mass":
        return _body(grid, lung, rng, rng.uniform(0.3, 0.6), rng.uniform(2.8, 3.8))
    return _effusion(grid, lung, rng)


def _nodules(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    """Three or four in each lung, below one another."""
    lost = np.zeros((grid.rows, grid.columns), np.float32)
    for lung in lungs:
        count = int(rng.integers(3, 5))
        for share in np.linspace(0.26, 0.76, count) + rng.uniform(-0.04, 0.04, count):
            lost = np.maximum(lost, _body(grid, lung, rng, share, rng.uniform(1.1, 1.7)))
    return lost


def _body(grid: Grid, lung: Lung, rng: Generator, share: float, radius: float) -> Field:
    """A solid body with a sharp edge: round, or lobed where it is large."""
    y = _height(grid.who, lung, share)
    # Beside the heart, which reaches further to the left, there is room near the chest wall only.
    inner = 0.72 if lung.side > 0 and share > 0.45 else 0.5
    x = lung.side * float(lung_edge(grid.who, np.array(y))) * rng.uniform(inner, 0.82)
    solid = ellipsoid(grid, x, y, radius, radius * rng.uniform(0.9, 1.1), rng.uniform(0, 90))
    for _ in range(2 if radius > 2 else 0):
        way, off, lobe = rng.uniform(0, 2 * pi), rng.uniform(0.4, 0.7), radius * rng.uniform(0.5, 0.7)
        right, low = radius * off * cos(way), radius * off * sin(way)
        solid = np.maximum(solid, ellipsoid(grid, x + right, y + low, lobe, lobe))
    lost: Field = rng.uniform(0.6, 0.8) * np.minimum(1.15 * solid, 1)
    return lost


def _effusion(grid: Grid, lung: Lung, rng: Generator) -> Field:
    """Fluid well above the diaphragm, below a meniscus that climbs the chest wall."""
    x, y = grid.xy
    level = _height(grid.who, lung, rng.uniform(0.6, 0.78))
    climb = rng.uniform(4.0, 6.0) * np.exp((lung.lateral - 1) * 6) - 0.8 * (1 - lung.lateral)
    deep = (y - level + climb) / rng.uniform(1.5, 2.5)
    return 0.96 * rounded(deep) * (x * lung.side > 0)


def lost_air(grid: Grid, lungs: tuple[Lung, Lung], label: str, rng: Generator) -> Field | None:
    """Share of air lost to what the label names, (rows, columns) in [0, 1]; None for "Normal"."""
    lesions = {"Pneumonia": consolidation, "COVID-19": ground_glass, "Other": other}
    return lesions[label](grid, lungs, rng) if label in lesions else None
