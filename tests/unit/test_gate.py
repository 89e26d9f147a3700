"""What the gate says of challengers whose worth is known, because their answers are made up."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sklearn")
from hilum.network import LABELS
from tests.unit.test_evaluate import known_images
from training import data, gate
from training.data import PHANTOM, Images
from training.evaluate import POOLED, softmax
from training.gains import ACCURACY, MACRO_AUROC, Gain, gains
from training.gate import Rule, Verdict, compare
from training.report import Answers

REPEATS = 300
RULE = Rule(repeats=REPEATS)
Mask = NDArray[np.bool_]


def patients(count: int = 800, seed: int = 0, images_each: int = 1) -> Images:
    """Images of four classes, two rooms, both sexes and views; of each patient alike."""
    rng = np.random.default_rng(seed)

    def drawn(*names: str) -> NDArray[Any]:
        return np.repeat(np.array(names)[rng.integers(0, len(names), count)], images_each)

    return known_images(
        np.repeat(np.arange(count) % 4, images_each),
        patients=np.repeat([f"patient-{index}" for index in range(count)], images_each),
        sources=drawn("ROOM1", "ROOM2"),
        views=drawn("PA", "AP"),
        sexes=drawn("F", "M"),
        ages_years=np.repeat(rng.uniform(20.0, 90.0, count), images_each),
    )


def with_phantoms(images: Images) -> Images:
    drawn = patients(40, seed=9)
    names = np.array([f"phantom-{index}" for index in range(40)])
    return data.together([images, replace(drawn, sources=np.full(40, PHANTOM), patients=names)])


def said(images: Images, right: Mask, *, seed: int = 0) -> Answers:
    """Answers that are right where the mask says so, as sure of each as they are often right."""
    wrong = (images.labels + 1 + np.random.default_rng(seed).integers(0, 3, len(images))) % 4
    sure = float(np.clip(right[images.sources != PHANTOM].mean(), 0.3, 0.98))
    probabilities = np.eye(4)[np.where(right, images.labels, wrong)]
    probabilities = probabilities * (sure - (1 - sure) / 3) + (1 - sure) / 3
    logits = np.log(probabilities).astype(np.float32)
    return Answers(images, logits, probabilities, np.zeros(len(images), np.bool_))


def share(images: Images, of: float, seed: int = 0) -> Mask:
    """A mask true for about this share of the images; a greater share adds to a smaller one."""
    return np.asarray(np.random.default_rng(seed).random(len(images)) < of)


def refused_because(verdict: Verdict) -> str:
    assert not verdict.passed
    assert verdict.sentences[0] == "Refused."
    return " ".join(verdict.sentences)


def test_a_better_challenger_passes_and_the_words_tell_by_how_much() -> None:
    images = with_phantoms(patients())
    verdict = compare(said(images, share(images, 0.80)), said(images, share(images, 0.90)), rule=RULE)
    assert verdict.passed, verdict.sentences
    assert verdict.sentences[0] == "Passed."
    better = next(each for each in verdict.sentences if each.startswith(f"Better in {POOLED}, {ACCURACY}"))
    assert "instead of" in better
    assert "in 800 patients, better by 0." in better
    assert "95 % interval +0." in better


def test_an_equal_challenger_is_refused_since_it_is_better_nowhere() -> None:
    images = patients()
    champion = said(images, share(images, 0.8))
    assert "Not better anywhere" in refused_because(compare(champion, champion, rule=RULE))
    equal = said(images, share(images, 0.8, seed=1))
    assert "Not better anywhere" in refused_because(compare(champion, equal, rule=RULE))


def test_who_is_better_overall_and_worse_in_one_subgroup_is_refused_and_it_is_named() -> None:
    images = patients(2000)
    in_room2 = (images.sources == "ROOM2") & (images.sexes == "F")
    champion = said(images, share(images, 0.8))
    worse_there = said(images, np.where(in_room2, share(images, 0.7), share(images, 0.98)))
    verdict = compare(champion, worse_there, rule=RULE)
    assert verdict.figures["comparisons"][0]["outcome"] == gate.BETTER
    relabelled = replace(images, sources=np.where(in_room2, "ROOM3", "ROOM1"))
    verdict = compare(*(replace(each, images=relabelled) for each in (champion, worse_there)), rule=RULE)
    assert "Worse in source ROOM3, accuracy: 0.6" in refused_because(verdict)


def test_a_small_subgroup_that_does_much_worse_refuses_too() -> None:
    images = patients(1000)
    few = np.arange(1000) < 40
    images = replace(images, sources=np.where(few, "SMALL", "LARGE"))
    champion = said(images, share(images, 0.8))
    challenger = said(images, np.where(few, share(images, 0.4), share(images, 0.95)))
    assert "Worse in source SMALL, accuracy" in refused_because(compare(champion, challenger, rule=RULE))


def test_a_class_that_gets_lost_refuses_whatever_the_rest_gains() -> None:
    images = patients(2000)
    covid = images.labels == LABELS.index("COVID-19")
    champion = said(images, share(images, 0.8))
    challenger = said(images, np.where(covid, share(images, 0.7), share(images, 0.98)))
    assert f"Worse in {POOLED}, sensitivity for COVID-19" in refused_because(
        compare(champion, challenger, rule=RULE)
    )


def test_who_learnt_flipped_labels_is_refused() -> None:
    images = with_phantoms(patients())
    champion = said(images, share(images, 0.85))
    flipped = champion.probabilities[:, [1, 0, 2, 3]]
    challenger = replace(champion, probabilities=flipped, logits=np.log(flipped).astype(np.float32))
    words = refused_because(compare(champion, challenger, rule=RULE))
    assert "sensitivity for Normal" in words
    assert "phantoms only" in words


def test_slices_of_too_few_patients_are_named_and_do_not_count_as_passed() -> None:
    images = patients(400)
    images = replace(images, sources=np.where(np.arange(400) < 30, "SMALL", "LARGE"))
    verdict = compare(said(images, share(images, 0.75)), said(images, share(images, 0.9)), rule=RULE)
    few = next(each for each in verdict.sentences if each.startswith("Too few patients to judge"))
    assert "source SMALL, accuracy (30)" in few
    [small] = [
        each
        for each in verdict.figures["comparisons"]
        if (each["slice"], each["figure"]) == ("source SMALL", ACCURACY)
    ]
    assert small["outcome"] == gate.TOO_FEW


def test_a_loss_that_cannot_be_ruled_out_refuses_where_there_are_enough_patients() -> None:
    images = patients(1000)
    some = np.arange(1000) < 120
    images = replace(images, sources=np.where(some, "SOME", "MANY"))
    fifth = np.arange(1000) % 5
    champion, challenger = said(images, fifth != 0), said(images, np.where(some, fifth != 1, fifth >= 0))
    words = refused_because(compare(champion, challenger, rule=RULE))
    assert "cannot be ruled out in source SOME, accuracy" in words


def test_too_small_a_test_part_judges_nobody() -> None:
    images = patients(60)
    verdict = compare(said(images, share(images, 0.3)), said(images, share(images, 0.99)), rule=RULE)
    assert "has 60 patients; 100 are needed" in refused_because(verdict)


def test_who_assesses_fewer_images_is_refused() -> None:
    images = patients()
    champion, better = said(images, share(images, 0.8)), said(images, share(images, 0.92))
    shy = replace(better, strange=share(images, 0.2, seed=5))
    assert compare(champion, better, rule=RULE).passed
    assert "Worse in radiographs, share not assessed" in refused_because(compare(champion, shy, rule=RULE))


def test_who_becomes_far_too_sure_is_refused() -> None:
    images = patients()
    champion, better = said(images, share(images, 0.76)), said(images, share(images, 0.86))
    sure = np.eye(4)[better.probabilities.argmax(axis=1)] * 0.9996 + 0.0001
    cocksure = replace(better, probabilities=sure)
    assert "calibration error" in refused_because(compare(champion, cocksure, rule=RULE))


def test_a_network_that_errs_on_phantoms_is_refused_but_for_one_or_two() -> None:
    images = with_phantoms(patients())
    is_phantom = images.sources == PHANTOM
    champion = said(images, share(images, 0.8) | is_phantom)
    one_of_40 = is_phantom & (np.cumsum(is_phantom) > 1)
    verdict = compare(champion, said(images, share(images, 0.9) & ~is_phantom | one_of_40), rule=RULE)
    assert "Of 40 phantoms only 39" in refused_because(verdict)
    lenient = replace(RULE, least_phantoms=0.95)
    assert compare(champion, said(images, share(images, 0.9) & ~is_phantom | one_of_40), rule=lenient).passed
    assert verdict.figures["phantoms"] == {"images": 40, "champion": 40, "challenger": 39}


def test_a_phantom_that_is_not_assessed_is_not_answered() -> None:
    images = with_phantoms(patients())
    is_phantom = images.sources == PHANTOM
    challenger = replace(said(images, share(images, 0.9) | is_phantom), strange=is_phantom)
    verdict = compare(said(images, share(images, 0.8) | is_phantom), challenger, rule=RULE)
    assert "Of 40 phantoms only 0" in refused_because(verdict)


def test_patients_are_drawn_and_not_images() -> None:
    once, eight = patients(400), patients(400, images_each=8)
    right = {0.8: share(once, 0.8), 0.9: share(once, 0.84)}

    def of(images: Images, each: int) -> Gain:
        champion, challenger = (said(images, np.repeat(mask, each)) for mask in right.values())
        return gains(champion, challenger, repeats=REPEATS)[0]

    alone, repeated = of(once, 1), of(eight, 8)
    assert (repeated.images, repeated.patients) == (3200, 400)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))


def test_what_is_hard_for_both_cancels_out() -> None:
    """The same six patients more are right, whatever else both get wrong: the interval is narrow."""
    images = patients(600)
    right = share(images, 0.5)
    more = right | (np.cumsum(~right) <= 12)
    gain = gains(said(images, right), said(images, more), repeats=REPEATS)[0]
    assert gain.gain == pytest.approx(12 / 600)
    assert 0 < gain.low < gain.high < 0.05


def test_the_verdict_is_json_and_the_same_every_time() -> None:
    images = with_phantoms(patients(200))
    one_class = replace(images, labels=np.zeros(len(images), np.int64))
    champion, challenger = said(one_class, share(images, 0.6)), said(one_class, share(images, 0.9))
    verdicts = [compare(champion, challenger, rule=RULE).json() for _ in range(2)]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0]["schema"] == gate.SCHEMA
    json.dumps(verdicts[0], allow_nan=False)
    assert MACRO_AUROC not in {each["figure"] for each in verdicts[0]["comparisons"]}


@settings(max_examples=30, deadline=None)
@given(
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    shares=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)),
    noise=st.tuples(st.floats(0, 3), st.floats(0, 3)),
    count=st.integers(100, 400),
)
def test_of_two_networks_at_most_one_passes_against_the_other(
    seeds: tuple[int, int], shares: tuple[float, float], noise: tuple[float, float], count: int
) -> None:
    """Also where one has the better accuracy and the other the better AUROC."""
    images = patients(count)
    rng = np.random.default_rng(seeds)
    answers = []
    for seed, of, spread in zip(seeds, shares, noise, strict=True):
        plain = said(images, share(images, of, seed=seed))
        logits = plain.logits + spread * rng.standard_normal(plain.logits.shape)
        answers.append(replace(plain, probabilities=softmax(logits)))
    lenient = Rule(margin=1, overall_margin=1, repeats=100)
    verdicts = [compare(*pair, rule=lenient).passed for pair in (answers, answers[::-1])]
    assert verdicts != [True, True]


def test_who_ranks_better_and_answers_worse_does_not_pass_whatever_the_margin() -> None:
    """Nor does the other: each is shown to be worse in what the other is better in."""
    images = patients(800)
    answers = said(images, share(images, 0.8))
    noise = np.random.default_rng(0).standard_normal((800, 4))
    logits = 4 * np.eye(4)[images.labels] + noise + np.array([3.5, 0, 0, 0])
    ranks = replace(answers, probabilities=softmax(logits))
    lenient = Rule(margin=0.99, overall_margin=0.99, repeats=REPEATS)
    for champion, challenger, worse in ((answers, ranks, ACCURACY), (ranks, answers, MACRO_AUROC)):
        verdict = compare(champion, challenger, rule=lenient)
        assert f"Worse in {POOLED}, {worse}" in refused_because(verdict)
        assert any(each.startswith(f"Better in {POOLED}") for each in verdict.sentences)
