import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from kitspipe.errors import UserError
from kitspipe.evaluation.metrics import dice
from kitspipe.evaluation.quality import (
    FEWEST_CASES,
    Calibration,
    CaseQuality,
    agreement,
    auc,
    calibrate,
    read_predicted,
    spearman,
    write_qualities,
)

shares = st.integers(0, 1000).map(lambda n: n / 1000)
cases = st.lists(st.tuples(shares, shares), min_size=FEWEST_CASES, max_size=40)


@given(hnp.arrays(bool, st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))))
def test_agreement_is_the_pooled_dice_of_all_pairs(members):
    pairs = list(itertools.combinations(members, 2))
    shared = sum(2 * np.count_nonzero(a & b) for a, b in pairs)
    total = sum(np.count_nonzero(a) + np.count_nonzero(b) for a, b in pairs)
    expected = shared / total if total else math.nan
    votes = members.sum(axis=0)
    assert agreement(votes, len(members)) == pytest.approx(expected, nan_ok=True)


def test_of_two_members_agreement_is_their_dice():
    a, b = np.arange(10) < 6, np.arange(10) > 2
    assert agreement(a.astype(np.uint8) + b, 2) == pytest.approx(dice(a, b))


@pytest.mark.parametrize(("votes", "members"), [([1], 1), ([3], 2)])
def test_votes_must_be_of_several_members(votes, members):
    with pytest.raises(ValueError, match="members"):
        agreement(np.array(votes), members)


@given(cases)
def test_calibration_is_isotonic_regression_at_its_points(pairs):
    x, y = np.array(pairs).T
    made = calibrate(x, y)
    fitted = IsotonicRegression().fit(x, y)
    # Each pool is one point, at its mean agreement; there its value is the regression's.
    values = np.unique(np.round(fitted.predict(x), 9))
    assert np.unique(np.round(made.dice, 9)) == pytest.approx(values, abs=1e-8)


@given(cases, shares, shares)
def test_more_agreement_never_means_a_lower_dice(pairs, a, b):
    made = calibrate(*np.array(pairs).T)
    low, high = sorted((a, b))
    assert 0 <= made.predict(low) <= made.predict(high) <= 1


def test_a_perfect_relation_is_found_again():
    x = np.linspace(0.2, 0.9, 20)
    made = calibrate(x, 0.5 + x / 2)
    assert made.predict(0.4) == pytest.approx(0.7)


def test_few_or_undefined_cases_make_no_calibration():
    assert calibrate([0.5] * (FEWEST_CASES - 1), [0.5] * (FEWEST_CASES - 1)) is None
    assert calibrate([math.nan] * 20, [0.5] * 20) is None


@pytest.mark.parametrize("points", [((0.5, 0.4), (0.1, 0.2)), ((0.1, 0.2), (0.5, 0.4)), ((), ())])
def test_a_calibration_that_falls_is_refused(points):
    with pytest.raises(ValueError, match=r"rise|falls|empty"):
        Calibration(agreement=points[0], dice=points[1], cases=20)


@given(st.lists(st.tuples(shares, shares), min_size=3, max_size=30))
def test_rank_correlation_is_scipys(pairs):
    a, b = np.array(pairs).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
    else:
        assert math.isnan(spearman(a, b))


@given(st.lists(st.tuples(shares, st.booleans()), min_size=2, max_size=30))
def test_area_under_the_curve_is_scikit_learns(pairs):
    scores, bad = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(set(bad)) == 2:
        assert auc(scores, bad) == pytest.approx(roc_auc_score(bad, -np.array(scores)))
    else:
        assert math.isnan(auc(scores, bad))


def test_what_is_written_is_read(tmp_path):
    known = CaseQuality(
        kidney_agreement=0.99,
        tumor_agreement=None,
        predicted_kidney_dice=0.97,
        predicted_tumor_dice=None,
    )
    unknown = CaseQuality(
        kidney_agreement=None,
        tumor_agreement=None,
        predicted_kidney_dice=None,
        predicted_tumor_dice=None,
    )
    write_qualities(tmp_path, {"case_00000": known, "case_00001": unknown})
    read = read_predicted(tmp_path)
    assert read.keys() == {"case_00000"}
    assert read["case_00000"] == (0.97, pytest.approx(math.nan, nan_ok=True))


def test_masks_without_the_file_have_no_prediction(tmp_path):
    assert read_predicted(tmp_path) == {}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "quality.json").write_text('{"cases": {"a": {"kidney_agreement": 2}}}')
    with pytest.raises(UserError, match=r"quality\.json"):
        read_predicted(tmp_path)
