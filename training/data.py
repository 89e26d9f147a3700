"""Labelled images for training: radiographs named by a manifest, and phantoms, split by patient."""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from hilum import phantom
from hilum.network import LABELS
from hilum.radiograph import INPUT_SIZE, network_input, to_display, without_blank_borders

PARTS = ("train", "validation", "test")
PHANTOM = "phantom"
"""The source of images that `hilum.phantom` drew."""
_LABEL_OF_CLASS = {"normal": "Normal", "pneumonia": "Pneumonia", "covid19": "COVID-19", "other": "Other"}


@dataclass(frozen=True)
class Images:
    """Images and what is known of them, index for index."""

    pixels: NDArray[np.uint8]
    """(N, 224, 224), out of `hilum.radiograph.network_input`; may lie in a file (a memory map)."""
    labels: NDArray[np.int64]
    """(N,) indices into `hilum.network.LABELS`."""
    sources: NDArray[np.str_]
    patients: NDArray[np.str_]
    digests: NDArray[np.str_]
    """SHA-256 of each image's file; of a phantom, its seed and label."""
    views: NDArray[np.str_]
    """PA or AP; empty where unknown."""
    sexes: NDArray[np.str_]
    """M or F; empty where unknown."""
    ages_years: NDArray[np.float64]
    """NaN where unknown."""

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Images":
        """Return the images of a mask (N,), or of indices in their order."""
        return Images(**{name: values[chosen] for name, values in vars(self).items()})


def radiographs(images: Path, manifest: Path) -> Images:
    """Return the radiographs a manifest lists, each brought to the network's input.

    The manifest is a CSV file with at least the columns file (a path below `images`), class (normal,
    pneumonia, covid19 or other), source_dataset, patient_id and sha256.
    """
    with manifest.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return Images(
        pixels=np.stack([_pixels(images / row["file"]) for row in rows]),
        labels=np.array([LABELS.index(_LABEL_OF_CLASS[row["class"]]) for row in rows]),
        sources=np.array([row["source_dataset"] for row in rows]),
        patients=np.array([row["patient_id"] for row in rows]),
        digests=np.array([row["sha256"] for row in rows]),
        views=np.array([(row.get("view") or "")[:2].upper() for row in rows]),
        sexes=np.array([(row.get("sex") or "").upper() for row in rows]),
        ages_years=np.array([float(row.get("age") or "nan") for row in rows]),
    )


def _pixels(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return network_input(without_blank_borders(np.asarray(image.convert("L"))))


def phantoms(seeds: Iterable[int]) -> Images:
    """Return one phantom radiograph per seed, the classes in turn; each is a patient of its own."""
    seeds = list(seeds)
    drawn = [_drawn(seed) for seed in seeds]
    names = [LABELS[seed % len(LABELS)] for seed in seeds]
    return Images(
        pixels=np.array([network_input(to_display(ds)) for ds in drawn], np.uint8).reshape(
            -1, INPUT_SIZE, INPUT_SIZE
        ),
        labels=np.array([LABELS.index(name) for name in names], np.int64),
        sources=np.array([PHANTOM for _ in seeds], np.str_),
        patients=np.array([f"{PHANTOM}-{seed}" for seed in seeds], np.str_),
        digests=np.array(
            [
                hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
                for seed, name in zip(seeds, names, strict=True)
            ],
            np.str_,
        ),
        views=np.array([ds.ViewPosition for ds in drawn], np.str_),
        sexes=np.array([ds.PatientSex for ds in drawn], np.str_),
        ages_years=np.array([float(ds.PatientAge.rstrip("Y")) for ds in drawn], np.float64),
    )


def _drawn(seed: int) -> Dataset:
    # Small, because the network sees 224 rows; as DICOM, because that is how phantoms come at work.
    return phantom.phantom(seed, LABELS[seed % len(LABELS)], rows=320, columns=262)


def together(parts: Sequence[Images]) -> Images:
    """Return the images of all parts, one after the other."""
    return Images(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def split(images: Images, shares: tuple[float, float, float], seed: int) -> NDArray[np.str_]:
    """Return for each image its part, (N,) of "train", "validation" or "test".

    A patient's images all fall into one part. Patients are shuffled within their class and source (those of
    their first image), so that every part holds about the same mix.
    """
    first: dict[str, tuple[str, int]] = {}
    for patient, source, label in zip(images.patients, images.sources, images.labels, strict=True):
        first.setdefault(str(patient), (str(source), int(label)))
    strata: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for patient, stratum in first.items():
        strata[stratum].append(patient)
    part_of: dict[str, str] = {}
    for patients in strata.values():
        patients.sort(key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
        ends = np.cumsum(shares) * len(patients)
        for place, patient in enumerate(patients):
            part_of[patient] = PARTS[int(np.searchsorted(ends, place + 0.5))]
    return np.array([part_of[str(patient)] for patient in images.patients])


def digest(images: Images, parts: NDArray[np.str_]) -> str:
    """Return the SHA-256 that names a data set and its split: image digests, labels and parts, sorted."""
    labels = [LABELS[label] for label in images.labels]
    return digest_of(zip(images.digests.tolist(), labels, parts.tolist(), strict=True))


def digest_of(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return the same of (image digest, label, part), as a split file has them."""
    lines = sorted(f"{image} {label} {part}\n" for image, label, part in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def counts(images: Images, parts: NDArray[np.str_]) -> dict[str, dict[str, int]]:
    """Return for each part the number of images per source and label, as "source label"."""
    names = [f"{source} {LABELS[label]}" for source, label in zip(images.sources, images.labels, strict=True)]
    return {
        part: dict(sorted(Counter(name for name, of in zip(names, parts, strict=True) if of == part).items()))
        for part in PARTS
    }


def save(images: Images, file: Path) -> None:
    """Keep images in one file, so that the next start need not decode or draw them again."""
    np.savez(file, **vars(images))


def load(file: Path) -> Images:
    with np.load(file, allow_pickle=False) as arrays:
        return Images(**{name: arrays[name] for name in arrays})
