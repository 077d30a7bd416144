import numpy as np

from kitspipe.imaging.volume import Grid
from kitspipe.preprocessing.rois import clean_kidneys, kidney_rois

GRID = Grid(shape=(12, 40, 60), spacing=(5.0, 2.0, 1.0))  # 0.01 ml a voxel


def two_kidneys():
    mask = np.zeros(GRID.shape, bool)
    mask[3:9, 10:25, 8:18] = True  # 9 ml, the patient's right
    mask[2:8, 10:25, 40:52] = True  # 10.8 ml, left
    mask[0, 0, 0] = True
    return mask


def test_specks_are_no_kidneys():
    mask = two_kidneys()
    cleaned, boxes = clean_kidneys(mask, GRID, 5.0)
    mask[0, 0, 0] = False
    assert (cleaned == mask).all()
    assert [(box.start, box.stop) for box in boxes] == [
        ((2, 10, 40), (8, 25, 52)),
        ((3, 10, 8), (9, 25, 18)),
    ]


def test_the_largest_component_stays_however_small():
    mask = np.zeros(GRID.shape, bool)
    mask[4:6, 10:12, 10:12] = True
    assert len(clean_kidneys(mask, GRID, 10.0)[1]) == 1


def test_no_kidney_gives_no_region():
    _, boxes = clean_kidneys(np.zeros(GRID.shape, bool), GRID, 10.0)
    assert boxes == ()
    assert kidney_rois(boxes, GRID, 10.0) == ()


def test_sides_are_the_patients():
    _, boxes = clean_kidneys(two_kidneys(), GRID, 5.0)
    rois = kidney_rois(boxes, GRID, 0.0)
    # X runs from the patient's right to left.
    assert [(roi.name, roi.box.start[2]) for roi in rois] == [("right", 8), ("left", 40)]


def test_the_margin_is_in_mm_and_stays_inside():
    _, boxes = clean_kidneys(two_kidneys(), GRID, 5.0)
    right, _ = kidney_rois(boxes, GRID, 10.0)
    assert right.box.start == (1, 5, 0)
    assert right.box.stop == (11, 30, 28)


def test_a_single_kidneys_side_comes_from_the_scans_middle():
    mask = np.zeros(GRID.shape, bool)
    mask[3:9, 10:25, 40:52] = True
    _, boxes = clean_kidneys(mask, GRID, 5.0)
    assert [roi.side for roi in kidney_rois(boxes, GRID, 0.0)] == ["left"]


def test_two_kidneys_on_one_side_have_names_of_their_own():
    mask = two_kidneys()
    mask[10:12, 10:30, 30:58] = True
    _, boxes = clean_kidneys(mask, GRID, 5.0)
    names = [roi.name for roi in kidney_rois(boxes, GRID, 0.0)]
    assert len(boxes) == 3
    assert len(set(names)) == 3


def test_without_a_margin_whole_slices_are_kept():
    _, boxes = clean_kidneys(two_kidneys(), GRID, 5.0)
    (roi,) = kidney_rois(boxes, GRID, None)
    assert roi.side == "both"
    assert roi.box.start == (2, 0, 0)
    assert roi.box.stop == (9, 40, 60)
