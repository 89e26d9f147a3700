"""The pictures of a data set: sheets of images, and figures by matplotlib."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hilum.network import LABELS
from training.data import Images

_COLOURS = ("#009E73", "#E69F00", "#CC79A7", "#0072B2", "#D55E00", "#56B4E9", "#2C2C2A")  # Okabe and Ito's
_OTHERS = _COLOURS[3:] + _COLOURS[:3]
"""Of what is no class, so that a colour means one thing."""
_SHEET_COLUMNS, _SIDE_PX, _GAP_PX = 6, 150, 3
_CURVES = 7  # more in one figure are not told apart
_GRAYS = 32
matplotlib.rcParams["text.parse_math"] = False  # a source may be called by its price: $10


def sheet(images: Images, indices: Sequence[int]) -> Image.Image:
    """Return some images side by side, in rows of six."""
    step = _SIDE_PX + _GAP_PX
    rows = -(-len(indices) // _SHEET_COLUMNS)
    whole = Image.new("L", (_SHEET_COLUMNS * step - _GAP_PX, rows * step - _GAP_PX), 255)
    for place, index in enumerate(indices):
        small = Image.fromarray(images.pixels[index]).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
        whole.paste(small, (place % _SHEET_COLUMNS * step, place // _SHEET_COLUMNS * step))
    return whole


def figures(images: Images, tables: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, Figure]:
    """Return the figures by name; `tables` are those of `training.describe.tables`."""
    return {
        "classes": _classes(tables),
        "patients": _patients(images),
        "grays": _grays(images),
        "means": _means(images),
    }


def _classes(tables: Mapping[str, Mapping[str, Sequence[int]]]) -> Figure:
    """How many images of each class there are, by source, view and sex."""
    names = ("source", "view", "sex")
    figure, each = _axes(3.3, [f"Class by {name}" for name in names])
    for axes, name in zip(each, names, strict=True):
        left = np.zeros(len(LABELS))
        for colour, (value, counts) in zip(_OTHERS, _most(tables[name]).items(), strict=False):
            axes.barh(LABELS, counts, left=left, color=colour, label=value, height=0.65)
            left += counts
        axes.invert_yaxis()
        _legend(axes)
    return figure


def _most(rows: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """The rows with most images; the rest, when there are more than can be told apart, is one row."""
    ordered = sorted(rows, key=lambda name: -sum(rows[name]))
    shown = ordered if len(ordered) <= _CURVES else ordered[: _CURVES - 1]
    most = {name: np.array(rows[name]) for name in rows if name in shown}
    rest = [rows[name] for name in rows if name not in shown]
    return most | ({f"{len(rest)} others": np.sum(rest, axis=0)} if rest else {})


def _patients(images: Images) -> Figure:
    """The ages, by class and by source, and how many images a patient has."""
    figure, (by_class, by_source, images_each) = _axes(
        3.6, ["Age by class", "Age by source", "Images per patient"]
    )
    edges = np.arange(0, 101, 10)
    for axes, groups in ((by_class, _by_class(images)), (by_source, _by_source(images))):
        for name, (colour, members) in groups.items():
            ages = images.ages_years[members]
            ages = ages[~np.isnan(ages)]
            if len(ages):
                shares = np.histogram(ages.clip(0, 99), edges)[0] / len(ages)
                axes.stairs(shares, edges, color=colour, label=name, linewidth=1.5)
        axes.set_xlabel("years", fontsize=8)
        axes.set_ylabel("share of images", fontsize=8)
        _legend(axes)
    counts = np.bincount(np.unique(images.patients, return_counts=True)[1])[1:]
    images_each.bar(np.arange(1, len(counts) + 1), counts, color=_OTHERS[0])
    images_each.set_yscale("log")
    images_each.set_ylabel("patients", fontsize=8)
    return figure


def _grays(images: Images) -> Figure:
    """The shares of gray values, by source and by class."""
    figure, (by_source, by_class) = _axes(3.4, ["Gray values by source", "Gray values by class"])
    width = 256 // _GRAYS
    counts = [np.bincount(pixels.ravel() // width, minlength=_GRAYS) for pixels in images.pixels]
    shares = np.array(counts) / images.pixels[0].size
    for axes, groups in ((by_source, _by_source(images)), (by_class, _by_class(images))):
        for name, (colour, members) in groups.items():
            middles = np.arange(_GRAYS) * width + width / 2
            axes.plot(middles, shares[members].mean(axis=0), color=colour, label=name)
        axes.set_xlabel("gray value as the network gets it", fontsize=8)
        axes.set_ylabel("share of pixels", fontsize=8)
        _legend(axes)
    return figure


def _means(images: Images) -> Figure:
    """The mean image of each class (a column) and source (a row)."""
    sources = _by_source(images)
    figure = Figure(figsize=(7.2, 1.9 * len(sources) + 0.3), layout="constrained")
    grid = figure.subplots(len(sources), len(LABELS), squeeze=False)
    for row, (source, (_, of_source)) in zip(grid, sources.items(), strict=True):
        for label, axes in enumerate(row):
            members = np.flatnonzero(of_source & (images.labels == label))
            axes.set(xticks=[], yticks=[], frame_on=False)
            axes.set_ylabel("" if label else source, fontsize=8)
            axes.set_xlabel(f"{LABELS[label]} ({len(members):,})", fontsize=8)
            axes.imshow(_mean(images, members), cmap="gray", vmin=0, vmax=255)
    return figure


def _mean(images: Images, members: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean of some images; white where there is none."""
    total = np.zeros(images.pixels.shape[1:]) if len(members) else np.full(images.pixels.shape[1:], 255.0)
    for index in members:  # one by one: they may be more than fit into memory
        total += images.pixels[index] / len(members)
    return total


def _by_class(images: Images) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """The colour and the members of each class that there is."""
    groups = {name: images.labels == label for label, name in enumerate(LABELS)}
    return {name: (_COLOURS[place], of) for place, (name, of) in enumerate(groups.items()) if of.any()}


def _by_source(images: Images) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """The same of the sources with most images."""
    names, counts = np.unique(images.sources, return_counts=True)
    most = sorted(names[np.argsort(-counts, kind="stable")][:_CURVES].tolist())
    return {name: (_OTHERS[place], images.sources == name) for place, name in enumerate(most)}


def _axes(height: float, titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10, height), layout="constrained")
    each: list[Axes] = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(each, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, each


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
