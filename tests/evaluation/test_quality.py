import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from small_data import write_cases
from small_model import write_model
from small_plans import small_plan

from kitspipe.dataset.cases import find_dataset
from kitspipe.evaluation.quality import calibrate, measure_quality
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.planning.calibration import FEWEST_CASES
from kitspipe.planning.document import write_document
from kitspipe.planning.splits import Fold, Splits
from kitspipe.prediction.cascade import segment
from kitspipe.prediction.effort import effort_of
from kitspipe.prediction.run import load_cascade
from kitspipe.preprocessing.preprocess import preprocess_case

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


@pytest.mark.slow
def test_every_held_out_case_is_held_against_its_own_fold(tmp_path):
    place = write_model(tmp_path, folds=(0, 1))
    cases = find_dataset(write_cases(tmp_path / "raw", FEWEST_CASES)).labelled
    for case in cases:
        preprocess_case(case, small_plan(), place)
    ids = tuple(case.id for case in cases)
    first, second = ids[:-1], ids[-1:]
    folds = (Fold(train=second, validation=first), Fold(train=first, validation=second))
    write_document(place.splits_file, Splits(folds=folds))
    plan = small_plan()
    made = measure_quality(place, plan, [0, 1], "cpu")

    def seen(case, folds, *, mirror):
        cascade = load_cascade(place, folds, "cpu", effort=effort_of(mirror=mirror))
        return segment(read_image(case.image)[0], cascade)

    mirrored, paired, dices = [], [], []
    for case in cases:
        alone = seen(case, [0 if case.id in first else 1], mirror=True)
        true, found = read_labels(case.labels)[0].array > 0, alone.labels.array > 0
        dices.append(2 * (true & found).sum() / (true.sum() + found.sum()))
        mirrored.append(alone.agreement["kidney"])
        paired.append(seen(case, [0, 1], mirror=False).agreement["kidney"])
    assert made["mirrored"]["kidney"] == calibrate(mirrored, dices)
    assert made["folds"]["kidney"] == calibrate(paired, dices)
