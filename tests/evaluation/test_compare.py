import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from small_evaluations import case, evaluation

from kitspipe.evaluation.compare import compare, holm, paired_differences, wilcoxon_p


def brute_force_p(differences):
    """Every sign of every rank alike: share of sums at least as far from the middle."""
    ranks = stats.rankdata(np.abs(differences))
    middle = ranks.sum() / 2
    found = abs(ranks[differences > 0].sum() - middle)
    signs = np.array(np.meshgrid(*[[0, 1]] * len(ranks))).reshape(len(ranks), -1)
    return float(np.mean(np.abs(ranks @ signs - middle) >= found - 1e-9))


def of(comparison, name):
    return next(d for d in comparison.differences if d.metric.name == name)


@given(
    st.lists(st.integers(1, 1000), min_size=3, max_size=9, unique=True),
    st.integers(0, 511),
)
def test_p_is_that_of_all_signs(sizes, signs):
    values = np.array([n if signs >> k & 1 else -n for k, n in enumerate(sizes)], float)
    assert wilcoxon_p(values) == pytest.approx(brute_force_p(values))


def test_p_of_many_is_scipys():
    values = np.random.default_rng(2).normal(0.1, 1, 120)
    assert wilcoxon_p(values) == pytest.approx(stats.wilcoxon(values).pvalue)


def test_infinite_differences_are_the_largest():
    values = np.array([0.3, -0.1, 0.5, -0.2, 0.7, 0.8])
    infinite = np.array([0.3, -0.1, 0.5, -0.2, 0.7, math.inf])
    assert wilcoxon_p(infinite) == wilcoxon_p(values)
    assert wilcoxon_p(np.array([math.inf, -math.inf, math.inf])) == pytest.approx(1, abs=0.6)


def test_equal_sets_are_no_evidence():
    assert wilcoxon_p(np.zeros(5)) == 1
    assert math.isnan(wilcoxon_p(np.array([math.nan])))


def test_differences_of_equal_infinities_are_none():
    found = paired_differences(
        np.array([math.inf, math.inf, 0.1 + 0.2, math.nan]), np.array([math.inf, 1, 0.3, 1])
    )
    assert found[:3].tolist() == [0, math.inf, 0]
    assert math.isnan(found[3])


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1; never below the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1, 1]
    found = holm([0.01, math.nan])
    assert found[0] == 0.01
    assert math.isnan(found[1])


def test_the_better_set_is_the_better_one_in_every_direction():
    good = evaluation(*(case(f"case_{n}", shift=0) for n in range(5)))
    bad = evaluation(*(case(f"case_{n}", shift=n + 1, false=n > 2) for n in range(5)))
    comparison = compare(good, bad)
    dice = of(comparison, "kits23_tumor_dice")
    assert (dice.better, dice.equal, dice.worse) == (5, 0, 0)
    assert dice.difference.value == pytest.approx(dice.first - dice.other)
    assert dice.difference.low > 0
    distance = of(comparison, "tumor_hausdorff95_mm")
    assert (distance.better, distance.worse) == (5, 0)
    assert distance.difference.value < 0
    false = of(comparison, "false_tumors")
    assert (false.better, false.equal, false.worse) == (2, 3, 0)
    turned = of(compare(bad, good), "kits23_tumor_dice")
    assert (turned.better, turned.worse, turned.p) == (0, 5, dice.p)


def test_only_cases_in_both_are_compared_and_undefined_ones_are_left_out():
    first = evaluation(case("a"), case("b", shift=2), case("c", tumor=False))
    other = evaluation(case("b"), case("c", tumor=False), case("d"))
    comparison = compare(first, other)
    assert list(comparison.cases) == ["b", "c"]
    assert of(comparison, "kits23_tumor_dice").difference.cases == 2
    assert of(comparison, "kits19_tumor_dice").difference.cases == 1
    assert math.isnan(comparison.cases["c"]["kits19_tumor_dice"])


def test_signed_errors_have_no_better():
    names = {
        d.metric.name for d in compare(evaluation(case("a")), evaluation(case("a"))).differences
    }
    assert "tumor_volume_error_ml" not in names
    assert "tumor_absolute_volume_error_ml" in names


def test_a_failed_case_is_the_worse_one():
    lost = case("a", failed=True)
    found = of(compare(evaluation(case("a")), evaluation(lost)), "kits23_tumor_dice")
    assert (found.better, found.difference.value) == (1, 1)
