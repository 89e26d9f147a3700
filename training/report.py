"""The report: a network read against labelled images, as a JSON file and a table in the terminal.

The JSON file holds:
schema: 1; another number when a name changes its meaning. created.
network: version, digest, architecture, temperature. engine: name, device, precision.
images: count, patients, part ("test", "split" or "all"), and learnt_from: how many images of patients whom
the network learnt from are among them, null where it does not tell.
method: repeats and seed of the bootstrap.
slices: by name, see `training.figures.figures`; and not_assessed: how many of the images would not be
assessed at work, because they look strange to the network. They are in the figures all the same.
differences: from the figures of the network's card, in words; null where they were not asked for.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Table

from hilum.engine import Engine, choose_engine
from hilum.errors import HilumError
from hilum.network import LABELS, Artefact, describe
from hilum.strangeness import LIMIT
from training import card, data, evaluate, split
from training.data import PHANTOM, Images
from training.evaluate import HONEST, POOLED, Question, softmax
from training.figures import REPEATS, percent, thresholds, told
from training.unseen import LEARNT, NothingUnseen, held_out_phantoms, remembering, unseen

Part = Literal["test", "all"]

MEASURED = "measured"
"""In a manifest that has figures: the engine that read the images for them."""

_SCHEMA, _SEED = 1, 0
_BATCH = 8
ACCURACY_APART, AUROC_APART = 0.01, 0.005
"""What the rounding of another engine or precision explains between two readings of the same images."""


class NotMeasured(HilumError):
    """The person who evaluates must take another network, or ask for no comparison."""


@dataclass(frozen=True)
class Answers:
    """What a network says of images, index for index."""

    images: Images
    logits: NDArray[np.float32]
    """(N, 4), before the temperature."""
    probabilities: NDArray[np.float64]
    """(N, 4), after it."""
    strange: NDArray[np.bool_]
    """(N,), those that are not assessed at work, because they look strange to the network."""

    def of(self, question: Question) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return probabilities (n, K) of a question's answers, and the true ones (n,)."""
        chosen = question.chosen
        return question.put(self.probabilities[chosen]), question.truth(self.images.labels[chosen])


@dataclass(frozen=True)
class Evaluation:
    """A network's answers, and what they are worth."""

    answers: Answers
    about: Mapping[str, Any]
    """What the JSON file holds."""

    def json(self) -> str:
        return json.dumps(self.about, indent=1, allow_nan=False) + "\n"

    @property
    def slices(self) -> Mapping[str, Any]:
        slices: Mapping[str, Any] = self.about["slices"]
        return slices


def read(engine: Engine, images: Images) -> Answers:
    """Return an engine's answers; a progress bar tells how far it is."""
    logits, ood = [np.zeros((0, len(LABELS)), np.float32)], [np.zeros(0, np.float32)]
    for start in track(range(0, len(images), _BATCH), "reading", transient=True):
        reading = engine.read(np.ascontiguousarray(images.pixels[start : start + _BATCH]))
        logits.append(reading.logits)
        ood.append(reading.ood)
    said = np.concatenate(logits)
    probabilities = softmax(said / engine.artefact.temperature)
    return Answers(images, said, probabilities, np.concatenate(ood) > LIMIT)


def evaluated(
    engine: Engine,
    images: Images,
    *,
    part: Part = "test",
    split_file: Path | None = None,
    as_in_card: bool = False,
    repeats: int = REPEATS,
) -> Evaluation:
    """Return what an engine's network is worth on images.

    "test" leaves out whom the network learnt from (`training.unseen`) or, with a split file, takes what is in
    its test part; "all" takes all. `as_in_card` adds the phantoms on which it was tested, and compares with
    the figures of its card.

    Raises
    ------
    NothingUnseen
        If no image is left, or the network does not tell whom it learnt from.
    NotMeasured
        If a card is asked for that has no figures.
    """
    artefact = engine.artefact
    if as_in_card and MEASURED not in artefact.manifest:
        raise NotMeasured(
            f"the network in {artefact.folder} has no figures to compare with: `hilum train` makes them"
        )
    chosen = _chosen(artefact, images, part, split_file)
    taken = images.where(chosen)
    if as_in_card:
        taken = data.together([taken, held_out_phantoms(artefact.manifest)])
    answers = read(engine, taken)
    slices = _figures(answers, artefact.manifest.get("thresholds"), repeats)
    about = {
        "schema": _SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "network": _named(artefact),
        "engine": _described(engine),
        "images": {
            "count": len(taken),
            "patients": len(np.unique(taken.patients)),
            "part": "split" if split_file else part,
            "learnt_from": _learnt_from(artefact, images, chosen),
        },
        "method": {"repeats": repeats, "seed": _SEED},
        "slices": slices,
        "differences": differences(slices, artefact.manifest["metrics"]) if as_in_card else None,
    }
    return Evaluation(answers, about)


def measure(artefact: Artefact, everything: Images, parts: NDArray[np.str_]) -> Artefact:
    """Return the artefact with its figures, read from it as at work, in its manifest, and with its card.

    Validation images give the thresholds of the operating points, so that it has learnt from them, test
    images the figures: those of patients whom it has not learnt from, where it tells.
    """
    artefact = remembering(artefact, everything, parts, artefact)
    engine = choose_engine(artefact)
    validation, test = (
        read(engine, everything.where(chosen)) for chosen in _judging(artefact, everything, parts)
    )
    real = validation.images.sources != PHANTOM
    chosen = thresholds(validation.probabilities[real], validation.images.labels[real])
    described = {
        "thresholds": chosen,
        "metrics": _figures(test, chosen, REPEATS),
        MEASURED: _described(engine),
    }
    measured = describe(artefact, described)
    (measured.folder / "MODEL_CARD.md").write_text(card.render(measured.manifest), encoding="utf-8")
    return measured


def _judging(
    artefact: Artefact, everything: Images, parts: NDArray[np.str_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The images that give thresholds, and those that give figures."""
    is_new = unseen(artefact, everything) if LEARNT in artefact.manifest["sha256"] else True
    return parts == "validation", (parts == "test") & is_new


def _figures(answers: Answers, chosen: Any, repeats: int) -> dict[str, Any]:
    slices = evaluate.report(
        answers.probabilities,
        answers.images,
        logits=answers.logits,
        thresholds=chosen,
        repeats=repeats,
        seed=_SEED,
    )
    for name, question in evaluate.questions(answers.images).items():
        slices[name]["not_assessed"] = int(np.count_nonzero(answers.strange[question.chosen]))
    return slices


def _described(engine: Engine) -> dict[str, str]:
    return {"name": engine.name, "device": engine.device, "precision": engine.precision}


def _named(artefact: Artefact) -> dict[str, Any]:
    return {
        "version": artefact.version,
        "digest": artefact.digest,
        "architecture": artefact.manifest["architecture"],
        "temperature": artefact.temperature,
    }


def _chosen(artefact: Artefact, images: Images, part: Part, split_file: Path | None) -> NDArray[np.bool_]:
    if split_file is None:
        return unseen(artefact, images) if part == "test" else np.ones(len(images), np.bool_)
    chosen = np.asarray(split.read(split_file, images) == "test")
    if not chosen.any():
        raise NothingUnseen(
            f"the test part of {split_file} has none of these images: give those it was made from"
        )
    return chosen


def _learnt_from(artefact: Artefact, images: Images, chosen: NDArray[np.bool_]) -> int | None:
    if LEARNT not in artefact.manifest["sha256"]:
        return None
    try:
        return int(np.count_nonzero(chosen & ~unseen(artefact, images)))
    except NothingUnseen:
        return int(np.count_nonzero(chosen))


def differences(slices: Mapping[str, Any], card_slices: Mapping[str, Any]) -> list[str]:
    """Return, in words, where figures differ from a card's by more than another engine's rounding explains.

    Between bf16 and fp32 the first network's differ by 0.001 at most. A single image may always differ.
    """
    return [
        f"{name}: {words}"
        for name, of in card_slices.items()
        for words in (_differing(slices[name], of) if name in slices else ["not among these images"])
    ]


def _differing(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[str]:
    if now["truth"] != then["truth"]:
        yield f"{now['images']} images, in the card {then['images']}, or other classes"
    elif then["too_few"] is None:
        alike = {"accuracy": max(ACCURACY_APART, 1 / then["images"]), "macro_auroc": AUROC_APART}
        for name, allowed in alike.items():
            apart = abs(now[name]["value"] - then[name]["value"])
            if apart > allowed + 1e-5:
                yield f"{name} {now[name]['value']:.3f}, {then[name]['value']:.3f} in the card"


def summary(evaluation: Evaluation) -> Table:
    """Return the figures that people look for first, as a table for a terminal."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("slice", "images", "accuracy (95 %)", "commonest", "macro F1", "macro AUROC", "ECE"):
        table.add_column(header, justify="left" if header == "slice" else "right", overflow="fold")
    for name, of in evaluation.slices.items():
        if of["too_few"]:
            table.add_row(name, str(of["images"]), of["too_few"], style="dim")
            continue
        cells = [percent(of["accuracy"]), f"{100 * of['commonest']:.0f} %", told(of["macro_f1"])]
        cells += [told(of["macro_auroc"]), f"{of['calibration']['after']['ece']['value']:.3f}"]
        table.add_row(name, str(of["images"]), *cells, style="bold" if name in (POOLED, *HONEST) else None)
    return table


def words(evaluation: Evaluation) -> Iterator[str]:
    """Yield what the table does not tell: who was among the images, and whether all is as in the card."""
    about, engine = evaluation.about, evaluation.about["engine"]
    learnt_from = about["images"]["learnt_from"]
    yield f"read by {engine['name']} in {engine['precision']} on {engine['device']}"
    if learnt_from is None:
        yield "[bold]The network does not tell whom it learnt from: those patients may be among these.[/]"
    elif learnt_from:
        yield f"[bold]{learnt_from} of these images are of patients it learnt from: they flatter it.[/]"
    if about["differences"] is not None:
        yield "\n".join(f"not as in the card: {each}" for each in about["differences"]) or "as in the card"
