"""The part of training that each image falls into, by patient, written down so that it can be checked."""

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hilum.errors import HilumError
from hilum.network import LABELS
from training import data
from training.data import PARTS, Images

_COLUMNS = ("patient_id", "sha256", "class", "part")
_HEAD = "# data digest "
_BORDER = 0.57  # of a place: with it the test patients of the first network stay test patients
_NAMED = 10


class SplitLeaks(HilumError):
    """Whoever made the split must act: it has a patient, or an image, in more than one part.

    The text is fit for a log; `in_detail` names the patients.
    """


class WrongSplit(HilumError):
    """The operator must give another split: this one was altered, or belongs to other images."""


def parts(images: Images, shares: tuple[float, float, float], seed: int) -> NDArray[np.str_]:
    """Return for each image its part, (N,) of "train", "validation" or "test".

    All images of a patient fall into one part, and so do patients who share an image (`families`). They
    are shuffled within class and source, so that every part holds about the same mix. The order of the
    images does not matter.
    """
    names = families(images)
    part_of = {}
    for stratum in _strata(images, names, seed):
        ends = np.cumsum(shares[:-1]) * len(stratum)
        for place, name in enumerate(stratum):
            part_of[name] = PARTS[int(np.searchsorted(ends, place + _BORDER))]
    return np.array([part_of[name] for name in names], np.str_)


def folds(images: Images, count: int, seed: int) -> NDArray[np.int64]:
    """Return for each image its fold, (N,) in 0..count-1, by the rules of `parts`."""
    names = families(images)
    shuffled = [name for stratum in _strata(images, names, seed) for name in stratum]
    fold_of = {name: place % count for place, name in enumerate(shuffled)}
    return np.array([fold_of[name] for name in names], np.int64)


def families(images: Images) -> NDArray[np.str_]:
    """Return for each image, (N,), the first patient id of those that must stay together.

    That is one patient, or several where the same image (by its digest) occurs under more than one id.
    """
    return related(images.patients, images.digests)


def related(patients: NDArray[np.str_], digests: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return what `families` does, given whose each image is and what it is known by, (N,)."""
    names, of_patient = np.unique(patients, return_inverse=True)
    known, of_digest = np.unique(digests, return_inverse=True)
    size = len(names) + len(known)
    links = (np.ones(len(patients)), (of_patient, len(names) + of_digest))
    component = connected_components(coo_array(links, shape=(size, size)), directed=False)[1]
    first = np.unique(component[: len(names)], return_index=True)[1]  # patients are sorted
    name_of = dict(zip(component[first], names[first], strict=True))
    return np.array([name_of[component[patient]] for patient in of_patient], np.str_)


def _strata(images: Images, names: NDArray[np.str_], seed: int) -> list[list[str]]:
    """The families of each class and source, shuffled by the seed; with several, the first label counts."""
    kind_of: dict[str, tuple[int, str]] = {}
    for name, label, source in zip(names.tolist(), images.labels, images.sources, strict=True):
        kind = (int(label), str(source))
        kind_of[name] = min(kind, kind_of.get(name, kind))
    strata = defaultdict(list)
    for name, kind in kind_of.items():
        strata[kind].append(name)
    return [sorted(strata[kind], key=lambda name: _shuffling(seed, name)) for kind in sorted(strata)]


def _shuffling(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def require_apart(images: Images, parts: NDArray[np.str_]) -> None:
    """Raise SplitLeaks when a patient, or the same image, is in more than one part."""
    _require_apart(images.patients, images.digests, parts)


def _require_apart(patients: NDArray[np.str_], digests: NDArray[np.str_], parts: NDArray[np.str_]) -> None:
    copied = np.isin(digests, _straddling(digests, parts))
    leaking = sorted({*_straddling(patients, parts), *patients[copied].tolist()})
    if leaking:
        first = digests[np.isin(patients, leaking)].tolist()[0]
        error = SplitLeaks(
            f"{len(leaking)} patients are in more than one part of the split, themselves or by a copy of an "
            "image, so that a network would be tested on what it was trained on. One of their images has the "
            f"sha256 {first}. Put all images of each patient into one part."
        )
        error.in_detail = leaking[:_NAMED]
        raise error


def _straddling(names: NDArray[np.str_], parts: NDArray[np.str_]) -> list[str]:
    seen = defaultdict(set)
    for name, part in zip(names.tolist(), parts.tolist(), strict=True):
        seen[name].add(part)
    return [name for name, found in seen.items() if len(found) > 1]


def write(file: Path, images: Images, parts: NDArray[np.str_]) -> None:
    """Keep a split as a CSV file whose first line is its digest (`training.data.digest`).

    Raises SplitLeaks, and writes nothing, when it leaks.
    """
    require_apart(images, parts)
    labels = [LABELS[label] for label in images.labels]
    rows = zip(images.patients.tolist(), images.digests.tolist(), labels, parts.tolist(), strict=True)
    aside = file.with_name(f"{file.name}.new")
    aside.touch(mode=0o600)  # it names patients
    with aside.open("w", newline="", encoding="utf-8") as lines:
        lines.write(f"{_HEAD}{data.digest(images, parts)}\n")
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(sorted(rows))
    aside.replace(file)


def read(file: Path, images: Images) -> NDArray[np.str_]:
    """Return the part of each image, (N,), as a file written by `write` has it.

    The file may hold more images than these.

    Raises
    ------
    SplitLeaks
        If a patient, or the same image, is in more than one part.
    WrongSplit
        If the file was altered since it was written, or does not know all these images.
    """
    patients, digests, labels, found = _columns(file)
    _require_apart(patients, digests, found)
    with file.open(encoding="utf-8") as lines:
        written = next(lines).removeprefix(_HEAD).strip()
    if data.digest_of(zip(digests.tolist(), labels.tolist(), found.tolist(), strict=True)) != written:
        raise WrongSplit(f"{file} was altered since it was written: bring the original back, or remove it")
    part_of = dict(zip(digests.tolist(), found.tolist(), strict=True))
    unknown = [image for image in images.digests.tolist() if image not in part_of]
    if unknown:
        raise WrongSplit(
            f"{len(unknown)} of {len(images)} images are not in {file}: it belongs to other data. "
            "Give the data it was made from, or remove it, and a new split is made"
        )
    parts = np.array([part_of[image] for image in images.digests.tolist()], np.str_)
    require_apart(images, parts)
    return parts


def _columns(file: Path) -> tuple[NDArray[np.str_], ...]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            head, *rows = [*csv.reader(line for line in lines if not line.startswith(_HEAD))] or [[]]
    except (UnicodeDecodeError, csv.Error):
        head, rows = [], []
    if tuple(head) != _COLUMNS or not rows or any(len(row) != len(_COLUMNS) for row in rows):
        raise WrongSplit(f"{file} is no split as `hilum train` writes it: remove it, and a new one is made")
    return tuple(np.array(rows, np.str_).T)
