"""Drawings: what a person looks at first of a network that was judged, as files in the training's folder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from hilum.network import LABELS
from training import plots
from training.data import PHANTOM
from training.evaluate import FOUR, Question, softmax
from training.pictures import sheet
from training.report import Answers

FOLDER = "drawings"
WORST = "worst-errors.png"
"""It shows patients: who sees it must be allowed to."""
_SHOWN = 24


def draw(answers: Answers, folder: Path) -> None:
    """Draw answers to radiographs, phantoms left out; nothing is drawn where there are none.

    Confusion matrix, ROC and reliability, and a sheet of the surest wrong answers, the surest first.
    """
    real = answers.images.sources != PHANTOM
    if not real.any():
        return
    folder.mkdir(exist_ok=True)
    for name, figure in _figures(answers, Question(real, FOUR)):
        (folder / f"{name}.png").write_bytes(plots.png(figure))
    said, sure = answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1)
    wrong = np.flatnonzero(real & (said != answers.images.labels))
    surest = wrong[np.argsort(-sure[wrong], kind="stable")][:_SHOWN]
    if len(surest):
        sheet(answers.images, surest.tolist()).save(folder / WORST)


def _figures(answers: Answers, question: Question) -> Iterator[tuple[str, Figure]]:
    probabilities, truth = answers.of(question)
    counts = confusion_matrix(truth, probabilities.argmax(axis=1), labels=range(len(LABELS)))
    yield "confusion", plots.confusion({"confusion": counts, "answers": LABELS}, "Test patients")
    yield "roc", plots.roc(question, probabilities, truth, "Test patients")
    before = softmax(answers.logits[question.chosen])
    yield "reliability", plots.reliability({"after temperature": probabilities, "before": before}, truth)
