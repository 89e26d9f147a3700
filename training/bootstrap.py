"""Intervals: every figure of an evaluation again for patients drawn anew, many times over.

A patient's images are alike, so patients are drawn, not images (a cluster bootstrap; Efron and Tibshirani, An
Introduction to the Bootstrap, 1993). Drawing a patient twice weighs its images twice, and so all repeats are
computed at once from weights (R, N): R repeats of N images. With weights all 1 the functions here give what
scikit-learn gives, where it has the figure.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Equally wide bins of confidence, for the expected calibration error."""
_AT_ONCE = 4_000_000  # weights in memory at a time

Values = dict[str, NDArray[np.float64]]
"""Figures by name, each (R,) or, one for each answer, (R, K); NaN where a repeat cannot tell."""


def interval(
    statistics: Callable[[NDArray[np.float64]], Values], patients: NDArray[np.str_], repeats: int, seed: int
) -> Values:
    """Return each figure's 2.5th and 97.5th percentile, (2,) or (2, K), over repeats that can tell it."""
    chunks = [statistics(weights) for weights in draws(patients, repeats, seed)]
    return {name: _percentiles(np.concatenate([chunk[name] for chunk in chunks])) for name in chunks[0]}


def draws(patients: NDArray[np.str_], repeats: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield weights (R, N), in all `repeats` rows: how often each image's patient was drawn."""
    names, patient_of = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    most = max(1, _AT_ONCE // len(patients))
    for start in range(0, repeats, most):
        size = min(most, repeats - start)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        yield drawn[:, patient_of].astype(np.float64)


def _percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = values.reshape(len(values), -1).T
    ends = [
        np.percentile(told, (2.5, 97.5)) if len(told) else (np.nan, np.nan) for told in map(_told, columns)
    ]
    return np.array(ends).T.reshape((2, *values.shape[1:]))


def _told(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return part / whole, NaN where the whole is nothing."""
    nothing = np.full(np.broadcast(part, whole).shape, np.nan)
    return np.asarray(np.divide(part, whole, out=nothing, where=whole > 0))


def mean(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (R,), the weighted means of values (N,)."""
    return np.asarray(weights @ values / weights.sum(axis=1))


def confusion(
    weights: NDArray[np.float64], labels: NDArray[np.int64], said: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Return (R, K, K) weighted counts; rows are the truth."""
    cells = np.eye(count * count)[labels * count + said]
    return np.asarray((weights @ cells).reshape(-1, count, count))


def counted(table: NDArray[np.float64]) -> Values:
    """Return what follows from confusion tables (R, K, K), each (R, K), and accuracy (R,)."""
    right = np.diagonal(table, axis1=1, axis2=2)
    truth, said, total = table.sum(axis=2), table.sum(axis=1), table.sum(axis=(1, 2))[:, None]
    return {
        "accuracy": right.sum(axis=1) / total[:, 0],
        "precision": share(right, said),
        "recall": share(right, truth),
        "specificity": share(total - truth - said + right, total - truth),
        "f1": np.where(truth > 0, share(2 * right, truth + said), np.nan),
    }


def ranked(weights: NDArray[np.float64], scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Values:
    """Return AUROC (ties count half) and average precision, (R,), of scores (N,) that tell positives."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    hits = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    misses = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    hits_so_far, misses_so_far = hits.cumsum(axis=1), misses.cumsum(axis=1)
    positives, negatives = hits_so_far[:, -1], misses_so_far[:, -1]
    above = negatives[:, None] - misses_so_far + misses / 2
    precision = hits_so_far / np.maximum(hits_so_far + misses_so_far, 1)
    return {
        "auroc": share((hits * above).sum(axis=1), positives * negatives),
        "average_precision": share((hits * precision).sum(axis=1), positives),
    }


def calibration_error(
    weights: NDArray[np.float64], confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the expected calibration error, (R,), 0 to 1 (Guo et al., ICML 2017), over `BINS` bins."""
    gaps = np.eye(BINS)[bin_of(confidence)] * (right - confidence)[:, None]
    return np.asarray(np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1))


def bin_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(np.minimum((confidence * BINS).astype(np.int64), BINS - 1))


def selective(
    weights: NDArray[np.float64],
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    coverages: tuple[float, ...],
) -> NDArray[np.float64]:
    """Return (R, C), the accuracy among the surest images, as many as each coverage says."""
    order = np.argsort(-confidence, kind="stable")
    so_far = weights[:, order].cumsum(axis=1)
    right_so_far = (weights[:, order] * right[order]).cumsum(axis=1)
    wanted = [coverage * so_far[:, -1:] - 1e-9 for coverage in coverages]
    last = np.stack([(so_far < enough).sum(axis=1) for enough in wanted], axis=1)
    return share(np.take_along_axis(right_so_far, last, axis=1), np.take_along_axis(so_far, last, axis=1))
