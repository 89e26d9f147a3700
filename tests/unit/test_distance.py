"""Distances between samples, against the tests that everybody has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.distance import _chi_square_tail, _kolmogorov, of_classes, of_numbers

special = pytest.importorskip("scipy.special")
stats = pytest.importorskip("scipy.stats")
numbers = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60)
classes = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=60)


@given(numbers, numbers)
def test_the_distance_of_numbers_is_that_of_kolmogorov_and_smirnov(
    one: list[float], other: list[float]
) -> None:
    def share(sample: list[float], value: float) -> float:
        return sum(each <= value for each in sample) / len(sample)

    largest = max(abs(share(one, value) - share(other, value)) for value in one + other)
    assert of_numbers(one, other).distance == pytest.approx(largest)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8])
def test_tails_are_those_of_the_tables(freedom: int) -> None:
    for value in (0.0, 0.1, 1.0, 4.0, 15.0, 60.0, 400.0):
        assert _chi_square_tail(value, freedom) == pytest.approx(special.chdtrc(freedom, value), abs=1e-12)
        assert _kolmogorov(value / 10) == pytest.approx(special.kolmogorov(value / 10), abs=1e-12)


def test_the_chance_of_a_distance_is_near_the_exact_one() -> None:
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.2, 0.4):
        one, other = rng.normal(size=500), rng.normal(shift, size=120)
        ours, theirs = of_numbers(one.tolist(), other.tolist()), stats.ks_2samp(one, other, method="exact")
        assert ours.chance == pytest.approx(theirs.pvalue, rel=0.25)


@given(classes, classes)
def test_the_distance_of_classes_is_the_same_both_ways_and_no_more_than_1(
    one: list[str], other: list[str]
) -> None:
    there, back = of_classes(one, other), of_classes(other, one)
    assert there.distance == pytest.approx(back.distance) and 0 <= there.distance <= 1 + 1e-12
    assert there.chance == pytest.approx(back.chance)
    if len(set(one) | set(other)) > 1:
        table = [[each.count(name) for name in sorted(set(one) | set(other))] for each in (one, other)]
        exact = stats.chi2_contingency(table, correction=False).pvalue
        assert there.chance == pytest.approx(exact, abs=1e-9)


def test_the_class_that_changed_most_is_named() -> None:
    found = of_classes(["Normal"] * 80 + ["Pneumonia"] * 20, ["Normal"] * 50 + ["Pneumonia"] * 50)
    assert (found.of, found.before, found.now) == ("Normal", 0.8, 0.5)
    assert found.distance == pytest.approx(0.3)
