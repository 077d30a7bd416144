import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from kitspipe.evaluation.quality import calibrate
from kitspipe.planning.calibration import FEWEST_CASES

shares = st.integers(0, 1000).map(lambda n: n / 1000)
cases = st.lists(st.tuples(shares, shares), min_size=FEWEST_CASES, max_size=40)


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
