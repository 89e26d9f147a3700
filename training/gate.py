"""The gate: whether a challenger may stand as a candidate, judged against the champion on the same patients.

Both networks read the same frozen images, and every difference comes with a 95 % interval over patients
(`training.gains`). The rule (`Rule`) asks three things. Overall the challenger must be shown to be better.
Nowhere may it lose more than a margin: where there are enough cases that has to be shown (non-inferiority:
the whole interval lies within the margin); where there are fewer it must not be shown to be worse, and the
verdict says that they were too few. And it must be right on phantoms, whose answers are known.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.engine import Engine, choose_engine
from hilum.network import Artefact
from training.data import PHANTOM, Images
from training.evaluate import POOLED
from training.figures import FEWEST_PATIENTS, REPEATS
from training.gains import ACCURACY, BRIER, MACRO_AUROC, Gain, gains
from training.report import Answers, read
from training.unseen import LEARNT, NothingUnseen, unseen

SCHEMA = 1
BETTER, NOT_WORSE, WORSE = "better", "not worse", "worse"
NOT_SHOWN = "not shown to be as good"
TOO_FEW = "too few cases"
TOLD = "told, not judged"
"""What a comparison can come to: `BETTER` and `WORSE` are shown by its interval."""

EngineOf = Callable[[Artefact], Engine]


@dataclass(frozen=True)
class Rule:
    """What a challenger must show, as parts of 1; docs/learning.md says why these numbers."""

    margin: float = 0.05
    """A loss smaller than it would be borne in a slice, or of a class."""
    overall_margin: float = 0.02
    """Likewise in accuracy and macro AUROC of all radiographs."""
    least_cases: int = 100
    """Patients from which on it has to be shown that a loss is smaller than the margin.

    Of fewer than 3 / margin patients nothing could show it: where both networks agree on all n of them, the
    share of others on which they do not may still be 3 / n (the rule of three).
    """
    least_phantoms: float = 0.98
    """Share of phantoms to be answered rightly; or as many as the champion does, if those are fewer."""
    repeats: int = REPEATS
    """Of the bootstrap."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a challenger."""

    passed: bool
    sentences: tuple[str, ...]
    """Words that can be signed: the outcome, what refuses it, what it does better, and what nobody knows."""
    figures: Mapping[str, Any]
    """What it rests on."""
    answers: tuple[Answers, Answers] | None = field(default=None, compare=False, repr=False)
    """What champion and challenger said; None where it is not known any more."""

    def json(self) -> dict[str, Any]:
        """Return it as `training_runs.gate` keeps it.

        schema: 1. passed, sentences. rule: its numbers. images: count, patients, and left_out: of patients
        whom one of the networks has learnt from. phantoms: images, and how many each network answers rightly.
        comparisons: each with what `training.gains.Gain` says, margin and outcome. networks: version,
        digest, and the engine that read, of champion and challenger; missing where only answers were judged.
        """
        content = {"schema": SCHEMA, "passed": self.passed, "sentences": [*self.sentences], **self.figures}
        return dict(json.loads(json.dumps(content, allow_nan=False)))


def verdict_of(told: Mapping[str, Any]) -> Verdict:
    """Return the verdict that `Verdict.json` told."""
    figures = {name: value for name, value in told.items() if name not in ("schema", "passed", "sentences")}
    return Verdict(bool(told["passed"]), tuple(told["sentences"]), figures)


def judge(
    champion: Artefact,
    challenger: Artefact,
    images: Images,
    *,
    rule: Rule | None = None,
    engine_of: EngineOf = choose_engine,
) -> Verdict:
    """Return the verdict on a challenger: both networks read test images, held-out phantoms among them.

    Images of patients whom one of the networks has learnt from, as far as it tells, are left out.

    Raises NetworkError when one of the networks cannot be loaded.
    """
    taken = images.where(_fresh(champion, images) & _fresh(challenger, images))
    engines = [engine_of(champion), engine_of(challenger)]
    champion_s, challenger_s = (read(engine, taken) for engine in engines)
    verdict = compare(champion_s, challenger_s, rule=rule or Rule())
    left_out = len(images) - len(taken)
    said = f"{left_out} of {len(images)} test images were left out: a network has learnt from their patients."
    figures = {
        **verdict.figures,
        "images": {**verdict.figures["images"], "left_out": left_out},
        "networks": dict(zip(("champion", "challenger"), map(_named, engines), strict=True)),
    }
    sentences = (*verdict.sentences, *([said] if left_out else []))
    return Verdict(verdict.passed, sentences, figures, (champion_s, challenger_s))


def _fresh(artefact: Artefact, images: Images) -> NDArray[np.bool_]:
    """Whether a network can be asked about an image, (N,): one that does not tell is asked about all."""
    is_phantom = images.sources == PHANTOM
    if LEARNT not in artefact.manifest["sha256"]:
        return np.ones(len(images), np.bool_)
    try:
        return np.asarray(unseen(artefact, images) | is_phantom)
    except NothingUnseen:
        return np.asarray(is_phantom)


def _named(engine: Engine) -> dict[str, str]:
    artefact = engine.artefact
    read_by = f"{engine.name} in {engine.precision} on {engine.device}"
    return {"version": artefact.version, "digest": artefact.digest, "read_by": read_by}


def compare(champion: Answers, challenger: Answers, *, rule: Rule) -> Verdict:
    """Return the verdict on two networks' answers to the same images, phantoms among them.

    The same answers give the same verdict. Of two networks at most one passes against the other.
    """
    images = champion.images
    real = images.sources != PHANTOM
    patients, phantoms = len(np.unique(images.patients[real])), _phantoms(champion, challenger)
    found = gains(champion, challenger, repeats=rule.repeats)
    judged = [(gain, _outcome(gain, rule)) for gain in found]
    refusals = [*_refusals(judged, patients, rule), *_phantom_refusals(phantoms, rule)]
    figures = {
        "rule": asdict(rule),
        "images": {"count": int(np.count_nonzero(real)), "patients": patients},
        "phantoms": phantoms,
        "comparisons": [
            {**asdict(gain), "margin": _margin(gain, rule), "outcome": outcome} for gain, outcome in judged
        ],
    }
    return Verdict(not refusals, tuple(_sentences(judged, refusals, rule)), figures)


def _outcome(gain: Gain, rule: Rule) -> str:
    if gain.figure == BRIER:
        return TOLD
    if gain.patients < FEWEST_PATIENTS:
        return TOO_FEW
    if gain.high < 0 and (_is_overall(gain) or gain.gain < -rule.margin):
        return WORSE
    if gain.patients < rule.least_cases:
        return TOO_FEW
    if gain.low > 0:
        return BETTER
    if gain.low > -_margin(gain, rule):
        return NOT_WORSE
    return TOLD if _is_class_in_group(gain) else NOT_SHOWN


def _margin(gain: Gain, rule: Rule) -> float:
    return rule.overall_margin if _is_overall(gain) else rule.margin


def _is_overall(gain: Gain) -> bool:
    return gain.slice == POOLED and gain.figure in (ACCURACY, MACRO_AUROC)


def _is_class_in_group(gain: Gain) -> bool:
    """Of these there are so many that to ask proof of each would refuse nearly every network."""
    return gain.slice != POOLED and gain.label != ""


_Judged = Sequence[tuple[Gain, str]]


def _refusals(judged: _Judged, patients: int, rule: Rule) -> Iterator[str]:
    if patients < rule.least_cases:
        yield f"The test part has {patients} patients; {rule.least_cases} are needed to judge a network."
        return
    for gain, outcome in judged:
        if outcome == WORSE:
            yield f"Worse in {words(gain)}."
        if outcome == NOT_SHOWN:
            yield f"A loss of {_margin(gain, rule):.2f} or more cannot be ruled out in {words(gain)}."
    overall = [(gain, outcome) for gain, outcome in judged if _is_overall(gain)]
    if not any(outcome == BETTER for _, outcome in overall):
        yield f"Not better anywhere that counts. In {'; '.join(words(gain) for gain, _ in overall)}."


def _sentences(judged: _Judged, refusals: Sequence[str], rule: Rule) -> Iterator[str]:
    def those(outcome: str) -> list[Gain]:
        return [gain for gain, found in judged if found == outcome and not _is_class_in_group(gain)]

    yield "Refused." if refusals else "Passed."
    yield from refusals
    yield from (f"Better in {words(gain)}." for gain in those(BETTER))
    if kept := those(NOT_WORSE):
        yield f"Not worse by the margin in {_listed(kept)}."
    if few := those(TOO_FEW):
        yield (
            f"Too few patients to judge, so that nobody knows how it does in {_listed(few)}: "
            f"{rule.least_cases} are needed."
        )


def _listed(found: Sequence[Gain]) -> str:
    return "; ".join(f"{gain.slice}, {gain.figure} ({gain.patients})" for gain in found)


def words(gain: Gain) -> str:
    """Return a comparison in words: where, what, how much, and how sure that is."""
    return (
        f"{gain.slice}, {gain.figure}: {gain.challenger:.3f} instead of {gain.champion:.3f} in "
        f"{gain.patients} patients, {'better' if gain.gain > 0 else 'worse' if gain.gain < 0 else 'equal'} "
        f"by {abs(gain.gain):.3f} (95 % interval {gain.low:+.3f} to {gain.high:+.3f})"
    )


def _phantoms(champion: Answers, challenger: Answers) -> dict[str, int]:
    is_phantom = champion.images.sources == PHANTOM
    right = {
        name: int(np.count_nonzero(is_phantom & ~answers.strange & _right(answers)))
        for name, answers in (("champion", champion), ("challenger", challenger))
    }
    return {"images": int(np.count_nonzero(is_phantom)), **right}


def _right(answers: Answers) -> NDArray[np.bool_]:
    return np.asarray(answers.probabilities.argmax(axis=1) == answers.images.labels)


def _phantom_refusals(phantoms: Mapping[str, int], rule: Rule) -> Iterator[str]:
    count, right = phantoms["images"], phantoms["challenger"]
    if right < min(phantoms["champion"], rule.least_phantoms * count):
        yield (
            f"Of {count} phantoms only {right} are assessed and answered rightly, by the champion "
            f"{phantoms['champion']}: constancy checks rest on them."
        )
