import math

import numpy as np
import pytest
from scipy import stats

from kitspipe.evaluation.intervals import estimate, ratio

VALUES = np.random.default_rng(3).beta(5, 2, 40)


@pytest.mark.parametrize(("center", "statistic"), [("mean", np.mean), ("median", np.median)])
def test_intervals_are_scipys(center, statistic):
    found = estimate(VALUES, center)
    expected = stats.bootstrap(
        (VALUES,), statistic, method="percentile", n_resamples=20_000, random_state=1
    ).confidence_interval
    assert found.value == pytest.approx(statistic(VALUES))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.006)
    assert found.cases == 40


def test_intervals_of_a_mean_hold_it_in_95_of_100_sets():
    # Of 60 cases a percentile bootstrap falls a little short of 95 %.
    rng = np.random.default_rng(11)
    sets = [estimate(rng.exponential(size=60)) for _ in range(100)]
    held = np.mean([found.low <= 1 <= found.high for found in sets])
    assert 0.85 <= held <= 0.99


def test_the_same_values_give_the_same_interval_whatever_was_asked_before():
    first = estimate(VALUES)
    estimate(VALUES[:7], "median")
    assert estimate(VALUES) == first


def test_undefined_values_are_left_out():
    assert estimate([*VALUES, math.nan, math.nan]) == estimate(VALUES)


def test_no_case_is_undefined_and_one_has_no_interval():
    none = estimate([math.nan])
    assert math.isnan(none.value)
    assert none.cases == 0
    one = estimate([0.5])
    assert one.value == 0.5
    assert math.isnan(one.low)


def test_a_median_takes_infinite_values():
    found = estimate([1, 2, 3, math.inf, math.inf], "median")
    assert found.value == 3
    assert found.low == 1
    assert found.high == math.inf
    assert estimate([-math.inf, math.inf], "median").value == 0


def test_a_ratio_is_of_sums_over_cases():
    parts, wholes = [1, 0, 3, 2, 0], [1, 2, 3, 4, 0]
    found = ratio(parts, wholes)
    assert found.value == 6 / 10
    assert found.cases == 4
    expected = stats.bootstrap(
        (np.array(parts[:4]), np.array(wholes[:4])),
        lambda p, w, axis: p.sum(axis) / w.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        random_state=1,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_a_ratio_of_nothing_is_undefined():
    assert math.isnan(ratio([0, 0], [0, 0]).value)
    assert math.isnan(ratio([], []).value)
