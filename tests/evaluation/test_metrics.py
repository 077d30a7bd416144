import math

import numpy as np
import official_kits
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kitspipe.evaluation import distances, metrics
from kitspipe.evaluation.metrics import TOLERANCE_MM, HECScore
from kitspipe.planning.plan import Labels

SPACING = (2.5, 0.7, 0.8)


def blobs(seed, shape=(13, 21, 17)):
    """A reference of 0 to 3 and a prediction near it; both reach the border."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 4, [-(-n // 4) for n in shape])
    reference = np.kron(coarse, np.ones((4, 4, 4), int))[tuple(slice(n) for n in shape)]
    prediction = np.roll(reference, random.integers(-2, 3, 3), (0, 1, 2))
    prediction[random.random(shape) < 0.1] = 0
    return reference.astype(np.uint8), prediction.astype(np.uint8)


pairs = st.tuples(*[st.integers(1, 5)] * 3).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def test_dice_of_two_of_three_voxels():
    a = np.array([1, 1, 1, 0, 0], bool)
    b = np.array([0, 1, 1, 1, 1], bool)
    assert metrics.dice(a, b) == 4 / 7  # 2 common, 3 + 4 in all


def test_dice_of_empties():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert math.isnan(metrics.dice(empty, empty))
    assert metrics.dice(empty, full) == metrics.dice(full, empty) == 0


@pytest.mark.parametrize("score", [metrics.dice, metrics.kits19_scores])
def test_different_shapes_are_refused(score):
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 2, 4\)"):
        score(np.zeros((1, 2, 3), bool), np.zeros((1, 2, 4), bool))


@given(pairs)
@settings(max_examples=40, deadline=None)
def test_both_scores_are_symmetric(pair):
    a, b = pair
    for score in (
        metrics.dice,
        lambda a, b: distances.surface_dice(a, b, spacing=SPACING, tolerance_mm=1),
    ):
        assert score(a, b) == pytest.approx(score(b, a), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(6))
def test_kits19_is_the_official_formula_on_labels_0_1_2(seed):
    reference, prediction = (labels % 3 for labels in blobs(seed))
    found = metrics.kits19_scores(reference, prediction)
    assert (found.kidney, found.tumor) == pytest.approx(
        official_kits.kits19_dice(reference, prediction), abs=1e-8
    )


def test_kits19_counts_a_cyst_as_kidney_and_not_as_tumor():
    reference = np.array([[[1, 2, 3, 0]]], np.uint8)
    prediction = np.array([[[0, 2, 2, 0]]], np.uint8)
    found = metrics.kits19_scores(reference, prediction)
    assert found.kidney == 4 / 5  # 2 common, 3 + 2 in all
    assert found.tumor == 2 / 3  # 1 common, 1 + 2 in all


def test_kits19_composite_is_the_mean():
    assert metrics.KiTS19Scores(kidney=0.9, tumor=0.5).composite == pytest.approx(0.7)


def test_kits19_of_empties():
    empty, kidney = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    both = metrics.kits19_scores(empty, empty)
    assert math.isnan(both.kidney)
    assert math.isnan(both.tumor)
    one = metrics.kits19_scores(kidney, empty)
    assert one.kidney == 0
    assert math.isnan(one.tumor)
    assert math.isnan(one.composite)


@pytest.mark.parametrize("name", official_kits.CLASSES)
@pytest.mark.parametrize("seed", range(6))
def test_kits23_is_the_official_formula(seed, name):
    reference, prediction = blobs(seed)
    found = getattr(metrics.kits23_scores(reference, prediction, spacing=SPACING), name)
    dice, surface = official_kits.kits23_scores(
        reference, prediction, official_kits.CLASSES[name], TOLERANCE_MM[name], SPACING
    )
    assert found.dice == pytest.approx(dice, abs=1e-8)
    assert found.surface_dice == pytest.approx(surface, abs=1e-6)


def test_kits23_of_empties():
    empty, tumor = np.zeros((3, 4, 5), np.uint8), np.full((3, 4, 5), 2, np.uint8)
    kidney = np.ones((3, 4, 5), np.uint8)
    perfect, nothing = HECScore(dice=1, surface_dice=1), HECScore(dice=0, surface_dice=0)
    both = metrics.kits23_scores(empty, empty, spacing=SPACING)
    assert (both.kidney_and_mass, both.mass, both.tumor) == (perfect, perfect, perfect)
    one = metrics.kits23_scores(tumor, empty, spacing=SPACING)
    assert (one.kidney_and_mass, one.mass, one.tumor) == (nothing, nothing, nothing)
    false_tumor = metrics.kits23_scores(kidney, tumor, spacing=SPACING)
    assert (false_tumor.kidney_and_mass, false_tumor.tumor) == (perfect, nothing)


def test_empty_air_around_changes_nothing():
    reference, prediction = blobs(3)
    far = [np.pad(labels, ((7, 3), (0, 5), (9, 1))) for labels in (reference, prediction)]
    near = metrics.kits23_scores(reference, prediction, spacing=SPACING)
    assert metrics.kits23_scores(*far, spacing=SPACING) == near


def test_labels_can_have_other_values():
    reference, prediction = blobs(4)
    values = np.array([0, 7, 5, 9], np.uint8)  # background, kidney, tumor, cyst
    other = Labels(kidney=7, tumor=5, cyst=9)
    renamed = values[reference], values[prediction]
    assert metrics.kits23_scores(*renamed, spacing=SPACING, labels=other) == metrics.kits23_scores(
        reference, prediction, spacing=SPACING
    )
    assert metrics.kits19_scores(*renamed, other) == metrics.kits19_scores(reference, prediction)


def test_the_tolerances_are_the_current_official_ones():
    # kits23/configuration/labels.py; 2.178, 1.393, 1.536 of an early KiTS21 are superseded
    assert TOLERANCE_MM == {
        "kidney_and_mass": 1.0330772532390826,
        "mass": 1.1328796488598762,
        "tumor": 1.1498198361434828,
    }
