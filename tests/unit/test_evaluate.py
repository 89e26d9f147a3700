import json
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")
from sklearn import metrics

from hilum.network import LABELS, load_artefact, shipped
from training import bootstrap, card, evaluate, figures
from training.data import PHANTOM, Images

REPEATS = 60


def known_images(labels: NDArray[np.int64], **known: NDArray[np.generic]) -> Images:
    count = len(labels)
    plain = {
        "pixels": np.zeros((count, 1, 1), np.uint8),
        "sources": np.array(["somewhere"] * count),
        "patients": np.array([f"patient-{index // 2}" for index in range(count)]),
        "digests": np.array([f"{index:064x}" for index in range(count)]),
        "views": np.array([""] * count),
        "sexes": np.array([""] * count),
        "ages_years": np.full(count, np.nan),
    }
    return Images(labels=labels, **(plain | known))


def answers(labels: NDArray[np.int64], seed: int = 0, strength: float = 1.0) -> NDArray[np.float64]:
    """Logits (N, 4) that lean towards the truth."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((len(labels), 4)) + strength * np.eye(4)[labels]


@pytest.fixture(scope="module")
def labels() -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, 4, 200)


def test_an_unsure_network_is_made_surer_by_its_temperature_and_a_cocksure_one_less() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 2000)
    logits = answers(labels)
    fitted = evaluate.temperature(logits, labels)
    assert evaluate.temperature(logits / 3, labels) == pytest.approx(fitted / 3, rel=0.05)
    assert evaluate.temperature(logits * 3, labels) == pytest.approx(fitted * 3, rel=0.05)


def test_temperature_mends_the_calibration_and_both_are_told() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 1000)
    logits = 4 * answers(labels)
    calibrated = evaluate.softmax(logits / evaluate.temperature(logits, labels))
    told = evaluate.report(calibrated, known_images(labels), logits=logits, repeats=REPEATS)
    calibration = told[evaluate.POOLED]["calibration"]
    for name in ("ece", "brier", "log_loss"):
        assert calibration["after"][name]["value"] < calibration["before"][name]["value"]
    assert calibration["after"]["ece"]["value"] < 0.05


def test_the_figures_of_known_answers_are_known() -> None:
    truth = np.repeat([0, 1], 20)
    said = np.r_[np.zeros(10, int), np.ones(10, int), np.ones(20, int)]
    probabilities = np.eye(4)[said] * 0.6 + 0.1
    told = figures.figures(probabilities, truth, np.arange(40).astype(str), repeats=REPEATS)
    assert told["confusion"] == [[10, 10, 0, 0], [0, 20, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert told["accuracy"]["value"] == 0.75
    assert told["judged"] == ["Normal", "Pneumonia"]
    normal = {
        name: told["classes"]["Normal"][name]["value"] for name in ("precision", "recall", "specificity")
    }
    assert normal == {"precision": 1.0, "recall": 0.5, "specificity": 1.0}
    assert told["calibration"]["after"]["ece"]["value"] == pytest.approx(0.05)
    assert told["commonest"] == 0.5


def test_figures_of_weighted_images_are_scikit_learn_s(labels: NDArray[np.int64]) -> None:
    probabilities = evaluate.softmax(answers(labels).round(1))  # rounded, so that there are ties
    patients = np.array([f"patient-{index // 3}" for index in range(len(labels))])
    [weights] = bootstrap.draws(patients, 5, seed=3)
    said = probabilities.argmax(axis=1)
    counted = bootstrap.counted(bootstrap.confusion(weights, labels, said, 4))
    ranked = [bootstrap.ranked(weights, probabilities[:, k], labels == k) for k in range(4)]
    for draw, weight in enumerate(weights):
        weighted = {"sample_weight": weight}
        assert counted["accuracy"][draw] == pytest.approx(metrics.accuracy_score(labels, said, **weighted))
        known = metrics.precision_recall_fscore_support(labels, said, zero_division=np.nan, **weighted)
        for name, values in zip(("precision", "recall", "f1"), known[:3], strict=True):
            np.testing.assert_allclose(counted[name][draw], values)
        for k in range(4):
            of = (labels == k, probabilities[:, k])
            assert ranked[k]["auroc"][draw] == pytest.approx(metrics.roc_auc_score(*of, **weighted))
            assert ranked[k]["average_precision"][draw] == pytest.approx(
                metrics.average_precision_score(*of, **weighted)
            )


def test_with_each_image_once_the_bootstrap_gives_scikit_learn_s_figures(labels: NDArray[np.int64]) -> None:
    probabilities = evaluate.softmax(answers(labels))
    slice_ = figures._Slice(probabilities, labels, None, np.arange(4), LABELS, None)
    once = slice_.drawn(np.ones((1, len(labels))))
    for name, value in slice_.values().items():
        np.testing.assert_allclose(once[name][0], value, err_msg=name)


def test_patients_are_drawn_and_not_images() -> None:
    patients = np.array(["a", "a", "a", "b", "b", "c"])
    [weights] = bootstrap.draws(patients, 500, seed=0)
    for patient in "abc":
        of_patient = weights[:, patients == patient]
        assert (of_patient == of_patient[:, :1]).all()
    assert weights[:, [0, 3, 5]].sum(axis=1).tolist() == [3] * 500


def test_intervals_of_a_share_are_about_as_wide_as_the_binomial_s() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    said = np.where(rng.random(400) < 0.7, truth, 1 - truth)
    told = figures.figures(np.eye(4)[said] * 0.6 + 0.1, truth, np.arange(400).astype(str))
    accuracy = told["accuracy"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert accuracy["high"] - accuracy["low"] == pytest.approx(2 * half, rel=0.15)
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]


def test_the_same_seed_gives_the_same_intervals(labels: NDArray[np.int64]) -> None:
    probabilities, images = evaluate.softmax(answers(labels)), known_images(labels)
    once, again = (evaluate.report(probabilities, images, repeats=REPEATS, seed=5) for _ in range(2))
    assert once == again
    assert once != evaluate.report(probabilities, images, repeats=REPEATS, seed=6)


def test_a_slice_too_small_for_figures_says_so_and_gives_its_counts(labels: NDArray[np.int64]) -> None:
    ages = np.full(len(labels), 50.0)
    ages[:12] = 8
    told = evaluate.report(
        evaluate.softmax(answers(labels)), known_images(labels, ages_years=ages), repeats=REPEATS
    )
    children = told["age under 16"]
    assert "20 images" in children["too_few"]
    assert "accuracy" not in children
    assert np.sum(children["confusion"]) == 12
    assert told["age 40-64"]["too_few"] is None


def test_a_slice_of_one_class_says_so() -> None:
    truth = np.zeros(50, int)
    told = figures.figures(np.full((50, 4), 0.25), truth, np.arange(50).astype(str), repeats=REPEATS)
    assert "two classes" in told["too_few"]


def test_many_images_of_a_few_patients_are_no_ground_for_figures() -> None:
    truth = np.tile([0, 1], 50)
    patients = np.arange(100) % 9
    told = figures.figures(np.full((100, 4), 0.25), truth, patients.astype(str), repeats=REPEATS)
    assert told["too_few"] == "fewer than 10 patients"


def test_a_class_of_a_few_images_is_not_judged() -> None:
    truth = np.r_[np.zeros(30, int), np.ones(30, int), [2, 2]]
    told = figures.figures(
        evaluate.softmax(answers(truth)), truth, np.arange(62).astype(str), repeats=REPEATS
    )
    assert told["judged"] == ["Normal", "Pneumonia"]
    assert told["truth"]["COVID-19"] == 2


def test_slices_are_by_source_view_sex_and_age_and_phantoms_stand_apart(labels: NDArray[np.int64]) -> None:
    count = len(labels)
    images = known_images(
        labels,
        sources=np.where(np.arange(count) < 150, "here", np.where(np.arange(count) < 170, "there", PHANTOM)),
        views=np.where(np.arange(count) % 2, "PA", "AP"),
        sexes=np.where(np.arange(count) % 3, "F", "M"),
        ages_years=np.linspace(1, 90, count),
    )
    told = evaluate.report(evaluate.softmax(answers(labels)), images, repeats=REPEATS)
    counts = {name: of["images"] for name, of in told.items()}
    assert counts["radiographs"] == counts["source here"] + counts["source there"] == 170
    assert counts["phantoms"] == 30
    assert counts["view PA"] + counts["view AP"] == counts["sex F"] + counts["sex M"] == 170
    assert sum(count for name, count in counts.items() if name.startswith("age ")) == 170


@pytest.fixture(scope="module")
def confounded() -> Images:
    """Public collections as they are: COVID-19 from where nothing normal comes from."""
    rng = np.random.default_rng(2)
    nih, ieee8023, hannover = rng.choice([0, 1, 3], 300), rng.choice([1, 2], 100), np.full(60, 2)
    sources = [evaluate.NIH] * 300 + [evaluate.IEEE8023] * 100 + [evaluate.HANNOVER] * 60
    return known_images(np.r_[nih, ieee8023, hannover], sources=np.array(sources))


def test_who_knows_only_the_source_tells_covid_in_the_pool_and_nothing_within_a_source(
    confounded: Images,
) -> None:
    blind = evaluate.by_source(confounded, seed=0)
    told = evaluate.report(blind, confounded, repeats=REPEATS)
    pooled = told[evaluate.POOLED]
    assert pooled["classes"]["COVID-19"]["auroc"]["value"] > 0.95
    assert pooled["accuracy"]["value"] > pooled["commonest"] + 0.1
    assert told[evaluate.BLIND]["accuracy"] == pooled["accuracy"]
    assert told[evaluate.FLATTERING]["macro_auroc"]["value"] == 1.0
    for name in evaluate.HONEST:
        assert told[name]["macro_auroc"]["value"] == pytest.approx(0.5, abs=0.12)


def test_the_source_s_table_is_made_of_other_patients(confounded: Images) -> None:
    everyone_alone = known_images(
        np.arange(40) % 4, sources=np.array([f"source-{index // 2}" for index in range(40)])
    )
    np.testing.assert_allclose(evaluate.by_source(everyone_alone, seed=0), 0.25)


def test_two_classes_are_asked_for_with_all_else_left_out() -> None:
    images = known_images(np.array([1, 2] * 20), sources=np.array([evaluate.IEEE8023] * 40))
    probabilities = np.where(images.labels[:, None] == 2, [[0.5, 0.1, 0.3, 0.1]], [[0.5, 0.3, 0.1, 0.1]])
    told = evaluate.report(probabilities, images, repeats=REPEATS)
    assert told["source ieee8023-covid-chestxray"]["accuracy"]["value"] == 0
    pair = told[evaluate.COVID_OR_PNEUMONIA]
    assert pair["accuracy"]["value"] == pair["macro_auroc"]["value"] == 1
    assert pair["coverage"][0]["confidence"] == 0.75


def test_thresholds_keep_the_specificity_they_were_chosen_for(labels: NDArray[np.int64]) -> None:
    probabilities = evaluate.softmax(answers(labels))
    chosen = figures.thresholds(probabilities, labels)
    told = evaluate.report(probabilities, known_images(labels), repeats=REPEATS)
    for label, of in told[evaluate.POOLED]["classes"].items():
        for wanted, point in of["operating_points"].items():
            assert point["specificity"]["value"] >= float(wanted)
            assert point["chosen_on"] == "these images"
            assert point["threshold"] == pytest.approx(chosen[label][wanted], abs=1e-5)
        low, high = of["operating_points"]["0.90"], of["operating_points"]["0.95"]
        assert low["sensitivity"]["value"] >= high["sensitivity"]["value"]


def test_thresholds_of_other_patients_are_kept_as_they_were_chosen(labels: NDArray[np.int64]) -> None:
    chosen = {label: {"0.90": 0.5, "0.95": 0.9} for label in LABELS}
    probabilities = evaluate.softmax(answers(labels))
    told = evaluate.report(probabilities, known_images(labels), thresholds=chosen, repeats=REPEATS)
    point = told[evaluate.POOLED]["classes"]["Normal"]["operating_points"]["0.95"]
    assert (point["threshold"], point["chosen_on"]) == (0.9, "other patients")
    assert point["sensitivity"]["value"] == pytest.approx(
        (probabilities[labels == 0, 0] >= 0.9).mean(), abs=1e-5
    )


def test_a_label_that_the_other_patients_lacked_gets_its_threshold_here_and_says_so(
    labels: NDArray[np.int64],
) -> None:
    chosen = {"Normal": {"0.90": 0.5, "0.95": 0.9}}
    probabilities = evaluate.softmax(answers(labels))
    told = evaluate.report(probabilities, known_images(labels), thresholds=chosen, repeats=REPEATS)
    points = {name: of["operating_points"]["0.90"] for name, of in told[evaluate.POOLED]["classes"].items()}
    assert points["Normal"]["chosen_on"] == "other patients"
    assert {points[name]["chosen_on"] for name in LABELS[1:]} == {"these images"}


def test_the_surer_answers_are_the_better_ones_of_a_network_that_knows(labels: NDArray[np.int64]) -> None:
    told = evaluate.report(
        evaluate.softmax(answers(labels, strength=2)), known_images(labels), repeats=REPEATS
    )
    accuracies = [point["accuracy"]["value"] for point in told[evaluate.POOLED]["coverage"]]
    assert accuracies[0] == told[evaluate.POOLED]["accuracy"]["value"]
    assert accuracies[-1] > accuracies[0]


def test_a_report_is_json_without_anything_that_is_no_number(confounded: Images) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = evaluate.report(evaluate.softmax(answers(confounded.labels)), confounded, repeats=REPEATS)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def manifest(metrics: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    return {
        "version": "test-1",
        "architecture": "resnet50-512-4",
        "preprocessing": "square",
        "licence": "CC-BY-NC-SA-4.0",
        "created": "2026-01-01",
        "temperature": 1.5,
        "data": {"digest": "0" * 64, "train": counts, "validation": {}, "test": counts},
        "recipe": {"name": "test", "stages": [{"epochs": 3}]},
        "metrics": metrics,
    }


def test_the_card_tells_every_slice_and_why_a_high_figure_would_not_be_honest(confounded: Images) -> None:
    metrics = evaluate.report(evaluate.softmax(answers(confounded.labels)), confounded, repeats=REPEATS)
    counts = {f"{evaluate.NIH} Normal": 3, f"{evaluate.HANNOVER} COVID-19": 1, f"{PHANTOM} Normal": 9}
    measured = {
        "notes": "It was chosen by lot.",
        "strangeness": {"refused": {"radiographs": 0.01}},
        "cross_validation": {"folds": 5, "pooled": metrics},
        "engines": {"images": 9, "from_torch": [{"engine": "fast", "off_by": 0.5}]},
    }
    told = card.render(manifest(metrics, counts) | measured)
    assert told.startswith("# Model card: test-1\n\n**For research only.")
    for name in metrics:
        assert f"### {name}\n" in told
    for text in (
        "by its source's name alone",
        "It was chosen by lot.",
        "radiographs 0.01",
        "CC BY 3.0",
        "CVPR 2017",
        "**Phantoms**",
        "honest lines",
        "text-mined or taken from captions",
    ):
        assert text in told
    for text in ("ieee8023-covid-chestxray**", "Within ieee8023"):
        assert text not in told  # none of its images were learnt from
    assert "Normal: 100 % nih-chestxray14." in told


def test_a_hospital_s_card_says_nothing_of_collections_that_it_has_not(labels: NDArray[np.int64]) -> None:
    sources = np.where(np.arange(len(labels)) % 2, "ward-1", "ward-2")
    metrics = evaluate.report(
        evaluate.softmax(answers(labels)), known_images(labels, sources=sources), repeats=REPEATS
    )
    told = card.render(manifest(metrics, {"ward-1 Normal": 3, "ward-2 Other": 2}))
    assert "by its source's name alone" in told
    for text in ("NIH", "ieee8023", "captions", "hantom", "honest lines", "champion"):
        assert text not in told


def test_calibration_stands_in_the_card_before_and_after_the_temperature(labels: NDArray[np.int64]) -> None:
    logits = 4 * answers(labels)
    probabilities = evaluate.softmax(logits / 4)
    metrics = evaluate.report(probabilities, known_images(labels), logits=logits, repeats=REPEATS)
    calibration = metrics[evaluate.POOLED]["calibration"]
    cells = [
        figures.told(calibration[when][name]) for name in ("ece", "brier") for when in ("before", "after")
    ]
    assert f"| radiographs | {' | '.join(cells)} |" in card.render(manifest(metrics, {}))


def test_a_card_of_a_network_of_one_source_says_nothing_of_others(labels: NDArray[np.int64]) -> None:
    told = evaluate.report(evaluate.softmax(answers(labels)), known_images(labels), repeats=REPEATS)
    assert card.why_not(told) == []


def test_the_card_that_is_shipped_is_that_of_the_shipped_manifest() -> None:
    card_file = shipped() / "MODEL_CARD.md"
    assert card_file.read_text() == card.render(load_artefact(shipped()).manifest)
