"""Evaluation: what a network's answers are worth, pooled and per source.

Where a radiograph comes from tells much of its class in public collections, so a pooled figure mostly
measures the source. The honest slices keep the source fixed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score
from sklearn.metrics import log_loss as _log_loss

from hilum.network import LABELS
from training.data import PHANTOM, Images

NIH, IEEE8023 = "nih-chestxray14", "ieee8023-covid-chestxray"
_BINS = 10


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return probabilities, (N, 4), of logits (N, 4)."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def log_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    return float(_log_loss(labels, softmax(logits), labels=range(len(LABELS))))


def temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return what to divide logits by so that probabilities fit best (Guo et al., ICML 2017), 0.25 to 8."""
    candidates = np.geomspace(0.25, 8, 200)
    return float(min(candidates, key=lambda candidate: log_loss(logits / candidate, labels)))


def short(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, float]:
    said = logits.argmax(axis=1)
    return {
        "accuracy": float((said == labels).mean()),
        "macro_f1": float(f1_score(labels, said, average="macro", labels=range(len(LABELS)))),
    }


def report(probabilities: NDArray[np.float64], images: Images) -> dict[str, dict[str, Any]]:
    """Return figures by slice: radiographs pooled, each source, the honest slices, and phantoms."""
    is_phantom = images.sources == PHANTOM
    covid_or_pneumonia = np.isin(images.labels, [LABELS.index("COVID-19"), LABELS.index("Pneumonia")])
    slices = {"radiographs": ~is_phantom}
    slices |= {str(source): images.sources == source for source in np.unique(images.sources)}
    slices[f"{IEEE8023}, COVID-19 against Pneumonia"] = (images.sources == IEEE8023) & covid_or_pneumonia
    return {
        name: figures(probabilities[chosen], images.labels[chosen])
        for name, chosen in slices.items()
        if chosen.any()
    }


def figures(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return the figures of one slice of images with these probabilities (N, 4) and true labels (N,).

    Any of the four labels may be answered; macro means are over the labels present. `recall`, `auroc` (one
    label against the others present) and `confusion` (rows are the truth) are by label; `commonest` is the
    accuracy of always answering the slice's commonest label.
    """
    said = probabilities.argmax(axis=1)
    present = [int(label) for label in np.unique(labels)]
    right = said == labels
    auroc = {
        LABELS[label]: float(roc_auc_score(labels == label, probabilities[:, label]))
        for label in present
        if len(present) > 1
    }
    return {
        "images": len(labels),
        "accuracy": float(right.mean()),
        "accuracy_95": interval(int(right.sum()), len(right)),
        "commonest": float(np.bincount(labels).max() / len(labels)),
        "macro_f1": float(f1_score(labels, said, average="macro", labels=present, zero_division=0)),
        "recall": {LABELS[label]: float(right[labels == label].mean()) for label in present},
        "auroc": auroc,
        "macro_auroc": float(np.mean(list(auroc.values()))) if auroc else None,
        "log_loss": float(_log_loss(labels, probabilities, labels=range(len(LABELS)))),
        "ece": calibration_error(probabilities, labels),
        "confusion": confusion_matrix(labels, said, labels=range(len(LABELS))).tolist(),
    }


def interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return float(middle - half), float(middle + half)


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error of the likeliest label, over ten equally wide bins, 0 to 1."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(_BINS)]
    return float(sum(gaps) / len(labels))
