"""Labelled images and what is known of each: what training learns from and evaluation asks about."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hilum import phantom
from hilum.network import LABELS
from hilum.radiograph import network_input, to_display

PARTS = ("train", "validation", "test")
PHANTOM = "phantom"
"""The source of images that `hilum.phantom` drew."""


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
    """SHA-256 of each image's file; of a phantom, its drawing's version, its seed and its label."""
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

    def known_of(self, chosen: NDArray[np.bool_]) -> "Images":
        """Return what is known of the images of a mask (N,), without their pixels, which are dear to copy."""
        return replace(self, pixels=self.pixels[:, :0, :0]).where(chosen)


def phantoms(seeds: Iterable[int]) -> Images:
    """Return one phantom radiograph per seed, the classes in turn; each is a patient of its own."""
    drawn = [_phantom(seed) for seed in seeds]
    return together(drawn) if drawn else _phantom(0).where(np.zeros(1, np.bool_))


def _phantom(seed: int) -> Images:
    """One phantom, small, because the network sees 224 rows; as DICOM, because so phantoms come at work."""
    label = seed % len(LABELS)
    ds = phantom.phantom(seed, LABELS[label], rows=320, columns=262)
    what = f"{phantom.DRAWING} {seed} {LABELS[label]}"
    return Images(
        pixels=network_input(to_display(ds))[None],
        labels=np.array([label], np.int64),
        sources=np.array([PHANTOM], np.str_),
        patients=np.array([f"{PHANTOM}-{seed}"], np.str_),
        digests=np.array([hashlib.sha256(what.encode()).hexdigest()], np.str_),
        views=np.array([ds.ViewPosition], np.str_),
        sexes=np.array([ds.PatientSex], np.str_),
        ages_years=np.array([ds.PatientAge.rstrip("Y")], np.float64),
    )


def together(parts: Sequence[Images]) -> Images:
    """Return the images of all parts, one after the other."""
    return Images(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


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
