import itertools
import math
import warnings

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from surface_distance import lookup_tables

from kitspipe.evaluation import metrics
from kitspipe.evaluation.metrics import TOLERANCE_MM, HECScore
from kitspipe.planning.plan import Labels

SPACING = (2.5, 0.7, 0.8)
OFFICIAL_CLASSES = {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}


def official_kits19(reference, prediction):
    """The starter code's formula; its except branch for 0/0 never runs with NumPy."""
    found, expected = np.greater(prediction, 0), np.greater(reference, 0)
    kidney = 2 * np.logical_and(found, expected).sum() / (found.sum() + expected.sum())
    found, expected = np.greater(prediction, 1), np.greater(reference, 1)
    tumor = 2 * np.logical_and(found, expected).sum() / (found.sum() + expected.sum())
    return kidney, tumor


def official_kits23(reference, prediction, values, tolerance_mm, spacing):
    found, expected = np.isin(prediction, values), np.isin(reference, values)
    if not found.any() and not expected.any():
        return 1, 1
    dice = 2 * np.sum(found & expected) / (np.sum(found) + np.sum(expected))
    if not found.any() or not expected.any():
        return dice, 0
    return dice, oracle_surface_dice(expected, found, spacing, tolerance_mm)


def oracle_surface_dice(a, b, spacing, tolerance_mm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scipy.ndimage.filters, inside it
        distances = surface_distance.compute_surface_distances(a, b, spacing)
    return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)


def brute_force_surface_dice(a, b, spacing, tolerance_mm):
    """Every corner of every voxel against every other, in loops."""
    areas = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)

    def elements(mask):
        padded = np.pad(mask, 1)
        for corner in itertools.product(*(range(n + 1) for n in mask.shape)):
            cube = padded[tuple(slice(c, c + 2) for c in corner)]
            if cube.any() and not cube.all():
                code = int((cube * lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL).sum())
                yield np.multiply(corner, spacing), areas[code]

    sides = [list(elements(a)), list(elements(b))]
    overlap = total = 0.0
    for own, other in (sides, sides[::-1]):
        for place, area in own:
            total += area
            overlap += area * any(math.dist(place, p) <= tolerance_mm for p, _ in other)
    return overlap / total


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
spacings = st.tuples(*[st.floats(0.4, 5)] * 3)


def test_dice_of_two_of_three_voxels():
    a = np.array([1, 1, 1, 0, 0], bool)
    b = np.array([0, 1, 1, 1, 1], bool)
    assert metrics.dice(a, b) == 4 / 7  # 2 common, 3 + 4 in all


def test_dice_of_empties():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert math.isnan(metrics.dice(empty, empty))
    assert metrics.dice(empty, full) == metrics.dice(full, empty) == 0


def test_surface_dice_of_empties():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert math.isnan(metrics.surface_dice(empty, empty, spacing=SPACING, tolerance_mm=1))
    assert metrics.surface_dice(empty, full, spacing=SPACING, tolerance_mm=1) == 0
    assert metrics.surface_dice(full, empty, spacing=SPACING, tolerance_mm=1) == 0


@pytest.mark.parametrize("score", [metrics.dice, metrics.kits19_scores])
def test_different_shapes_are_refused(score):
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 2, 4\)"):
        score(np.zeros((1, 2, 3), bool), np.zeros((1, 2, 4), bool))


@pytest.mark.parametrize("voxel", [(0, 0, 0), (2, 3, 4), (1, 0, 3)])
def test_a_voxel_agrees_with_itself(voxel):
    mask = np.zeros((3, 4, 5), bool)
    mask[voxel] = True
    assert metrics.surface_dice(mask, mask, spacing=SPACING, tolerance_mm=0) == 1


def test_a_voxel_moved_by_one_is_within_its_spacing_and_not_below():
    # The 8 corners of a voxel weigh the same. Moved along Y by 0.7 mm, 4 of the 8 meet corners
    # of the other voxel and the other 4 lie 0.7 mm away from them.
    a, b = np.zeros((2, 3, 5, 4), bool)
    a[1, 2, 2] = b[1, 3, 2] = True
    assert metrics.surface_dice(a, b, spacing=SPACING, tolerance_mm=0.69) == pytest.approx(0.5)
    assert metrics.surface_dice(a, b, spacing=SPACING, tolerance_mm=0.7) == 1


@given(pairs, spacings, st.floats(0, 6))
@settings(max_examples=60, deadline=None)
def test_surface_dice_is_the_packages(pair, spacing, tolerance_mm):
    a, b = pair
    if a.any() and b.any():
        expected = oracle_surface_dice(a, b, spacing, tolerance_mm)
        found = metrics.surface_dice(a, b, spacing=spacing, tolerance_mm=tolerance_mm)
        assert found == pytest.approx(expected, abs=1e-12)


@given(pairs, st.floats(0, 3))
@settings(max_examples=25, deadline=None)
def test_surface_dice_is_the_brute_force_one(pair, tolerance_mm):
    a, b = pair
    if a.any() and b.any():
        expected = brute_force_surface_dice(a, b, SPACING, tolerance_mm)
        found = metrics.surface_dice(a, b, spacing=SPACING, tolerance_mm=tolerance_mm)
        assert found == pytest.approx(expected, abs=1e-12)


@given(pairs, st.permutations(range(3)), st.sets(st.integers(0, 2)))
@settings(max_examples=40, deadline=None)
def test_surface_dice_does_not_depend_on_the_order_and_direction_of_axes(pair, order, flipped):
    a, b = pair
    turned = [np.flip(np.transpose(mask, order), sorted(flipped)) for mask in pair]
    spacing = tuple(SPACING[axis] for axis in order)
    expected = metrics.surface_dice(a, b, spacing=SPACING, tolerance_mm=1)
    found = metrics.surface_dice(*turned, spacing=spacing, tolerance_mm=1)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(pairs)
@settings(max_examples=40, deadline=None)
def test_both_scores_are_symmetric(pair):
    a, b = pair
    for score in (
        metrics.dice,
        lambda a, b: metrics.surface_dice(a, b, spacing=SPACING, tolerance_mm=1),
    ):
        assert score(a, b) == pytest.approx(score(b, a), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(6))
def test_kits19_is_the_official_formula_on_labels_0_1_2(seed):
    reference, prediction = (labels % 3 for labels in blobs(seed))
    found = metrics.kits19_scores(reference, prediction)
    assert (found.kidney, found.tumor) == pytest.approx(
        official_kits19(reference, prediction), abs=1e-8
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


@pytest.mark.parametrize("name", OFFICIAL_CLASSES)
@pytest.mark.parametrize("seed", range(6))
def test_kits23_is_the_official_formula(seed, name):
    reference, prediction = blobs(seed)
    found = getattr(metrics.kits23_scores(reference, prediction, spacing=SPACING), name)
    dice, surface = official_kits23(
        reference, prediction, OFFICIAL_CLASSES[name], TOLERANCE_MM[name], SPACING
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
