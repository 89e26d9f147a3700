"""Evaluation: what a network's answers are worth, pooled and slice by slice.

Where a radiograph comes from tells much of its class in public collections, so a pooled figure mostly
measures the source. The honest slices keep the collection fixed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from sklearn.metrics import log_loss as _log_loss
from sklearn.model_selection import GroupKFold

from hilum.network import LABELS
from training.data import PHANTOM, Images
from training.figures import REPEATS, Thresholds, figures

NIH, HANNOVER, IEEE8023 = "nih-chestxray14", "hannover-covid19", "ieee8023-covid-chestxray"
POOLED, PHANTOMS = "radiographs", "phantoms"
NIH_CLASSES = "NIH: normal, pneumonia, other"
NIH_ABNORMAL = "NIH: normal against abnormal"
COVID_OR_PNEUMONIA = "ieee8023: COVID-19 against pneumonia"
HONEST = (NIH_CLASSES, NIH_ABNORMAL, COVID_OR_PNEUMONIA)
"""The slices that keep the collection fixed, so that telling collections apart gains nothing in them.

More they do not promise. A collection has images of several hospitals and views, which may still go with the
class: of the 134 COVID-19 images of ieee8023 from which Hilum's own network is made 83 are AP or supine,
of the 134 of pneumonia 48.
"""
BLIND = "told by the source alone"
FLATTERING = "flattering: NIH normal against Hannover COVID-19"

_ORDER = (POOLED, *HONEST, FLATTERING, BLIND, "source", "view", "sex", "age under", "age", PHANTOMS)
_AGES = {"under 16": (0, 16), "16-39": (16, 40), "40-64": (40, 65), "65 and over": (65, np.inf)}


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return probabilities, (N, 4), of logits (N, 4)."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def log_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    return float(_log_loss(labels, softmax(logits), labels=range(len(LABELS))))


TEMPERATURES = (0.25, 8.0)
"""The least and the greatest that is looked for; a network that needs more knows next to nothing."""


def temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return what to divide logits by so that probabilities fit best (Guo et al., ICML 2017).

    It lies within `TEMPERATURES`.
    """
    candidates = np.geomspace(*TEMPERATURES, 200)
    return float(min(candidates, key=lambda candidate: log_loss(logits / candidate, labels)))


def short(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, float]:
    said = logits.argmax(axis=1)
    return {
        "accuracy": float((said == labels).mean()),
        "macro_f1": float(f1_score(labels, said, average="macro", labels=range(len(LABELS)))),
    }


@dataclass(frozen=True)
class Question:
    """Some images, and the answers that are open for them."""

    chosen: NDArray[np.bool_]
    answers: Mapping[str, tuple[str, ...]]
    """By answer, the labels that it stands for; their probabilities are added, and all made to sum to 1."""
    asked: str = "which of the four labels"

    def put(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities (N, 4) as those of the answers, (N, K)."""
        columns = [[LABELS.index(label) for label in labels] for labels in self.answers.values()]
        summed = np.stack([probabilities[:, column].sum(axis=1) for column in columns], axis=1)
        return np.asarray(summed / np.maximum(summed.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))

    def truth(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return labels (N,) as indices of answers, -1 where no answer stands for the label."""
        answer_of = {name: index for index, names in enumerate(self.answers.values()) for name in names}
        return np.array([answer_of.get(name, -1) for name in LABELS])[labels]


FOUR = {label: (label,) for label in LABELS}


def questions(images: Images) -> dict[str, Question]:
    """Return what is asked of images, by name: pooled, by source, view, sex, age, the honest ones, phantoms.

    A slice of which there is no image is left out.
    """
    real = images.sources != PHANTOM
    slices = {POOLED: Question(real, FOUR)} | _honest(images) | {PHANTOMS: Question(~real, FOUR)}
    slices |= {name: Question(real & chosen, FOUR) for name, chosen in groups(images).items()}
    return {name: question for name, question in slices.items() if question.chosen.any()}


def groups(images: Images) -> dict[str, NDArray[np.bool_]]:
    """Return masks (N,) of a source, a view, a sex, an age, by name; some may be of no image."""
    groups = {f"source {source}": images.sources == source for source in np.unique(images.sources)}
    groups |= {f"view {view}": images.views == view for view in ("PA", "AP")}
    groups |= {f"sex {sex}": images.sexes == sex for sex in ("F", "M")}
    ages = images.ages_years
    return groups | {f"age {name}": (ages >= low) & (ages < high) for name, (low, high) in _AGES.items()}


def _honest(images: Images) -> dict[str, Question]:
    normal, pneumonia, covid = (images.labels == label for label in range(3))
    nih, hannover, ieee8023 = (images.sources == source for source in (NIH, HANNOVER, IEEE8023))
    three = {label: FOUR[label] for label in ("Normal", "Pneumonia", "Other")}
    abnormal = {"Normal": ("Normal",), "Abnormal": ("Pneumonia", "COVID-19", "Other")}
    two = {label: FOUR[label] for label in ("Pneumonia", "COVID-19")}
    pair = {label: FOUR[label] for label in ("Normal", "COVID-19")}
    return {
        NIH_CLASSES: Question(nih & ~covid, FOUR),
        f"{NIH_CLASSES}, of these three": Question(nih & ~covid, three, "which of the three"),
        NIH_ABNORMAL: Question(nih, abnormal, "Normal, or any of the others"),
        COVID_OR_PNEUMONIA: Question(ieee8023 & (covid | pneumonia), two, "which of the two"),
        FLATTERING: Question((nih & normal) | (hannover & covid), pair, "which of the two"),
    }


def report(
    probabilities: NDArray[np.floating],
    images: Images,
    *,
    logits: NDArray[np.floating] | None = None,
    thresholds: Thresholds | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return JSON-able figures by slice of what a network says of images it has not learnt from.

    `probabilities` (N, 4) are calibrated; of `logits` (N, 4), before temperature, the calibration before it
    is told as well. `thresholds` were chosen on other patients, see `thresholds`; without them they are
    chosen on the images themselves, and what they reach flatters.

    The slices are those of `questions`; see `figures` for what is in each. Where there are several sources,
    `BLIND` is the pooled slice as answered by who knows nothing of an image but its source.
    """
    calibrated = probabilities.astype(np.float64)
    uncalibrated = None if logits is None else softmax(logits)
    asked = questions(images)
    ask = partial(_figures_of, images=images, repeats=repeats, seed=seed)
    told = {
        name: ask(question, calibrated, uncalibrated=uncalibrated, chosen_before=thresholds)
        for name, question in asked.items()
    }
    if POOLED in asked and len(np.unique(images.sources[asked[POOLED].chosen])) > 1:
        told[BLIND] = ask(asked[POOLED], by_source(images, seed))
    return in_order(told)


def in_order(slices: Mapping[str, Any]) -> dict[str, Any]:
    """Return slices as people read them, the pooled and the honest ones first; JSON keeps no order."""

    def place(name: str) -> tuple[int, str]:
        begins = [index for index, begin in enumerate(_ORDER) if name.startswith(begin)]
        return (begins[0] if begins else len(_ORDER), name)

    return {name: slices[name] for name in sorted(slices, key=place)}


def _figures_of(
    question: Question,
    probabilities: NDArray[np.float64],
    *,
    images: Images,
    repeats: int,
    seed: int,
    uncalibrated: NDArray[np.float64] | None = None,
    chosen_before: Thresholds | None = None,
) -> dict[str, Any]:
    of = images.where(question.chosen)
    return {
        "asked": question.asked,
        **figures(
            question.put(probabilities[question.chosen]),
            question.truth(of.labels),
            of.patients,
            tuple(question.answers),
            uncalibrated=None if uncalibrated is None else question.put(uncalibrated[question.chosen]),
            chosen_before=chosen_before if question.answers is FOUR else None,
            repeats=repeats,
            seed=seed,
        ),
    }


def by_source(images: Images, seed: int) -> NDArray[np.float64]:
    """Return probabilities (N, 4): how often each label has an image's source among the other patients.

    "The others" are four of five folds of patients; phantoms count for nothing and get even probabilities.
    """
    told = np.full((len(images), len(LABELS)), 1 / len(LABELS))
    real = np.flatnonzero(images.sources != PHANTOM)
    names, source_of = np.unique(images.sources[real], return_inverse=True)
    labels, patients = images.labels[real], images.patients[real]
    if len(np.unique(patients)) < 2:
        return told
    folds = GroupKFold(min(5, len(np.unique(patients))), shuffle=True, random_state=seed)
    for others, fold in folds.split(real, groups=patients):
        table = np.ones((len(names), len(LABELS)))
        np.add.at(table, (source_of[others], labels[others]), len(LABELS))
        told[real[fold]] = (table / table.sum(axis=1, keepdims=True))[source_of[fold]]
    return told
