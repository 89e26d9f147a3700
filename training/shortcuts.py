"""Shortcuts in a data set: what a network could learn in place of what it is meant to see.

Where the class can be guessed from what has nothing to do with the lungs, a network will guess so, and its
figures will be better than it is. Small linear models measure how far such guesses go, cross-validated over
patients.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from hilum.network import LABELS
from training import split
from training.data import Images

FOLDS = 5
_ENOUGH = 5000  # images that tell
_FEWEST = 2 * FOLDS  # patients of an answer that is asked for
_THUMBNAIL_PX, _GRAYS = 16, 32
_HOW_OFTEN = ((0.6, "hardly"), (0.7, "sometimes"), (0.8, "often"), (0.9, "mostly"), (1.1, "nearly always"))
"""By macro AUROC."""
_SHORTCUT = 0.7
"""AUROC of an answer from which on people are warned."""


@dataclass(frozen=True)
class Guess:
    """How far a guess goes, on patients that it was not fitted to."""

    asked: str
    known: str
    among: str
    """A class, when the guess is between its images alone."""
    images: int
    aurocs: Mapping[str, float]
    """Of each answer against the rest: 0.5 is chance, 1 always right."""
    accuracy: float
    commonest: float
    """Accuracy of always saying the commonest answer."""

    @property
    def macro_auroc(self) -> float:
        return sum(self.aurocs.values()) / len(self.aurocs)

    @property
    def best(self) -> str:
        """The answer that is told best."""
        return max(self.aurocs, key=self.aurocs.__getitem__)

    @property
    def is_shortcut(self) -> bool:
        return self.aurocs[self.best] >= _SHORTCUT

    @property
    def verdict(self) -> str:
        """What it means for who trains on these images, in words."""
        how_often = next(words for below, words in _HOW_OFTEN if self.macro_auroc < below)
        among = f"Among {self.among} images, the" if self.among else "The"
        found = f"{among} {self.asked} can {how_often} be told from the {self.known}"
        if len(self.aurocs) > 2:
            found += f", {self.best} best (AUROC {self.aurocs[self.best]:.2f})"
        return f"{found}. {self._advice}" if self.is_shortcut else f"{found}."

    @property
    def _advice(self) -> str:
        if self.asked == "source":
            return (
                "A network can learn where an image was taken in place of what it shows: balance the classes "
                "within each source, and read its figures source by source."
            )
        return (
            f"To know the {self.known} and nothing else gets {self.accuracy:.0%} right; always saying the "
            f"commonest class, {self.commonest:.0%}. Hold a network's figures against that."
        )


def guesses(images: Images) -> list[Guess]:
    """Return the guesses that these images allow: sources from pixels, classes from all but pixels.

    An answer with fewer than ten patients is left out, and so is a guess with fewer than two answers.
    """
    if len(images) > _ENOUGH:
        images = images.where(np.sort(np.random.default_rng(0).permutation(len(images))[:_ENOUGH]))
    with threadpool_limits(limits=1):  # matrices as small as these are slower with more threads
        return list(_guesses(images))


def _guesses(images: Images) -> Iterator[Guess]:
    sources = images.sources
    yield from _guess(images, sources, seen(images), "source", "image")
    for label, name in enumerate(LABELS):
        of = images.where(images.labels == label)
        yield from _guess(of, of.sources, seen(of), "source", "image", among=name)
    classes = np.array(LABELS)[images.labels]
    known = {"source": sources, "view": images.views, "sex": images.sexes, "age": decades(images.ages_years)}
    for name, values in known.items():
        if len(np.unique(values)) > 1:
            yield from _guess(images, classes, values[:, None], "class", name)
    together = np.stack([known[name] for name in ("view", "sex", "age")], axis=1)
    yield from _guess(images, classes, together, "class", "view, sex and age together")


def decades(ages_years: NDArray[np.float64]) -> NDArray[np.str_]:
    """Return each age's decade, (N,), as "40-49"; "" where it is unknown."""
    return np.array(
        ["" if np.isnan(age) else f"{age // 10 * 10:.0f}-{age // 10 * 10 + 9:.0f}" for age in ages_years],
        np.str_,
    )


def seen(images: Images) -> NDArray[np.float32]:
    """Return what a glance tells of each image, (N, 288): 16 x 16 means and a histogram of 32 grays."""
    return np.array([_glance(pixels) for pixels in images.pixels], np.float32)


def _glance(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = Image.fromarray(pixels).resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    grays = np.bincount(pixels.ravel() // (256 // _GRAYS), minlength=_GRAYS) / pixels.size
    return np.concatenate([np.asarray(small).ravel() / 255, grays])


def _guess(
    images: Images,
    answers: NDArray[np.str_],
    features: NDArray[np.float32] | NDArray[np.str_],
    asked: str,
    known: str,
    among: str = "",
) -> Iterator[Guess]:
    families = split.families(images)
    enough = [each for each in np.unique(answers) if len(set(families[answers == each])) >= _FEWEST]
    if len(enough) < 2:
        return
    chosen = np.isin(answers, enough)
    answers = answers[chosen]
    probabilities = _cross_validated(features[chosen], answers, families[chosen])
    names, counts = np.unique(answers, return_counts=True)
    yield Guess(
        asked,
        known,
        among,
        len(answers),
        {
            str(name): float(roc_auc_score(answers == name, of))
            for name, of in zip(names, probabilities.T, strict=True)
        },
        accuracy=float(np.mean(answers == names[probabilities.argmax(axis=1)])),
        commonest=float(counts.max() / counts.sum()),
    )


def _cross_validated(
    features: NDArray[np.float32] | NDArray[np.str_], answers: NDArray[np.str_], families: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Probabilities (n, K) of the sorted answers, each by a model that has not seen the patient."""
    scaled = OneHotEncoder(handle_unknown="ignore") if features.dtype.kind == "U" else StandardScaler()
    probabilities: NDArray[np.float64] = cross_val_predict(
        make_pipeline(scaled, LogisticRegression(C=0.1, tol=1e-2, max_iter=1000)),
        features,
        answers,
        groups=families,
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0),
        method="predict_proba",
    )
    return probabilities
