import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from strategies import grids, label_arrays

from kitspipe.evaluation import lesions
from kitspipe.imaging.volume import Grid
from kitspipe.planning.plan import Labels

GRID = Grid(shape=(24, 70, 120), spacing=(2.5, 1.0, 0.8), origin=(-40, 31, -700))
VOXEL_ML = 2.5 * 0.8 / 1000


def two_kidneys():
    """Left: 56 ml with a tumor of 4 ml; right: 56 ml with a cyst of 2.4 ml."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[2:22, 10:50, 5:40] = 1
    labels[2:22, 10:50, 80:115] = 1
    labels[4:14, 12:22, 8:28] = 2
    labels[12:20, 30:45, 90:100] = 3
    return labels


def find(reference, prediction, grid=GRID, labels=Labels(cyst=3)):  # noqa: B008
    return lesions.find(reference, prediction, grid, labels)


def test_a_perfect_prediction_finds_all_and_makes_nothing_up():
    found = find(two_kidneys(), two_kidneys())
    [tumor] = found.tumors
    assert tumor.is_found
    assert tumor.covered_share == 1
    assert tumor.volume_ml == pytest.approx(10 * 10 * 20 * VOXEL_ML)
    assert tumor.diameter_mm == pytest.approx((6 * tumor.volume_ml * 1000 / np.pi) ** (1 / 3))
    assert tumor.center_mm == pytest.approx((-40 + 17.5 * 0.8, 31 + 16.5, -700 + 8.5 * 2.5))
    assert found.false_tumors == ()
    assert [k.is_found for k in found.kidneys] == [True, True]
    assert found.cystic_kidneys == 1
    assert found.cystic_kidneys_with_false == 0
    assert found.false_kidneys_ml == ()


@pytest.mark.parametrize(("slices", "is_found"), [(1, True), (0, False)])
def test_a_tenth_of_a_tumor_is_enough(slices, is_found):
    prediction = np.minimum(two_kidneys(), 1)
    prediction[4 : 4 + slices, 12:22, 8:28] = 2
    [tumor] = find(two_kidneys(), prediction).tumors
    assert tumor.is_found == is_found
    assert tumor.covered_share == pytest.approx(slices / 10)


def test_a_voxel_less_than_a_tenth_is_not_enough():
    prediction = np.minimum(two_kidneys(), 1)
    prediction[4, 12:22, 8:28] = 2
    prediction[4, 12, 8] = 1
    assert not find(two_kidneys(), prediction).tumors[0].is_found


def test_a_tumor_called_cyst_is_missed_and_said():
    prediction = np.where(two_kidneys() == 2, 3, two_kidneys()).astype(np.uint8)
    [tumor] = find(two_kidneys(), prediction).tumors
    assert (tumor.is_found, tumor.cyst_share) == (False, 1)


def test_a_cyst_called_tumor_is_a_false_tumor_in_a_cystic_kidney():
    prediction = np.where(two_kidneys() == 3, 2, two_kidneys()).astype(np.uint8)
    found = find(two_kidneys(), prediction)
    [false] = found.false_tumors
    assert false.place == "cyst"
    assert false.cystic_kidney is not None
    assert false.volume_ml == pytest.approx(8 * 15 * 10 * VOXEL_ML)
    assert (found.false_in_cystic, found.cystic_kidneys_with_false) == (1, 1)


def test_two_false_tumors_in_one_cystic_kidney_spoil_one_kidney():
    prediction = two_kidneys()
    prediction[3:7, 12:18, 82:90] = 2
    prediction[14:20, 12:18, 102:110] = 2
    found = find(two_kidneys(), prediction)
    assert [tumor.place for tumor in found.false_tumors] == ["kidney", "kidney"]
    assert (found.false_in_cystic, found.cystic_kidneys_with_false) == (2, 1)


def test_a_false_tumor_in_the_other_kidney_or_outside_is_in_no_cystic_one():
    prediction = two_kidneys()
    prediction[16:20, 40:48, 8:16] = 2
    prediction[4:10, 55:65, 50:60] = 2
    found = find(two_kidneys(), prediction)
    assert sorted(tumor.place for tumor in found.false_tumors) == ["background", "kidney"]
    assert found.false_in_cystic == 0


@pytest.mark.parametrize(("voxels", "count"), [(50, 1), (49, 0)])
def test_from_a_tenth_of_a_ml_on_it_is_a_tumor(voxels, count):
    reference = np.minimum(two_kidneys(), 1)
    speck = reference.copy()
    speck[4:6, 30, 10:35] = 2
    if voxels == 49:
        speck[4, 30, 10] = 1
    assert len(find(speck, reference).tumors) == count
    assert len(find(reference, speck).false_tumors) == count


def test_touching_a_speck_of_tumor_is_not_false():
    reference = np.minimum(two_kidneys(), 1)
    reference[10, 20, 20] = 2
    prediction = np.minimum(two_kidneys(), 1)
    prediction[8:12, 15:25, 15:25] = 2
    found = find(reference, prediction)
    assert (found.tumors, found.false_tumors) == ((), ())


def test_one_predicted_tumor_can_cover_two():
    reference = two_kidneys()
    reference[6:9, 12:22, 8:28] = 1
    prediction = two_kidneys()
    found = find(reference, prediction)
    assert [tumor.is_found for tumor in found.tumors] == [True, True]
    assert found.false_tumors == ()


def test_a_kidney_that_is_not_there_is_missed_and_one_too_many_is_false():
    prediction = two_kidneys()
    prediction[:, :, 60:] = 0
    prediction[2:12, 55:68, 5:115] = 1
    found = find(two_kidneys(), prediction)
    assert sorted(kidney.is_found for kidney in found.kidneys) == [False, True]
    assert found.false_kidneys_ml == pytest.approx((10 * 13 * 110 * VOXEL_ML,))


def test_without_a_prediction_all_is_missed_and_false_ones_are_unknown():
    found = find(two_kidneys(), None)
    assert [tumor.is_found for tumor in found.tumors] == [False]
    assert found.false_tumors is None
    assert [kidney.is_found for kidney in found.kidneys] == [False, False]


def test_nothing_in_both_is_nothing():
    empty = np.zeros(GRID.shape, np.uint8)
    found = find(empty, empty)
    assert (found.tumors, found.false_tumors, found.kidneys) == ((), (), ())


def test_labels_without_cysts_know_no_cystic_kidney():
    reference = np.where(two_kidneys() == 3, 1, two_kidneys()).astype(np.uint8)
    prediction = np.where(two_kidneys() == 3, 2, two_kidneys()).astype(np.uint8)
    found = find(reference, prediction, labels=Labels())
    assert found.cystic_kidneys == 0
    assert [tumor.place for tumor in found.false_tumors] == ["kidney"]


@pytest.mark.parametrize(
    ("diameter_mm", "name"),
    [
        (19.9, "< 2 cm"),
        (20, "2-4 cm"),
        (40, "2-4 cm"),
        (40.1, "4-7 cm"),
        (70, "4-7 cm"),
        (70.1, "> 7 cm"),
    ],
)
def test_size_bins_end_as_the_t_stage_does(diameter_mm, name):
    assert lesions.size_bin(diameter_mm) == name


def test_a_ball_has_its_own_diameter():
    z, y, x = np.ogrid[-20:21, -20:21, -20:21]
    ball = z**2 + y**2 + x**2 <= 15**2
    assert lesions.ball_diameter_mm(ball.sum() / 1000) == pytest.approx(30, rel=0.01)


@given(st.data())
def test_counts_are_those_of_scipy(data):
    grid = data.draw(grids(largest=9))
    reference, prediction = (data.draw(label_arrays(grid.shape)) for _ in range(2))
    found = find(reference, prediction, grid)
    every = np.ones((3, 3, 3))
    numbered, count = ndimage.label(prediction == 2, every)
    false = [
        (numbered == n).sum() * grid.voxel_ml
        for n in range(1, count + 1)
        if not (reference[numbered == n] == 2).any()
    ]
    kept = sorted((ml for ml in false if ml >= 0.1 * (1 - 1e-9)), reverse=True)
    assert [tumor.volume_ml for tumor in found.false_tumors] == pytest.approx(kept)
    numbered, count = ndimage.label(reference == 2, every)
    shares = [
        (prediction[numbered == n] == 2).mean()
        for n in range(1, count + 1)
        if (numbered == n).sum() * grid.voxel_ml >= 0.1 * (1 - 1e-9)
    ]
    assert sorted(tumor.covered_share for tumor in found.tumors) == pytest.approx(sorted(shares))
