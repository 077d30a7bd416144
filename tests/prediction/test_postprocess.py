import numpy as np
from small_plans import small_tumor_plan

from kitspipe.imaging.volume import Grid
from kitspipe.planning.plan import Labels
from kitspipe.prediction.postprocess import clean_tumors, merge


def classes_with_two_tumors():
    classes = np.zeros((9, 20, 21), np.uint8)
    classes[2:6, 3:8, 3:8] = 1  # 100 voxels
    classes[6:8, 12:15, 12:15] = 1  # 18 voxels
    classes[1:3, 15:18, 2:5] = 2
    return classes


GRID = Grid(shape=(9, 20, 21), spacing=(5.0, 2.0, 1.0))  # 0.01 ml a voxel


def test_only_the_largest_tumor_stays_and_cysts_are_left_alone():
    cleaned = clean_tumors(classes_with_two_tumors(), GRID, small_tumor_plan(components="largest"))
    assert (cleaned == 1).sum() == 100
    assert (cleaned == 2).sum() == 18


def test_tumors_below_the_minimal_volume_go():
    plan = small_tumor_plan(components="all", minimal_tumor_ml=0.19)
    assert (clean_tumors(classes_with_two_tumors(), GRID, plan) == 1).sum() == 100
    plan = small_tumor_plan(components="all", minimal_tumor_ml=0.17)
    assert (clean_tumors(classes_with_two_tumors(), GRID, plan) == 1).sum() == 118


def test_nothing_found_stays_nothing():
    empty = np.zeros((9, 20, 21), np.uint8)
    assert not clean_tumors(empty, GRID, small_tumor_plan(components="largest")).any()


def test_lesions_overwrite_kidney_and_tumors_outside_stay():
    kidney = np.array([[[True, True, True, False, False]]])
    classes = np.array([[[0, 1, 2, 1, 0]]], np.uint8)
    merged = merge(kidney, classes, Labels(kidney=1, tumor=2, cyst=3))
    assert merged.tolist() == [[[1, 2, 3, 2, 0]]]


def test_without_a_cyst_label_cysts_are_kidney():
    kidney = np.array([[[True, True]]])
    classes = np.array([[[2, 1]]], np.uint8)
    assert merge(kidney, classes, Labels(kidney=7, tumor=9)).tolist() == [[[7, 9]]]
