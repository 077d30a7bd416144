import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from small_plans import small_tumor_plan

from kitspipe.imaging.volume import Grid
from kitspipe.planning.plan import Labels
from kitspipe.prediction.postprocess import clean_lesions, clean_tumors, merge, without_kidney


def classes_with_two_tumors():
    classes = np.zeros((9, 20, 21), np.uint8)
    classes[2:6, 3:8, 3:8] = 1  # 100 voxels
    classes[6:8, 12:15, 12:15] = 1  # 18 voxels
    classes[1:3, 15:18, 2:5] = 2
    return classes


GRID = Grid(shape=(9, 20, 21), spacing=(5.0, 2.0, 1.0))  # 0.01 ml a voxel
NO_KIDNEY = np.zeros(GRID.shape, bool)


def cleaned(classes, kidney=NO_KIDNEY, **rules):
    return clean_tumors(classes, kidney, GRID, small_tumor_plan(**rules))


def test_only_the_largest_tumor_stays_and_cysts_are_left_alone():
    left = cleaned(classes_with_two_tumors(), components="largest")
    assert (left == 1).sum() == 100
    assert (left == 2).sum() == 18


def test_tumors_below_the_minimal_volume_go():
    classes = classes_with_two_tumors()
    assert (cleaned(classes, components="all", minimal_tumor_ml=0.19) == 1).sum() == 100
    assert (cleaned(classes, components="all", minimal_tumor_ml=0.17) == 1).sum() == 118


def test_the_largest_tumor_of_each_kidney_stays():
    kidney = NO_KIDNEY.copy()
    kidney[1:7, 2:10, 2:10] = True  # with the tumor of 100 voxels
    kidney[1:8, 8:19, 12:20] = True  # with that of 18
    classes = classes_with_two_tumors()
    classes[2, 18, 18] = 1  # a second, smaller one in the second kidney
    left = cleaned(classes, kidney, components="largest_per_kidney")
    assert (left == 1).sum() == 118
    assert left[2, 18, 18] == 0


def test_a_tumor_beside_the_kidney_touches_it_and_one_further_off_does_not():
    kidney = NO_KIDNEY.copy()
    kidney[0:2, 2:9, 2:9] = True  # ends where the first tumor begins
    kidney[:, 17:, 12:] = True  # two rows behind the second
    left = cleaned(classes_with_two_tumors(), kidney, components="touching_kidney")
    assert (left == 1).sum() == 100


@pytest.mark.parametrize("rule", ["all", "largest", "largest_per_kidney", "touching_kidney"])
@given(
    classes=arrays(np.uint8, (4, 7, 8), elements=st.integers(0, 2)),
    kidney=arrays(bool, (4, 7, 8), elements=st.booleans()),
)
def test_a_rule_keeps_whole_tumors_and_changes_nothing_else(rule, classes, kidney):
    grid = Grid(shape=classes.shape, spacing=(5.0, 2.0, 1.0))
    left = clean_tumors(classes, kidney, grid, small_tumor_plan(components=rule))
    changed = left != classes
    assert (classes[changed] == 1).all()
    assert (left[changed] == 0).all()
    # By scipy, independent of the components used inside.
    numbered, count = ndimage.label(classes == 1, np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        assert len(set(changed[numbered == number].tolist())) == 1
    kept = len(np.unique(numbered[left == 1]))
    if rule == "all":
        assert kept == count
    if rule == "largest":
        assert kept == min(1, count)


@pytest.mark.parametrize("rule", ["all", "largest", "largest_per_kidney", "touching_kidney"])
def test_nothing_found_stays_nothing(rule):
    assert not cleaned(np.zeros(GRID.shape, np.uint8), components=rule).any()


def test_lesions_overwrite_kidney_and_tumors_outside_stay():
    kidney = np.array([[[True, True, True, False, False]]])
    classes = np.array([[[0, 1, 2, 1, 0]]], np.uint8)
    merged = merge(kidney, classes, Labels(kidney=1, tumor=2, cyst=3))
    assert merged.tolist() == [[[1, 2, 3, 2, 0]]]


def test_without_a_cyst_label_cysts_are_kidney():
    kidney = np.array([[[True, True]]])
    classes = np.array([[[2, 1]]], np.uint8)
    assert merge(kidney, classes, Labels(kidney=7, tumor=9)).tolist() == [[[7, 9]]]


def a_kidney_and_a_lesion(gap_voxels, lesion_length=4):
    """A kidney of 2.88 ml, and so far behind it what the first stage took for another one."""
    kidney, classes = np.zeros((9, 20, 40), bool), np.zeros((9, 20, 40), np.uint8)
    kidney[0:8, 2:8, 2:8] = True
    start = 8 + gap_voxels
    kidney[2:5, 2:8, start : start + lesion_length] = True
    classes[2:5, 2:8, start : start + lesion_length] = 1
    return kidney, classes, Grid(shape=classes.shape, spacing=(5.0, 2.0, 1.0))


def test_a_kidney_that_is_lesion_all_through_is_none():
    kidney, classes, grid = a_kidney_and_a_lesion(gap_voxels=12)
    left_out, volumes_ml = without_kidney(kidney, classes, grid, minimal_ml=1.0)
    np.testing.assert_array_equal(left_out, classes == 1)
    assert volumes_ml == pytest.approx([0.72])


def test_a_lesion_within_ten_millimetres_of_a_kidney_belongs_to_it():
    kidney, classes, grid = a_kidney_and_a_lesion(gap_voxels=9)
    assert not without_kidney(kidney, classes, grid, minimal_ml=1.0)[0].any()


def test_a_kidney_that_its_tumor_ate_up_is_larger_than_the_other_one_and_stays():
    kidney, classes, grid = a_kidney_and_a_lesion(gap_voxels=12, lesion_length=17)
    assert (classes > 0).sum() > (kidney & (classes == 0)).sum()
    assert not without_kidney(kidney, classes, grid, minimal_ml=1.0)[0].any()


def test_lesions_outside_what_the_first_stage_found_are_not_its_mistake():
    kidney, classes, grid = a_kidney_and_a_lesion(gap_voxels=12)
    assert not without_kidney(kidney & (classes == 0), classes, grid, minimal_ml=1.0)[0].any()


def test_without_any_kidney_and_with_no_minimum_all_stays():
    kidney, classes, grid = a_kidney_and_a_lesion(gap_voxels=12)
    assert not without_kidney(kidney, classes, grid, minimal_ml=0.0)[0].any()
    only = kidney & (classes > 0)
    assert not without_kidney(only, classes, grid, minimal_ml=1.0)[0].any()


def test_what_is_left_out_is_kidney_no_more():
    kidney, classes, grid = a_kidney_and_a_lesion(gap_voxels=12)
    done = clean_lesions(classes, kidney, grid, small_tumor_plan(minimal_healthy_ml=1.0))
    assert not done.classes.any()
    np.testing.assert_array_equal(done.no_kidney, classes == 1)
