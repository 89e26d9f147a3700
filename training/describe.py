"""A data set as a radiologist and a statistician want to see it before a network is trained on it.

One page, `index.html`, with its figures and sample sheets as PNG files beside it. It names no patient by
their id, and files by their names.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from numpy.typing import NDArray

from hilum.network import LABELS
from training import copies, pictures, shortcuts
from training.copies import Pair
from training.data import Images
from training.reader import Collection, UnusableData
from training.shortcuts import Guess, decades

PAGE = "index.html"
_TEMPLATES = Path(__file__).parent / "templates"
_SAMPLES, _PAIRS = 12, 12
_LISTED = 40  # sheets, groups and pairs; a page with more is not looked through
_CHILD_YEARS = 16
_RARE = 0.05


@dataclass(frozen=True)
class Remark:
    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Stratum:
    """The images of one class and source."""

    label: str
    source: str
    count: int
    patients: int
    brightness: float
    """Mean over the images of their mean gray value, 0 to 255, as the network gets them."""
    brightness_sd: float
    """Standard deviation of that mean between the images."""
    contrast: float
    """Mean over the images of the standard deviation within each."""
    sheet: str
    """Name of the picture with some of them."""


def describe(collection: Collection, title: str, out: Path) -> Path:
    """Write the page of a data set and its pictures into the folder `out`, and return the page's path.

    A folder that is made is its owner's alone: the page shows patients' images. Raises UnusableData, and
    writes nothing, when its pictures would be taken for the collection's.
    """
    if collection.folders and out.resolve().is_relative_to(collection.folders.resolve()):
        raise UnusableData(f"{collection.folders} holds nothing but a folder for each class: write elsewhere")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    images, names = collection.images, collection.names
    guesses = shortcuts.guesses(images)
    groups, (pairs, pair_count) = copies.exact(images), copies.near(images)
    counted = tables(images)
    for name, figure in pictures.figures(images, counted).items():
        figure.savefig(out / f"{name}.png", dpi=110)
    if pairs:
        likest = [index for pair in pairs[:_PAIRS] for index in (pair.first, pair.second)]
        pictures.sheet(images, likest).save(out / "pairs.png")
    page = _template().render(
        title=title,
        labels=LABELS,
        remarks=list(remarks(images, groups, pairs, pair_count, guesses)),
        tables=counted,
        strata=list(_strata(images, out)),
        guesses=guesses,
        groups=[[names[index] for index in group] for group in groups[:_LISTED]],
        pairs=[(names[pair.first], names[pair.second], pair.correlation) for pair in pairs[:_LISTED]],
        more=(max(0, len(groups) - _LISTED), max(0, pair_count - _LISTED)),
    )
    (out / PAGE).write_text(page, encoding="utf-8")
    return out / PAGE


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("data.html")


def tables(images: Images) -> dict[str, dict[str, list[int]]]:
    """Return, for source, view, sex and age, each value's number of images of each label."""
    known = {
        "source": images.sources,
        "view": images.views,
        "sex": images.sexes,
        "age": decades(images.ages_years),
    }
    return {
        name: {
            str(value) or "unknown": np.bincount(
                images.labels[values == value], minlength=len(LABELS)
            ).tolist()
            for value in np.unique(values)
        }
        for name, values in known.items()
    }


def remarks(
    images: Images,
    groups: Sequence[Sequence[int]],
    pairs: Sequence[Pair],
    pair_count: int,
    guesses: Sequence[Guess],
) -> Iterator[Remark]:
    """Yield in words what matters of these images, warnings among it."""
    yield from _about_size(images)
    yield from _about_sources(images)
    yield from _about_patients(images)
    yield from _about_copies(images, groups, pairs, pair_count)
    for guess in guesses:
        yield Remark(guess.verdict, guess.is_shortcut)


def _about_size(images: Images) -> Iterator[Remark]:
    patients = np.unique(images.patients, return_counts=True)[1]
    yield Remark(
        f"Images: {len(images):,}, of patients: {len(patients):,}, who have {patients.min():,} to "
        f"{patients.max():,} each, {np.median(patients):.0f} in the median."
    )
    for label, count in zip(LABELS, np.bincount(images.labels, minlength=len(LABELS)), strict=True):
        if count < _RARE * len(images):
            yield Remark(f"{label} is rare ({count:,} images): a network will hardly learn to say it.", True)


def _about_sources(images: Images) -> Iterator[Remark]:
    for source in np.unique(images.sources):
        found = set(images.labels[images.sources == source].tolist())
        if len(found) == 1 and len(np.unique(images.sources)) > 1:
            yield Remark(
                f"All images of {source} are {LABELS[found.pop()]}: whatever is peculiar to the source looks "
                "like the class.",
                True,
            )


def _about_patients(images: Images) -> Iterator[Remark]:
    children = np.count_nonzero(images.ages_years < _CHILD_YEARS)
    if children:
        yield Remark(
            f"Of patients below {_CHILD_YEARS}, whom Hilum does not read: {children:,} images.", True
        )
    unknown = {
        "view": np.count_nonzero(images.views == ""),
        "sex": np.count_nonzero(images.sexes == ""),
        "age": np.count_nonzero(np.isnan(images.ages_years)),
    }
    told = [f"{name} ({count:,})" for name, count in unknown.items() if count]
    if told:
        yield Remark(f"Unknown, of so many images: {', '.join(told)}.")


def _about_copies(
    images: Images, groups: Sequence[Sequence[int]], pairs: Sequence[Pair], pair_count: int
) -> Iterator[Remark]:
    if not groups and not pairs:
        yield Remark("No image occurs twice, as it is or nearly so.")
    if groups:
        yield Remark(
            f"Files that occur more than once: {len(groups):,}; under several patients: "
            f"{_apart(images.patients, groups):,}; in several classes: {_apart(images.labels, groups):,}. "
            "The split keeps copies together.",
            True,
        )
    if pairs:
        of_them = f", of the likest {len(pairs):,}" if pair_count > len(pairs) else ""
        both = [(pair.first, pair.second) for pair in pairs]
        yield Remark(
            f"Pairs of images that are nearly the same: {pair_count:,}; under two patients{of_them}: "
            f"{_apart(images.patients, both):,}. Look at them: where they are copies, give both the same "
            "patient_id, or a network is tested on what it was trained on.",
            True,
        )


def _apart(values: NDArray[np.str_] | NDArray[np.int64], groups: Sequence[Sequence[int]]) -> int:
    """How many groups have more than one value."""
    return sum(len(set(values[list(group)].tolist())) > 1 for group in groups)


def _strata(images: Images, out: Path) -> Iterator[Stratum]:
    """The classes of each source, with a sheet of each in `out`."""
    rng = np.random.default_rng(0)
    kinds = sorted(set(zip(images.labels.tolist(), images.sources.tolist(), strict=True)))
    for number, (label, source) in enumerate(kinds[:_LISTED], 1):
        members = np.flatnonzero((images.labels == label) & (images.sources == source))
        sheet = f"samples-{number:02}.png"
        some = sorted(rng.permutation(members)[:_SAMPLES].tolist())
        pictures.sheet(images, some).save(out / sheet, optimize=True)
        means, deviations = np.array([(images.pixels[k].mean(), images.pixels[k].std()) for k in members]).T
        yield Stratum(
            LABELS[label],
            source,
            len(members),
            len(np.unique(images.patients[members])),
            brightness=float(means.mean()),
            brightness_sd=float(means.std()),
            contrast=float(deviations.mean()),
            sheet=sheet,
        )
