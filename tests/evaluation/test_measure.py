import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import KIDNEY_RADII, MIDDLES, scan_grid, two_kidneys
from strategies import label_volumes

from kitspipe.dataset.cases import find_masks
from kitspipe.evaluation.measure import measure_case
from kitspipe.imaging.formats import read_labels, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.resample import resample_labels
from kitspipe.imaging.volume import Box, Grid, Volume
from kitspipe.planning.plan import Labels

VALUES = Labels(cyst=3)
SPACING = (2.5, 1.1, 1.3)
TILTED = (8.0, -6.0, 11.0)
# On the outer border of the right kidney's lower third, half outside.
TUMOR = (MIDDLES["right"] + (-17, 6, -30), 12.0)
CYST = (MIDDLES["left"] + (19, 0, 10), 9.0)
BALL_ML = 4 / 3 * math.pi * 12**3 / 1000


@pytest.fixture(scope="module")
def labels():
    return two_kidneys(scan_grid(SPACING, TILTED), [TUMOR], [CYST])


@pytest.fixture(scope="module")
def measured(labels):
    return measure_case(labels, None, VALUES, "case_00000")


def without(labels, side):
    """The labels of one side only."""
    x = labels.grid.to_world(np.stack(np.indices(labels.grid.shape), -1))[..., 0]
    kept = x < 0 if side == "left" else x > 0
    return Volume(array=np.where(kept, labels.array, np.uint8(0)), grid=labels.grid)


def test_each_kidney_has_its_side_volume_and_length(measured):
    right, left = measured.kidneys
    assert (right.side, left.side) == ("right", "left")
    assert right.side_is_certain
    assert left.side_is_certain
    assert left.length_mm == pytest.approx(110, abs=4)
    assert right.parenchyma_share + left.parenchyma_share == pytest.approx(1)
    assert left.volume_ml == pytest.approx(left.parenchyma_ml + left.cyst_ml)
    assert right.volume_ml == pytest.approx(right.parenchyma_ml + right.tumor_ml)


def test_cysts_are_counted_with_their_kidney(measured):
    right, left = measured.kidneys
    assert (right.cyst_count, left.cyst_count) == (0, 1)
    assert left.cyst_ml == pytest.approx(4 / 3 * math.pi * 9**3 / 1000, rel=0.05)


def test_a_ball_has_the_measures_of_a_ball(measured):
    [tumor] = measured.tumors
    assert tumor.volume_ml == pytest.approx(BALL_ML, rel=0.03)
    assert tumor.axial_diameter_mm == pytest.approx(24, abs=0.7)
    assert tumor.perpendicular_mm == pytest.approx(24, abs=0.9)
    assert tumor.diameter_3d_mm == pytest.approx(24, abs=1.3)
    assert tumor.sphere_diameter_mm == pytest.approx(24, rel=0.01)
    assert tumor.center_mm == pytest.approx(TUMOR[0], abs=0.2)
    assert tumor.t_size == "T1a"
    assert not tumor.is_cut


def test_a_tumor_is_placed_in_its_kidney(measured):
    [tumor] = measured.tumors
    assert (tumor.side, tumor.pole) == ("right", "lower")
    assert tumor.kidney_gap_mm == 0
    assert 0.3 < tumor.exophytic_share < 0.7
    # The part of the ball's surface that lies inside the kidney, by random points on it.
    directions = np.random.default_rng(0).normal(size=(20_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    own = TUMOR[0] - MIDDLES["right"] + TUMOR[1] * directions
    inside = (((own / KIDNEY_RADII) ** 2).sum(axis=1) < 1).mean()
    assert tumor.contact_area_mm2 == pytest.approx(4 * math.pi * 12**2 * inside, rel=0.1)
    assert 2 < tumor.sinus_distance_mm < 20
    assert tumor.renal.radius_points == 1
    assert {"N", "L"} <= set(tumor.renal.needs_look)


def test_the_lines_end_on_the_tumors_border(measured):
    [tumor] = measured.tumors
    for ends, length in (
        (tumor.axial_line_mm, tumor.axial_diameter_mm),
        (tumor.perpendicular_line_mm, tumor.perpendicular_mm),
    ):
        assert math.dist(*ends) == pytest.approx(length)
        for end in ends:
            assert math.dist(end, TUMOR[0]) == pytest.approx(12, abs=1.2)


def test_the_voxel_of_the_center_is_where_the_center_is(measured, labels):
    [tumor] = measured.tumors
    back = labels.grid.to_world(tumor.center_voxel)
    assert np.abs(back - tumor.center_mm).max() <= max(SPACING)
    assert labels.array[tumor.center_voxel] == VALUES.tumor


@pytest.mark.parametrize("axes", ["IPL", "LPS", "RAS", "SRA", "AIR"])
def test_the_order_and_direction_of_a_files_axes_change_nothing(tmp_path, labels, measured, axes):
    file = tmp_path / "case_00000.nii.gz"
    write_labels(file, labels, header_for(labels.grid, axes=axes))
    read, _ = read_labels(file)
    again = measure_case(read, None, VALUES, "case_00000")
    assert _numbers(again) == pytest.approx(_numbers(measured), rel=1e-4, abs=2e-3)


@pytest.mark.parametrize("spacing", [(1.5, 0.9, 0.9), (4.0, 0.8, 0.8)])
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (-12.0, 9.0, -7.0)])
def test_other_grids_give_nearly_the_same(measured, spacing, angles):
    there = measure_case(
        two_kidneys(scan_grid(spacing, angles), [TUMOR], [CYST]), None, VALUES, "case_00000"
    )
    here, again = measured.tumors[0], there.tumors[0]
    assert (again.side, again.pole, again.t_size) == (here.side, here.pole, here.t_size)
    assert again.volume_ml == pytest.approx(here.volume_ml, rel=0.05)
    assert again.axial_diameter_mm == pytest.approx(here.axial_diameter_mm, abs=1)
    assert again.exophytic_share == pytest.approx(here.exophytic_share, abs=0.05)
    assert again.contact_area_mm2 == pytest.approx(here.contact_area_mm2, rel=0.12)
    assert again.renal.face == here.renal.face
    for one, other in zip(measured.kidneys, there.kidneys, strict=True):
        assert other.parenchyma_ml == pytest.approx(one.parenchyma_ml, rel=0.02)
        assert other.length_mm == pytest.approx(one.length_mm, abs=3)


def test_a_resampled_mask_measures_nearly_the_same(labels, measured):
    finer = resample_labels(labels, labels.grid.with_spacing((1.5, 1.0, 1.0)))
    [tumor] = measure_case(finer, None, VALUES, "case_00000").tumors
    assert tumor.volume_ml == pytest.approx(measured.tumors[0].volume_ml, rel=0.06)
    assert tumor.axial_diameter_mm == pytest.approx(measured.tumors[0].axial_diameter_mm, abs=1.5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_one_kidney_in_a_whole_body_has_the_side_it_lies_on(labels, side):
    other = "left" if side == "right" else "right"
    found = measure_case(without(labels, other), None, VALUES, "case_00000")
    assert [(kidney.side, kidney.side_is_certain) for kidney in found.kidneys] == [(side, True)]
    assert f"one kidney only, the {side} one" in found.warnings


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_scan_of_one_flank_shows_the_side_by_the_kidneys_hilum(side):
    whole = two_kidneys(scan_grid(SPACING), sides=(side,))
    box = Box.around(whole.array > 0).dilate(20, whole.grid).clip(whole.grid.shape)
    flank = Volume(array=whole.array[box.slices].copy(), grid=whole.grid.crop(box))
    [kidney] = measure_case(flank, None, VALUES, "case_00000").kidneys
    assert kidney.side == side


def test_sides_do_not_depend_on_where_the_scans_middle_lies(labels):
    shape = labels.grid.shape
    right = Box(start=(0, 0, 0), stop=(shape[0], shape[1], shape[2] - 25))
    cropped = Volume(array=labels.array[right.slices].copy(), grid=labels.grid.crop(right))
    kidneys = measure_case(cropped, None, VALUES, "case_00000").kidneys
    assert [kidney.side for kidney in kidneys] == ["right", "left"]


def test_kidneys_above_each_other_on_one_side_are_both_on_it():
    grid = scan_grid((4.0, 2.0, 2.0), extent=(420, 110, 280))
    upper, lower = (
        two_kidneys(grid, sides=("left",)).array,
        np.roll(two_kidneys(grid, sides=("left",)).array, -33, axis=0),
    )
    both = Volume(array=np.maximum(upper, lower), grid=grid)
    found = measure_case(both, None, VALUES, "case_00000")
    assert [kidney.side for kidney in found.kidneys] == ["left", "left"]
    assert "both kidneys on the left side" in found.warnings


def test_a_tumor_that_the_scan_cuts_is_marked(labels):
    lowest = int(np.nonzero((labels.array == 2).any(axis=(1, 2)))[0][3])
    box = Box(start=(lowest, 0, 0), stop=labels.grid.shape)
    cut = Volume(array=labels.array[box.slices].copy(), grid=labels.grid.crop(box))
    found = measure_case(cut, None, VALUES, "case_00000")
    assert found.tumors[0].is_cut
    assert found.kidneys[0].is_cut
    assert "tumor 1: cut by the scan's border" in found.warnings
    assert "right kidney: cut by the scan's border" in found.warnings


def test_a_tumor_away_from_the_kidneys_is_named_with_its_distance():
    # Kidney's lowest point is at z -55; the ball's highest at -63.
    far = (MIDDLES["right"] + (0, 0, -71), 8.0)
    found = measure_case(two_kidneys(scan_grid((1.0, 1.5, 1.5)), [far]), None, VALUES, "case_00000")
    [tumor] = found.tumors
    assert tumor.kidney_gap_mm == pytest.approx(8, abs=1.5)
    assert (tumor.side, tumor.pole, tumor.renal) == (None, None, None)
    assert (tumor.exophytic_share, tumor.contact_area_mm2, tumor.sinus_distance_mm) == (None,) * 3
    right = found.kidneys[0]
    assert (right.tumor_count, right.tumor_ml) == (0, 0)
    assert right.volume_ml == right.parenchyma_ml
    assert any(text.startswith("tumor 1: outside the kidneys, ") for text in found.warnings)


def test_a_tumor_one_slice_or_little_away_still_belongs_to_its_kidney():
    # Kidney's lowest point is at z -55; the ball's highest at -58, one slice of 5 mm between.
    near = (MIDDLES["right"] + (0, 0, -68), 10.0)
    for spacing in ((1.0, 1.5, 1.5), (5.0, 1.5, 1.5)):
        found = measure_case(two_kidneys(scan_grid(spacing), [near]), None, VALUES, "a")
        [tumor] = found.tumors
        assert 0 < tumor.kidney_gap_mm <= 5
        assert (tumor.side, tumor.contact_area_mm2, tumor.exophytic_share) == ("right", 0, 1)
        assert found.kidneys[0].tumor_count == 1
        assert not any("outside" in text for text in found.warnings)


def test_tumors_are_numbered_by_volume_and_specks_left_out():
    balls = [
        (MIDDLES["left"] + (0, 20, -20), 8.0),
        (MIDDLES["right"] + (0, 20, 0), 11.0),
        (MIDDLES["right"] + (0, 0, 40), 2.0),
    ]
    found = measure_case(two_kidneys(scan_grid((1.0, 1.5, 1.5)), balls), None, VALUES, "a")
    assert [(tumor.number, tumor.side) for tumor in found.tumors] == [(1, "right"), (2, "left")]
    assert any("specks of tumor" in text for text in found.warnings)


def test_hu_are_those_of_the_tumors_voxels(labels):
    rng = np.random.default_rng(0)
    hu = np.choose(labels.array, [-100, 160, 70, 5]) + rng.integers(-30, 31, labels.array.shape)
    image = Volume(array=hu.astype(np.int16), grid=labels.grid)
    found = measure_case(labels, image, VALUES, "case_00000")
    tissue, voxels = found.tumors[0].tissue, hu[labels.array == 2]
    assert tissue.mean_hu == pytest.approx(voxels.mean())
    assert tissue.sd_hu == pytest.approx(voxels.std())
    assert (tissue.p05_hu, tissue.median_hu, tissue.p95_hu) == pytest.approx(
        np.percentile(voxels, (5, 50, 95))
    )
    assert found.kidneys[0].parenchyma.mean_hu == pytest.approx(160, abs=1)
    assert found.warnings == ()


def test_implausible_hu_and_thick_slices_are_named():
    labels = two_kidneys(scan_grid((8.0, 1.5, 1.5)), [TUMOR])
    air = Volume(array=np.full(labels.grid.shape, -900, np.int16), grid=labels.grid)
    warnings = measure_case(labels, air, VALUES, "case_00000").warnings
    assert "right kidney: a mean of -900 HU is implausible" in warnings
    assert "tumor 1: a mean of -900 HU is implausible" in warnings
    assert any("8.0 mm between voxels" in text for text in warnings)


def test_a_small_kidney_is_implausible():
    grid = Grid(shape=(40, 60, 200), spacing=(1.0, 1.0, 1.0))
    array = np.zeros(grid.shape, np.uint8)
    array[5:33, 10:38, 20:48] = array[5:33, 10:38, 150:178] = 1
    warnings = measure_case(Volume(array=array, grid=grid), None, VALUES, "a").warnings
    assert "right kidney: 22 ml of tissue are implausible" in warnings


def test_an_empty_mask_has_a_warning_and_nothing_else():
    grid = scan_grid((10.0, 5.0, 5.0))
    empty = Volume(array=np.zeros(grid.shape, np.uint8), grid=grid)
    found = measure_case(empty, None, VALUES, "case_00000")
    assert (found.kidneys, found.tumors) == ((), ())
    assert found.warnings[0] == "no kidney"


def test_a_tumor_without_a_kidney_is_measured_by_itself():
    grid = scan_grid((2.0, 2.0, 2.0))
    labels = two_kidneys(grid, [((0, 0, 0), 15.0)], sides=())
    [tumor] = measure_case(labels, None, VALUES, "case_00000").tumors
    assert tumor.axial_diameter_mm == pytest.approx(30, abs=1)
    assert (tumor.side, tumor.renal, tumor.exophytic_share) == (None, None, None)


def test_a_ct_on_another_grid_is_refused(labels):
    grid = scan_grid((5.0, 3.0, 3.0))
    image = Volume(array=np.zeros(grid.shape, np.int16), grid=grid)
    with pytest.raises(ValueError, match="CT on"):
        measure_case(labels, image, VALUES, "case_00000")


@settings(max_examples=25)
@given(labels=label_volumes(smallest=3, largest=14), with_image=st.booleans())
def test_any_label_map_is_measured_and_can_be_written(labels, with_image):
    image = Volume(array=np.full(labels.grid.shape, 40, np.int16), grid=labels.grid)
    found = measure_case(labels, image if with_image else None, VALUES, "case_00000")
    assert msgspec.json.decode(msgspec.json.encode(found))["case_id"] == "case_00000"
    volumes = [tumor.volume_ml for tumor in found.tumors]
    assert volumes == sorted(volumes, reverse=True)
    total = (labels.array == 2).sum() * labels.grid.voxel_ml
    assert sum(volumes) <= total * (1 + 1e-9)
    for tumor in found.tumors:
        assert tumor.perpendicular_mm <= tumor.axial_diameter_mm + 1e-9
        assert tumor.axial_diameter_mm <= tumor.diameter_3d_mm + 1e-9
    for kidney in found.kidneys:
        assert 0 < kidney.parenchyma_share <= 1


@pytest.mark.slow
def test_forty_real_masks_measure_plausibly(shared_data):
    for case_id, file in find_masks(shared_data / "kits_masks").items():
        labels, _ = read_labels(file)
        found = measure_case(labels, None, VALUES, case_id)
        sides = [kidney.side for kidney in found.kidneys]
        assert sides == (["left"] if case_id == "case_00005" else ["right", "left"])
        assert all(100 < kidney.parenchyma_ml < 400 for kidney in found.kidneys)
        # One kidney is grown through by a tumor of 1.4 l.
        lengths = [kidney.length_mm for kidney in found.kidneys]
        assert all(95 < length < 175 for length in lengths) or case_id == "case_00030"
        assert found.tumors
        for tumor in found.tumors:
            assert tumor.perpendicular_mm <= tumor.axial_diameter_mm <= tumor.diameter_3d_mm
            assert tumor.sphere_diameter_mm <= tumor.diameter_3d_mm
            assert tumor.kidney_gap_mm == 0
            assert 4 <= tumor.renal.total <= 12
            # A ball's surface is the least that holds the volume; a mask's is less than thrice it.
            surface = math.pi * tumor.sphere_diameter_mm**2
            assert 0 < tumor.contact_area_mm2 < 1.3 * surface


def _numbers(measurement):
    """All numbers of a measurement, in order."""
    found = []

    def collect(value):
        if isinstance(value, dict):
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        elif isinstance(value, int | float):
            found.append(float(value))

    collect(msgspec.to_builtins(measurement))
    return found
