"""Gains: how much better one network is than another, figure by figure, with intervals of a paired bootstrap.

Both networks answered the same images. In each repeat the same patients are drawn for both (see
`training.bootstrap`), and the difference of the two is what is looked at: what is hard for both cancels out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hilum.network import LABELS
from training import bootstrap
from training.data import PHANTOM, Images
from training.evaluate import POOLED, groups
from training.figures import FEWEST_OF_A_CLASS, REPEATS
from training.report import Answers

ACCURACY, MACRO_AUROC, BRIER, ECE = "accuracy", "macro AUROC", "Brier score", "calibration error"
NOT_ASSESSED = "share not assessed"

_Values = NDArray[np.float64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Gain:
    """One figure of two networks in one slice."""

    slice: str
    figure: str
    """As people read it: "accuracy", "sensitivity for Pneumonia"."""
    label: str
    """Whose figure it is; empty when it is of all."""
    images: int
    patients: int
    """How many it rests on; of an AUROC the fewer of those with and without the class."""
    champion: float
    challenger: float
    gain: float
    """How much better the challenger is, also where less is better; below 0 it is worse."""
    low: float
    high: float
    """The gain's 95 % interval."""


@dataclass(frozen=True)
class _Asked:
    """A figure of a slice, and how it is had from answers and weights (R, N) of their images: (R,)."""

    slice: str
    figure: str
    label: str
    rests_on: tuple[_Mask, ...]
    """The images that it rests on; of several masks the one of the fewest patients counts."""
    told: Callable[[Answers, _Values], _Values]
    less_is_better: bool = False


def gains(champion: Answers, challenger: Answers, *, repeats: int = REPEATS, seed: int = 0) -> list[Gain]:
    """Return the gains of a challenger over a champion who answered the same images; phantoms stay out.

    Of all radiographs: accuracy, macro AUROC, calibration error, Brier score (0 to 2), the share that looks
    strange and is not assessed, and by class sensitivity, specificity and AUROC. Of each source, view, sex
    and age group: accuracy, and sensitivity by class. A figure that is not defined is left out.
    """
    real = champion.images.sources != PHANTOM
    if not real.any():
        return []
    both = _of(champion, real), _of(challenger, real)
    images = both[0].images
    asked = [*_overall(images), *_by_group(images)]
    values = [_told(asked, answers, np.ones((1, len(images))))[:, 0] for answers in both]
    drawn = bootstrap.draws(images.patients, repeats, seed)
    differences = np.concatenate(
        [_told(asked, both[1], weights) - _told(asked, both[0], weights) for weights in drawn], axis=1
    )
    found = [
        _gain(each, images, before, now, apart)
        for each, before, now, apart in zip(asked, *values, differences, strict=True)
    ]
    return [each for each in found if not np.isnan([each.gain, each.low, each.high]).any()]


def _of(answers: Answers, chosen: _Mask) -> Answers:
    return Answers(
        answers.images.known_of(chosen),
        answers.logits[chosen],
        answers.probabilities[chosen],
        answers.strange[chosen],
    )


def _told(asked: list[_Asked], answers: Answers, weights: _Values) -> _Values:
    """Every figure, (F, R)."""
    return np.stack([each.told(answers, weights) for each in asked])


def _gain(asked: _Asked, images: Images, champion: float, challenger: float, differences: _Values) -> Gain:
    sign = -1 if asked.less_is_better else 1
    known = sign * differences[~np.isnan(differences)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (np.nan, np.nan)
    fewest = min(asked.rests_on, key=lambda mask: len(np.unique(images.patients[mask])))
    return Gain(
        slice=asked.slice,
        figure=asked.figure,
        label=asked.label,
        images=int(np.count_nonzero(fewest)),
        patients=len(np.unique(images.patients[fewest])),
        champion=float(champion),
        challenger=float(challenger),
        gain=float(sign * (challenger - champion)),
        low=float(low),
        high=float(high),
    )


def _overall(images: Images) -> Iterator[_Asked]:
    everything = np.ones(len(images), np.bool_)
    alone = partial(_Asked, POOLED, label="", rests_on=(everything,))
    yield alone(ACCURACY, told=partial(_mean, _right, everything))
    yield alone(MACRO_AUROC, told=_macro_auroc)
    yield alone(ECE, told=_calibration_error, less_is_better=True)
    yield alone(BRIER, told=partial(_mean, _brier, everything), less_is_better=True)
    yield alone(NOT_ASSESSED, told=partial(_mean, _strange, everything), less_is_better=True)
    for k, label in enumerate(LABELS):
        has = images.labels == k
        if has.any() and not has.all():
            of = partial(_Asked, POOLED, label=label)
            yield of(f"sensitivity for {label}", rests_on=(has,), told=partial(_mean, _right, has))
            yield of(
                f"specificity for {label}", rests_on=(~has,), told=partial(_mean, partial(_not_said, k), ~has)
            )
            yield of(f"AUROC for {label}", rests_on=(has, ~has), told=partial(_auroc, k))


def _by_group(images: Images) -> Iterator[_Asked]:
    for name, chosen in groups(images).items():
        if chosen.any():
            yield _Asked(name, ACCURACY, "", (chosen,), partial(_mean, _right, chosen))
        for k, label in enumerate(LABELS):
            if (has := chosen & (images.labels == k)).any():
                yield _Asked(name, f"sensitivity for {label}", label, (has,), partial(_mean, _right, has))


def _mean(
    of: Callable[[Answers], _Values | _Mask], chosen: _Mask, answers: Answers, weights: _Values
) -> _Values:
    return bootstrap.share(
        weights @ (of(answers) * chosen).astype(np.float64), weights @ chosen.astype(np.float64)
    )


def _said(answers: Answers) -> NDArray[np.int64]:
    return np.asarray(answers.probabilities.argmax(axis=1))


def _right(answers: Answers) -> _Mask:
    return np.asarray(_said(answers) == answers.images.labels)


def _not_said(k: int, answers: Answers) -> _Mask:
    return np.asarray(_said(answers) != k)


def _strange(answers: Answers) -> _Mask:
    return answers.strange


def _brier(answers: Answers) -> _Values:
    certain = np.eye(len(LABELS))[answers.images.labels]
    return np.asarray(np.square(answers.probabilities - certain).sum(axis=1))


def _calibration_error(answers: Answers, weights: _Values) -> _Values:
    return bootstrap.calibration_error(weights, answers.probabilities.max(axis=1), _right(answers))


def _auroc(k: int, answers: Answers, weights: _Values) -> _Values:
    return bootstrap.ranked(weights, answers.probabilities[:, k], answers.images.labels == k)["auroc"]


def _macro_auroc(answers: Answers, weights: _Values) -> _Values:
    """Over the classes with enough images; NaN where a repeat lacks one of them."""
    counts = np.bincount(answers.images.labels, minlength=len(LABELS))
    judged = np.flatnonzero((counts >= FEWEST_OF_A_CLASS) & (counts < len(answers.images)))
    if not len(judged):
        return np.full(len(weights), np.nan)
    return np.asarray(np.mean([_auroc(int(k), answers, weights) for k in judged], axis=0))
