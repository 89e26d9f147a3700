"""What a phantom suffers from: how much of the lungs' air is replaced, and where."""

from math import cos, pi, sin

import numpy as np
from numpy.random import Generator

from hilum.anatomy import Field, Grid, Lung, ellipsoid, lung_edge, rounded, step


def consolidation(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    """Share of air lost, (rows, columns) in [0, 1], to pneumonia of one lobe, sometimes of two."""
    lost = _lobe(grid, lungs, rng)
    return np.maximum(lost, _lobe(grid, lungs, rng)) if rng.random() < 0.25 else lost


def _lobe(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    chosen = lungs[int(rng.integers(2))]
    x, y = grid.xy
    who, side = grid.who, chosen.side
    height = who.domes[(side + 1) // 2] - who.apex
    fissure = who.apex + height * rng.uniform(0.42, 0.55)
    ragged = 1.3 * grid.texture(rng, 3.0) + 0.5 * grid.texture(rng, 1.0)
    sharp = rng.uniform(0.5, 3.5) + (side > 0) * 2.5  # the left lung's fissure is not seen edge on
    wide = height * rng.uniform(0.05, 0.4)
    lobe = rng.choice(["upper", "middle", "lower"])
    if lobe == "upper":
        edge = (fissure + 0.1 * (x * side - 6) + 0.15 * ragged - y) / sharp
        extent = (y - who.apex - wide + 0.2 * height + ragged) / 3
    elif lobe == "middle":
        edge = (y - fissure - 0.06 * (x * side - 6) + 0.15 * ragged) / sharp
        extent = (rng.uniform(6.0, 10.0) - x * side + ragged * 1.5) / 4
    else:
        edge = (y - fissure - wide + ragged) / 4
        extent = (x * side - rng.uniform(0.5, 4.5) + ragged) / 3
    patchy = 1 + 0.10 * grid.texture(rng, 2.2) + 0.05 * grid.texture(rng, 0.7)
    share = rng.uniform(0.4, 0.95)
    return np.clip(share * step(edge) * step(extent) * patchy, 0, 0.97) * (x * side > 0)


def ground_glass(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    """Share of air lost, (rows, columns) in [0, 1], to patches near the chest wall of both lungs."""
    kept = np.ones((grid.rows, grid.columns), np.float32)
    severity = rng.uniform(0.22, 0.62)
    ragged = 0.5 * grid.texture(rng, 1.4) + 0.25 * grid.texture(rng, 0.6)
    for lung in lungs:
        for _ in range(int(rng.integers(2, 6))):
            kept *= 1 - (severity * rng.uniform(0.6, 1.1)) * _patch(grid, lung, rng, ragged)
    rim = severity * rng.uniform(0, 0.7)
    band = step((np.maximum(lungs[0].lateral, lungs[1].lateral) - 0.62) / 0.3) * step((grid.xy[1] + 7) / 8)
    fine = 1 + 0.16 * grid.texture(rng, 1.2) + 0.10 * grid.texture(rng, 0.5)
    return np.clip((1 - kept * (1 - rim * band * step(0.7 + ragged))) * fine, 0, 0.92)


def _patch(grid: Grid, lung: Lung, rng: Generator, ragged: Field) -> Field:
    who = grid.who
    height = who.domes[(lung.side + 1) // 2] - who.apex
    y = who.apex + height * rng.beta(2.6, 1.5)
    x = lung.side * float(lung_edge(who, np.array(y))) * rng.uniform(0.68, 0.98)
    across, down, tilt = rng.uniform(2.0, 4.2), rng.uniform(2.8, 6.0), -lung.side * rng.uniform(0, 15)
    near = ellipsoid(grid, x, y, across, down, tilt) ** 2
    return step(near * 1.2 * (1 + 0.5 * ragged)) * (grid.xy[0] * lung.side > 0)


def other(grid: Grid, lungs: tuple[Lung, Lung], rng: Generator) -> Field:
    """Share of air lost, (rows, columns) in [0, 1], to nodules, a mass, or fluid in the chest."""
    kind = rng.choice(["nodules", "mass", "effusion"])
    if kind == "nodules":
        return _bodies(grid, lungs, rng, int(rng.choice([1, 1, 2, 4, 7])), (0.7, 1.5))
    if kind == "mass":
        return _bodies(grid, lungs, rng, 1, (1.8, 3.6))
    both = rng.random() < 0.3
    first = int(rng.integers(2))
    chosen = lungs if both else (lungs[first],)
    lost: Field = np.max([_effusion(grid, lung, rng) for lung in chosen], axis=0)
    return lost


def _bodies(
    grid: Grid, lungs: tuple[Lung, Lung], rng: Generator, count: int, radius: tuple[float, float]
) -> Field:
    """Solid bodies: round, or lobed where they are large."""
    lost = np.zeros((grid.rows, grid.columns), np.float32)
    for _ in range(count):
        lung = lungs[int(rng.integers(2))]
        who = grid.who
        height = who.domes[(lung.side + 1) // 2] - who.apex
        y = who.apex + height * rng.uniform(0.2, 0.85)
        x = lung.side * float(lung_edge(who, np.array(y))) * rng.uniform(0.42, 0.85)
        size = rng.uniform(*radius)
        solid = 2 * size * ellipsoid(grid, x, y, size, size * rng.uniform(0.8, 1.2), rng.uniform(0, 90))
        for _ in range(3 if size > 1.2 else 1):
            way, off, lobe = (
                rng.uniform(0, 2 * pi),
                size * rng.uniform(0.3, 0.7),
                size * rng.uniform(0.5, 0.75),
            )
            part = ellipsoid(grid, x + off * cos(way), y + off * sin(way), lobe, lobe)
            solid = np.maximum(solid, 2 * lobe * part)
        lost = np.maximum(lost, rng.uniform(1.2, 1.8) * solid / np.maximum(lung.depth, 2))
    return np.clip(lost, 0, 0.95)


def _effusion(grid: Grid, lung: Lung, rng: Generator) -> Field:
    """Fluid below a meniscus that climbs the chest wall."""
    x, y = grid.xy
    dome = grid.who.domes[(lung.side + 1) // 2]
    level = dome - rng.uniform(-1.8, 7.0)
    climb = rng.uniform(2.0, 5.0) * np.exp((lung.lateral - 1) * 7) - 0.8 * (1 - lung.lateral)
    deep = (y - level + climb) / rng.uniform(1.5, 3.0)
    return 0.96 * rounded(deep) * (x * lung.side > 0)


def lost_air(grid: Grid, lungs: tuple[Lung, Lung], label: str, rng: Generator) -> Field | None:
    """Share of air lost to what the label names, (rows, columns) in [0, 1]; None for "Normal"."""
    lesions = {"Pneumonia": consolidation, "COVID-19": ground_glass, "Other": other}
    return lesions[label](grid, lungs, rng) if label in lesions else None
