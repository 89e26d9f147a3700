"""The pictures of an evaluation, by matplotlib; in the colours of Okabe and Ito, which everybody can tell."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from hilum.network import LABELS
from training.bootstrap import BINS, bin_of
from training.data import Images
from training.evaluate import HONEST, Question

Probabilities = NDArray[np.float64]
_COLOURS = ("#009E73", "#E69F00", "#CC79A7", "#0072B2", "#56B4E9", "#D55E00")
_COLOUR_OF = dict(zip(LABELS, _COLOURS, strict=False)) | {"Abnormal": "#D55E00"}
_GRAY, _INK = "#B4B2A9", "#2C2C2A"
matplotlib.rcParams["text.parse_math"] = False  # a source may be called by its price: $10


def png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def classes(images: Images) -> Figure:
    """How many images of each class there are, by source."""
    figure, axes = _axes(6.3, 3.0, "Images by class and source")
    lefts = np.zeros(len(LABELS))
    for colour, source in zip(_COLOURS[::-1] * 9, np.unique(images.sources), strict=False):
        counts = np.bincount(images.labels[images.sources == source], minlength=len(LABELS))
        axes.barh(LABELS, counts, left=lefts, color=colour, label=source, height=0.6)
        lefts += counts
    for row, total in enumerate(lefts):
        axes.annotate(f" {total:.0f}", (total, row), va="center", fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4)
    return figure


def roc(question: Question, probabilities: Probabilities, truth: NDArray[np.int64], title: str) -> Figure:
    """One curve for each answer against the rest."""
    figure, axes = _axes(4.2, 4.0, title)
    axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=0.8, linestyle="--")
    answers = list(enumerate(question.answers))
    for k, answer in answers[1:] if len(answers) == 2 else answers:  # of two, one curve is the other's mirror
        if 0 < np.count_nonzero(truth == k) < len(truth):
            false_alarms, hits, _ = roc_curve(truth == k, probabilities[:, k])
            axes.plot(false_alarms, hits, color=_COLOUR_OF[answer], linewidth=1.8, label=answer)
    axes.set_xlabel("1 - specificity", fontsize=8)
    axes.set_ylabel("sensitivity", fontsize=8)
    axes.set_aspect("equal")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def confusion(of: Mapping[str, Any], title: str) -> Figure:
    """The counts, shaded by their share of the truth's row."""
    counts, answers = np.array(of["confusion"]), of["answers"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes(4.2, 4.0, title)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if shares[row, column] > 0.5 else _INK
        text = f"{count}\n{100 * shares[row, column]:.0f} %"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(answers)), answers, rotation=20)
    axes.set_yticks(range(len(answers)), answers)
    axes.set_xlabel("answer", fontsize=8)
    axes.set_ylabel("truth", fontsize=8)
    return figure


def reliability(
    curves: Mapping[str, Probabilities],
    truth: NDArray[np.int64],
) -> Figure:
    """How often the likeliest answer is right, by how sure it is; the diagonal is a calibrated network."""
    figure, axes = _axes(4.2, 4.0, "How sure, and how often right")
    axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=0.8, linestyle="--")
    for colour, (name, probabilities) in zip((_COLOURS[3], _COLOURS[1]), curves.items(), strict=False):
        sure, right, counts = _binned(probabilities, truth)
        axes.plot(sure, right, color=colour, linewidth=1.5, label=name)
        axes.scatter(sure, right, s=8 + 200 * counts / counts.sum(), color=colour, alpha=0.7)
    axes.set_xlabel("probability of the answer given", fontsize=8)
    axes.set_ylabel("share that is right", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def _binned(
    probabilities: Probabilities, truth: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = bin_of(confidence)
    counts = np.bincount(bins, minlength=BINS)
    some = counts > 0
    means = [
        np.bincount(bins, weights=values, minlength=BINS)[some] / counts[some]
        for values in (confidence, right)
    ]
    return means[0], means[1], counts[some]


def coverage(curves: Mapping[str, tuple[Probabilities, NDArray[np.int64]]]) -> Figure:
    """How often answers are right when only the surest are given, by how many that are."""
    figure, axes = _axes(4.2, 4.0, "If only the surest answers count")
    for colour, (name, (probabilities, truth)) in zip(_COLOURS[::-1], curves.items(), strict=False):
        order = np.argsort(-probabilities.max(axis=1), kind="stable")
        right = (probabilities.argmax(axis=1) == truth)[order]
        given = np.arange(1, len(right) + 1)
        few = given >= 10  # of fewer the curve is all noise
        axes.plot(
            given[few] / len(right), right.cumsum()[few] / given[few], color=colour, linewidth=1.5, label=name
        )
    axes.set_xlabel("share of images that get an answer", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(None, 1.01)
    axes.legend(fontsize=7, frameon=False, loc="lower left")
    return figure


def forest(slices: Mapping[str, Mapping[str, Any]], figure_name: str, title: str) -> Figure:
    """One line a slice: its figure and the 95 % interval; honest slices in another colour."""
    names = [name for name, of in slices.items() if not of["too_few"] and of[figure_name]["low"] is not None]
    figure, axes = _axes(6.3, 1.2 + 0.27 * len(names), title)
    for row, name in enumerate(names):
        of = slices[name][figure_name]
        colour = _COLOURS[0] if name.startswith(HONEST) else _COLOURS[3]
        axes.plot([of["low"], of["high"]], [row, row], color=colour, linewidth=1.5)
        axes.scatter([of["value"]], [row], color=colour, s=24, zorder=3)
        if figure_name == "accuracy":
            axes.scatter([slices[name]["commonest"]], [row], color=_GRAY, marker="|", s=60)
    axes.set_yticks(range(len(names)), [f"{name} ({slices[name]['images']})" for name in names])
    axes.invert_yaxis()
    axes.set_xlim(None, 1.01)
    axes.grid(axis="x", color="#EEEEEE")
    axes.set_axisbelow(True)
    return figure
