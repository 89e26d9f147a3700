"""Figures: what answers to one question are worth, with intervals by a bootstrap.

Values come from scikit-learn where it has them; specificity, what thresholds reach, the expected calibration
error and accuracy by coverage are counted in `training.bootstrap`, as all intervals are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from hilum.network import LABELS
from training import bootstrap

FEWEST_IMAGES, FEWEST_PATIENTS, FEWEST_OF_A_CLASS = 20, 10, 5
SPECIFICITIES = (0.90, 0.95)
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
REPEATS = 1000

Thresholds = Mapping[str, Mapping[str, float]]
"""By label and specificity ("0.90"): the probability from which on the label is said."""


def figures(
    probabilities: NDArray[np.float64],
    truth: NDArray[np.int64],
    patients: NDArray[np.str_],
    answers: tuple[str, ...] = LABELS,
    *,
    uncalibrated: NDArray[np.float64] | None = None,
    chosen_before: Thresholds | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of one slice: probabilities (N, K) of K answers, the true ones (N,), whose they are.

    A *figure* is {"value", "low", "high"}: the value, and the 95 % interval of a bootstrap over patients
    (`training.bootstrap`); null where it is not defined.

    images, patients: how many. answers: the K of them; confusion: as many rows (the truth) and columns of
    counts. truth: images by answer.
    too_few: why there are no more figures than these; null where there are:
    accuracy, and commonest, what always saying the slice's commonest answer gets.
    judged: the answers that at least `FEWEST_OF_A_CLASS` images have; macro_f1 and macro_auroc are over them.
    classes: by judged answer the figures precision, recall, specificity, f1, auroc (one against the rest),
    average_precision; and operating_points by specificity: the threshold, where it was chosen, and the
    figures sensitivity and specificity.
    calibration: "after" the temperature and, if `uncalibrated` is given, "before" it: ece (of the likeliest
    answer), brier (squared differences summed over the answers, 0 to 2), log_loss.
    coverage: {"coverage", "confidence", "accuracy"}: accuracy among the surest part, and how sure they are
    at least.
    """
    said = probabilities.argmax(axis=1)
    counts = np.bincount(truth, minlength=len(answers))
    judged = np.flatnonzero(counts >= FEWEST_OF_A_CLASS)
    about = {
        "images": len(truth),
        "patients": len(np.unique(patients)),
        "answers": list(answers),
        "truth": dict(zip(answers, counts.tolist(), strict=True)),
        "confusion": confusion_matrix(truth, said, labels=range(len(answers))).tolist(),
        "too_few": _too_few(counts, patients),
    }
    if about["too_few"]:
        return about
    slice_ = _Slice(probabilities, truth, uncalibrated, judged, answers, chosen_before)
    values = slice_.values()
    ends = bootstrap.interval(slice_.drawn, patients, repeats, seed)
    return about | slice_.written({name: np.stack([values[name], *ends[name]]) for name in values})


def _too_few(counts: NDArray[np.int64], patients: NDArray[np.str_]) -> str | None:
    if counts.sum() < FEWEST_IMAGES:
        return f"fewer than {FEWEST_IMAGES} images"
    if len(np.unique(patients)) < FEWEST_PATIENTS:
        return f"fewer than {FEWEST_PATIENTS} patients"
    if (counts >= FEWEST_OF_A_CLASS).sum() < 2:
        return f"fewer than two classes with {FEWEST_OF_A_CLASS} images"
    return None


def thresholds(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Return for each label that is there, not everywhere, the lowest threshold that keeps a specificity."""
    return _thresholds(probabilities.astype(np.float64), truth, LABELS)


def _thresholds(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], answers: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    return {
        answer: {
            f"{wanted:.2f}": _threshold(probabilities[:, k], truth == k, wanted) for wanted in SPECIFICITIES
        }
        for k, answer in enumerate(answers)
        if 0 < np.count_nonzero(truth == k) < len(truth)
    }


def _threshold(scores: NDArray[np.float64], positive: NDArray[np.bool_], specificity: float) -> float:
    false_alarms, _, edges = roc_curve(positive, scores, drop_intermediate=False)
    return float(min(edges[np.flatnonzero(false_alarms <= 1 - specificity + 1e-9)[-1]], 1.0))


class _Slice:
    """One slice's figures, computed once as they are and again for patients drawn anew."""

    def __init__(
        self,
        probabilities: NDArray[np.float64],
        truth: NDArray[np.int64],
        uncalibrated: NDArray[np.float64] | None,
        judged: NDArray[np.int64],
        answers: tuple[str, ...],
        chosen_before: Thresholds | None,
    ) -> None:
        self.probabilities, self.truth, self.judged, self.answers = probabilities, truth, judged, answers
        self.said, self.confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        self.right = self.said == truth
        self.calibrated = {"after": probabilities}
        if uncalibrated is not None:
            self.calibrated["before"] = uncalibrated
        before, same = chosen_before or {}, _thresholds(probabilities, truth, answers)
        self.thresholds = [{**same, **before}[answers[k]] for k in judged]
        self.chosen_on = ["other patients" if answers[k] in before else "these images" for k in judged]

    def values(self) -> bootstrap.Values:
        every = range(len(self.answers))
        precision, recall, f1, _ = precision_recall_fscore_support(
            self.truth, self.said, labels=self.judged, zero_division=np.nan
        )
        values = {
            "accuracy": np.array(accuracy_score(self.truth, self.said)),
            "macro_f1": np.array(f1_score(self.truth, self.said, average="macro", labels=self.judged)),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "auroc": np.array(
                [roc_auc_score(self.truth == k, self.probabilities[:, k]) for k in self.judged]
            ),
            "average_precision": np.array(
                [average_precision_score(self.truth == k, self.probabilities[:, k]) for k in self.judged]
            ),
        }
        values["macro_auroc"] = values["auroc"].mean()
        for when, probabilities in self.calibrated.items():
            values[f"ece {when}"] = self._calibration_error(np.ones((1, len(self.truth))), probabilities)[0]
            values[f"brier {when}"] = np.array(
                brier_score_loss(self.truth, probabilities, labels=every, scale_by_half=False)
            )
            values[f"log_loss {when}"] = np.array(log_loss(self.truth, probabilities, labels=every))
        once = self.drawn(np.ones((1, len(self.truth))))
        return {name: values.get(name, told[0]) for name, told in once.items()}

    def drawn(self, weights: NDArray[np.float64]) -> bootstrap.Values:
        """Return every figure for images weighted anew, (R, N): (R,), or (R, J) by judged answer."""
        table = bootstrap.confusion(weights, self.truth, self.said, len(self.answers))
        told = bootstrap.counted(table)
        told = {name: told[name] if name == "accuracy" else told[name][:, self.judged] for name in told}
        ranks = [
            bootstrap.ranked(weights, self.probabilities[:, k], self.truth == k) for k in self.judged.tolist()
        ]
        for name in ("auroc", "average_precision"):
            told[name] = np.stack([rank[name] for rank in ranks], axis=1)
        told["macro_f1"] = _mean_of_known(told["f1"])
        told["macro_auroc"] = _mean_of_known(told["auroc"])
        told["coverage"] = bootstrap.selective(weights, self.confidence, self.right, COVERAGES)
        return told | self._operating(weights) | self._calibration(weights)

    def _operating(self, weights: NDArray[np.float64]) -> bootstrap.Values:
        told = {}
        for wanted in (f"{specificity:.2f}" for specificity in SPECIFICITIES):
            edges = np.array([thresholds[wanted] for thresholds in self.thresholds])
            positive = self.truth[:, None] == self.judged
            alarm = self.probabilities[:, self.judged] >= edges
            told[f"sensitivity {wanted}"] = bootstrap.share(weights @ (positive & alarm), weights @ positive)
            told[f"specificity {wanted}"] = bootstrap.share(
                weights @ ~(positive | alarm), weights @ ~positive
            )
        return told

    def _calibration(self, weights: NDArray[np.float64]) -> bootstrap.Values:
        told = {}
        certain = np.eye(len(self.answers))[self.truth]
        for when, probabilities in self.calibrated.items():
            of_truth = np.maximum(probabilities[certain > 0], np.finfo(np.float64).eps)
            told[f"ece {when}"] = self._calibration_error(weights, probabilities)
            told[f"brier {when}"] = bootstrap.mean(weights, np.square(probabilities - certain).sum(axis=1))
            told[f"log_loss {when}"] = bootstrap.mean(weights, -np.log(of_truth))
        return told

    def _calibration_error(
        self, weights: NDArray[np.float64], probabilities: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        right = probabilities.argmax(axis=1) == self.truth
        return bootstrap.calibration_error(weights, probabilities.max(axis=1), right)

    def written(self, told: bootstrap.Values) -> dict[str, Any]:
        """Return figures (3,) or (3, J): value, low and high, as JSON has them."""
        kept = {name: _figure(told[name]) for name in ("accuracy", "macro_f1", "macro_auroc")}
        sure = np.sort(self.confidence)[::-1]
        last = [int(np.ceil(coverage * len(sure) - 1e-9)) - 1 for coverage in COVERAGES]
        return {
            **kept,
            "commonest": _rounded(float(np.bincount(self.truth).max() / len(self.truth))),
            "judged": [self.answers[k] for k in self.judged],
            "classes": {self.answers[k]: self._class(j, told) for j, k in enumerate(self.judged)},
            "calibration": {
                when: {name: _figure(told[f"{name} {when}"]) for name in ("ece", "brier", "log_loss")}
                for when in self.calibrated
            },
            "coverage": [
                {
                    "coverage": coverage,
                    "confidence": _rounded(float(sure[last[place]])),
                    "accuracy": _figure(told["coverage"][:, place]),
                }
                for place, coverage in enumerate(COVERAGES)
            ],
        }

    def _class(self, j: int, told: bootstrap.Values) -> dict[str, Any]:
        names = ("precision", "recall", "specificity", "f1", "auroc", "average_precision")
        points = {
            wanted: {
                "threshold": _rounded(threshold),
                "chosen_on": self.chosen_on[j],
                "sensitivity": _figure(told[f"sensitivity {wanted}"][:, j]),
                "specificity": _figure(told[f"specificity {wanted}"][:, j]),
            }
            for wanted, threshold in self.thresholds[j].items()
        }
        return {**{name: _figure(told[name][:, j]) for name in names}, "operating_points": points}


def _mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    return bootstrap.share(np.where(known, values, 0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def _figure(told: NDArray[np.float64]) -> dict[str, float | None]:
    return dict(zip(("value", "low", "high"), map(_rounded, told.tolist()), strict=True))


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def told(figure: Mapping[str, float | None], *, digits: int = 3) -> str:
    """Return a figure as people read it: 0.579 (0.508–0.646); – where it is not defined."""
    shown = [
        "–" if figure[name] is None else f"{figure[name]:.{digits}f}" for name in ("value", "low", "high")
    ]
    return shown[0] if shown[1] == "–" else f"{shown[0]} ({shown[1]}–{shown[2]})"


def percent(figure: Mapping[str, float | None]) -> str:
    """Return a figure as people read it: 58 % (51–65)."""
    shown = [
        "–" if figure[name] is None else f"{100 * (figure[name] or 0):.0f}"
        for name in ("value", "low", "high")
    ]
    return f"{shown[0]} % ({shown[1]}–{shown[2]})"
