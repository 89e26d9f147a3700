"""The page of an evaluation: every figure, the pictures, and what the network got wrong and was sure of."""

import base64
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hilum.engine import Engine
from hilum.gradcam import heat_map
from hilum.network import LABELS, Head
from training import card, evaluate, plots
from training.data import PHANTOM
from training.evaluate import HONEST, PHANTOMS, POOLED, Question, softmax
from training.figures import percent, told
from training.report import Answers, Evaluation

_FIRST = (POOLED, *HONEST, PHANTOMS)
_WORST = 24
_OPAQUE = 0.6  # of the colours where the heat is greatest
_TEMPLATES = Path(__file__).parent / "templates"


def rendered(evaluation: Evaluation, engine: Engine) -> str:
    """Return the whole report as one HTML page that needs no other file and no internet.

    The engine that gave the answers is asked again where it looked in the worst of them.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"told": told, "percent": percent}
    return environment.get_template("evaluation.html").render(
        about=evaluation.about,
        slices=evaluation.slices,
        first=[name for name in _FIRST if _has_figures(evaluation, name)],
        why_not=card.why_not(evaluation.slices),
        pictures=[[_embedded(plots.png(figure), "png") for figure in row] for row in _pictures(evaluation)],
        worst=list(_worst(evaluation.answers, engine)),
        has_map=engine.artefact.has_map,
    )


def _has_figures(evaluation: Evaluation, name: str) -> bool:
    return name in evaluation.slices and not evaluation.slices[name]["too_few"]


def _pictures(evaluation: Evaluation) -> Iterator[list[Figure]]:
    """Rows of figures."""
    answers, slices = evaluation.answers, evaluation.slices
    questions = {
        name: question
        for name, question in evaluate.questions(answers.images).items()
        if name in _FIRST and _has_figures(evaluation, name)
    }
    if questions:
        yield [
            plots.forest(slices, "accuracy", "Accuracy, and | for always the commonest"),
            plots.forest(slices, "macro_auroc", "Macro AUROC"),
        ]
    yield [plots.classes(answers.images), *_calibration(answers, questions)]
    for name, question in questions.items():
        yield [plots.roc(question, *answers.of(question), name), plots.confusion(slices[name], name)]
    if questions:
        yield [plots.coverage({name: answers.of(question) for name, question in questions.items()})]


def _calibration(answers: Answers, questions: Mapping[str, Question]) -> Iterator[Figure]:
    if POOLED in questions:
        chosen = questions[POOLED].chosen
        before = softmax(answers.logits[chosen])
        curves = {"after temperature": answers.probabilities[chosen], "before": before}
        yield plots.reliability(curves, answers.images.labels[chosen])


def _worst(answers: Answers, engine: Engine) -> Iterator[dict[str, str]]:
    """The most confident wrong answers on radiographs; told by the file's digest, never by the patient."""
    said, sure = answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1)
    wrong = np.flatnonzero((said != answers.images.labels) & (answers.images.sources != PHANTOM))
    head = engine.artefact.head()
    for index in wrong[np.argsort(-sure[wrong], kind="stable")][:_WORST]:
        truth, pixels = int(answers.images.labels[index]), np.asarray(answers.images.pixels[index])
        features = engine.read(pixels[None]).features[0]
        yield {
            "picture": _embedded(_jpeg(pixels), "jpeg"),
            "heat": _embedded(_jpeg(_heated(pixels, head, features, said[index])), "jpeg"),
            "truth": f"{LABELS[truth]} ({100 * answers.probabilities[index, truth]:.0f} %)",
            "said": f"{LABELS[said[index]]} ({100 * sure[index]:.0f} %)",
            "source": str(answers.images.sources[index]),
            "digest": str(answers.images.digests[index])[:12],
        }


def _heated(
    pixels: NDArray[np.uint8], head: Head, features: NDArray[np.float32], class_index: int
) -> NDArray[np.uint8]:
    """The image under its heat map; as it is where a network has no map."""
    if features.ndim != 3:
        return pixels
    small = Image.fromarray((255 * heat_map(head, features, class_index)).astype(np.uint8))
    heat = np.asarray(small.resize(pixels.shape[::-1], Image.Resampling.BICUBIC)) / 255
    colours, opaque = colormaps["inferno"](heat)[..., :3] * 255, _OPAQUE * heat[..., None]
    return np.asarray(pixels[..., None] * (1 - opaque) + colours * opaque, np.uint8)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg", quality=85)
    return content.getvalue()


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
