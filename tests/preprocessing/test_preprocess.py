import os
import resource
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from small_plans import small_kidney_plan, small_plan, small_tumor_plan

from kitspipe.dataset.case_files import CaseFiles
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Box, Grid, Volume
from kitspipe.planning.document import write_document
from kitspipe.planning.fingerprint import Fingerprint, fingerprint_case
from kitspipe.planning.plan import Labels
from kitspipe.preprocessing.preprocess import (
    kidney_arrays,
    open_cases,
    preprocess_case,
    source_cases,
    tumor_arrays,
)
from kitspipe.preprocessing.targets import TUMOR_OF_WHOLE, kidney_mask, resolve_spacing
from kitspipe.workspace import STAGES, Workspace

GRID = Grid(shape=(21, 45, 61), spacing=(4.0, 2.5, 2.0), origin=(-31.0, 12.5, 700.0))


def labels_of_two_kidneys():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[4:16, 12:30, 6:22] = 1
    labels[6:12, 14:22, 8:16] = 2
    labels[5:17, 12:30, 38:54] = 1
    labels[9:12, 20:25, 42:50] = 3
    return Volume(array=labels, grid=GRID)


def image():
    rng = np.random.default_rng(0)
    return Volume(array=rng.integers(-200, 300, GRID.shape).astype(np.int16), grid=GRID)


@pytest.fixture
def case(tmp_path):
    header = header_for(GRID, axes="IPL")
    write_image(tmp_path / "raw" / "imaging.nii.gz", image(), header)
    write_labels(tmp_path / "raw" / "segmentation.nii.gz", labels_of_two_kidneys(), header)
    return Case(
        id="case_00001",
        image=tmp_path / "raw" / "imaging.nii.gz",
        labels=tmp_path / "raw" / "segmentation.nii.gz",
    )


def test_a_factor_is_of_the_scans_own_spacing():
    assert resolve_spacing((2.0, "x2", "x0.5"), (5.0, 0.7, 0.8)) == (2.0, 1.4, 0.4)


def test_whole_kidney_is_kidney_tumor_and_cyst():
    labels = Volume(
        array=np.array([[[0, 1, 2, 3, 9]]], np.uint8), grid=Grid(shape=(1, 1, 5), spacing=(1, 1, 1))
    )
    assert kidney_mask(labels, Labels(cyst=3)).tolist() == [[[False, True, True, True, False]]]


def whole_kidney(labels):
    """1 in kidneys and cysts, 2 in tumors."""
    return np.where(labels == 2, TUMOR_OF_WHOLE, labels > 0)


def test_at_the_scans_own_spacing_the_kidney_arrays_are_the_scan():
    plan = small_plan(kidney=small_kidney_plan(target_spacing_mm=(4.0, 2.5, "x1")))
    arrays = kidney_arrays(image(), labels_of_two_kidneys(), plan)
    np.testing.assert_array_equal(arrays.image, image().array)
    np.testing.assert_array_equal(arrays.target, whole_kidney(labels_of_two_kidneys().array))


def test_the_target_is_finer_than_the_image_where_the_plan_says_so():
    network = msgspec.structs.replace(small_kidney_plan().network, target_refinement=(1, 2, 2))
    plan = small_plan(
        kidney=small_kidney_plan(target_spacing_mm=(4.0, "x2", "x2"), network=network)
    )
    labels = labels_of_two_kidneys()
    crop = Box(start=(0, 0, 0), stop=(21, 44, 60))
    arrays = kidney_arrays(image().crop(crop), labels.crop(crop), plan)
    assert arrays.image.shape == (21, 22, 30)
    # Halving the CT and keeping the annotation's voxels: nothing of the mask is lost.
    np.testing.assert_array_equal(arrays.target, whole_kidney(labels.array[crop.slices]))


@given(st.integers(0, 2**32 - 1))
def test_tumor_takes_nothing_from_the_whole_kidney_on_a_coarser_grid(seed):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, [-(-n // 3) for n in GRID.shape]).astype(np.uint8)
    labels = blocks.repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(map(slice, GRID.shape))]
    plan = small_plan(kidney=small_kidney_plan(target_spacing_mm=(6.0, 5.0, 4.0)))
    target = kidney_arrays(image(), Volume(array=labels, grid=GRID), plan).target
    one_label = Volume(array=(labels > 0).astype(np.uint8), grid=GRID)
    whole = kidney_arrays(image(), one_label, plan).target
    np.testing.assert_array_equal(target > 0, whole > 0)
    assert set(np.unique(target)) <= {0, 1, TUMOR_OF_WHOLE}


def test_points_lie_on_the_kidney():
    arrays = kidney_arrays(image(), labels_of_two_kidneys(), small_plan())
    points = arrays.points["kidney"]
    assert len(points) > 100
    assert np.isin(arrays.target[tuple(points.T)], (1, TUMOR_OF_WHOLE)).all()


def test_a_region_per_kidney_with_its_margin():
    plan = small_plan(tumor=small_tumor_plan(target_spacing_mm=(4.0, 2.5, 2.0)))
    right, left = tumor_arrays(image(), labels_of_two_kidneys(), plan)
    assert (right.name, left.name) == ("right", "left")
    # 10 mm are 3 slices of 4 mm, 4 rows of 2.5 mm, 5 columns of 2 mm.
    box = Box(start=(1, 8, 1), stop=(19, 34, 27))
    np.testing.assert_array_equal(right.image, image().array[box.slices])
    labels = labels_of_two_kidneys().array[box.slices]
    np.testing.assert_array_equal(right.target, np.where(labels == 2, 1, 0))
    assert right.grid == GRID.crop(box)


def test_cysts_are_a_class_where_they_are_labelled_and_kidney_where_not():
    _, left = tumor_arrays(image(), labels_of_two_kidneys(), small_plan())
    assert set(np.unique(left.target)) == {0, 2}
    assert len(left.points["cyst"]) > 10
    without = labels_of_two_kidneys().array.copy()
    without[without == 3] = 1
    _, left = tumor_arrays(image(), Volume(array=without, grid=GRID), small_plan(cyst=None))
    assert set(np.unique(left.target)) == {0}
    assert len(left.points["cyst"]) == 0


def test_the_distance_is_to_the_whole_kidneys_border():
    plan = small_plan(tumor=small_tumor_plan(target_spacing_mm=(4.0, 2.5, 2.0)))
    right, _ = tumor_arrays(image(), labels_of_two_kidneys(), plan)
    inside = labels_of_two_kidneys().array[1:19, 8:34, 1:27] > 0
    outside_mm = distance_transform_edt(~inside, sampling=GRID.spacing)
    np.testing.assert_array_equal(right.distance_mm > 0, ~inside)
    far = outside_mm > 5
    np.testing.assert_allclose(right.distance_mm[far], outside_mm[far], atol=2.1)


def test_stored_arrays_are_read_back_by_box_with_padding(case, tmp_path):
    place = Workspace(root=tmp_path)
    plan = small_plan(
        kidney=small_kidney_plan(target_spacing_mm=("x1", "x1", "x1")),
        tumor=small_tumor_plan(target_spacing_mm=("x1", "x1", "x1")),
    )
    assert preprocess_case(case, plan, place).made == ("kidney", "tumor")
    (scan,) = open_cases(place, "kidney", plan, ["case_00001"])
    box = Box(start=(-2, 5, 50), stop=(3, 20, 70))
    padded = np.pad(image().array, 12, constant_values=-1024)
    np.testing.assert_array_equal(scan.read_image(box), padded[10:15, 17:32, 62:82])
    padded = np.pad(labels_of_two_kidneys().array > 0, 12)
    np.testing.assert_array_equal(scan.read_target(box), padded[10:15, 17:32, 62:82])
    regions = open_cases(place, "tumor", plan, ["case_00001"])
    assert [region.name for region in regions] == ["case_00001/right", "case_00001/left"]
    distance = regions[0].read_distance_mm(regions[0].whole)
    expected = tumor_arrays(image(), labels_of_two_kidneys(), plan)[0].distance_mm
    np.testing.assert_allclose(distance, np.clip(expected, -31.75, 31.75), atol=0.126)
    assert source_cases(place, "tumor", ["case_00001"])[0].image.samefile(case.image)


def test_whole_cases_are_kept_and_only_the_changed_stage_is_made_anew(case, tmp_path):
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    assert preprocess_case(case, small_plan(), place).made == ()
    changed = small_plan(tumor=small_tumor_plan(roi_margin_mm=5.0))
    assert preprocess_case(case, changed, place).made == ("tumor",)


def test_arrays_of_another_plan_are_never_opened(case, tmp_path):
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    changed = small_plan(kidney=small_kidney_plan(target_spacing_mm=(6.0, 5.0, 5.0)))
    with pytest.raises(UserError, match="other plan values") as error:
        open_cases(place, "kidney", changed, ["case_00001"])
    assert "kitspipe_preprocess" in error.value.remedy


def test_a_changed_mask_is_preprocessed_anew(case, tmp_path):
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    other = labels_of_two_kidneys().array.copy()
    other[4:6] = 0
    write_labels(case.labels, Volume(array=other, grid=GRID), header_for(GRID, axes="IPL"))
    assert preprocess_case(case, small_plan(), place).made == ("kidney", "tumor")


def test_a_mask_replaced_by_one_of_the_same_size_and_date_is_preprocessed_anew(tmp_path):
    header = header_for(GRID, axes="IPL")
    scan, mask = tmp_path / "scan.nii", tmp_path / "mask.nii"
    write_image(scan, image(), header)
    write_labels(mask, labels_of_two_kidneys(), header)
    case, before = Case(id="case_00001", image=scan, labels=mask), mask.stat()
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    other = labels_of_two_kidneys().array.copy()
    other[4:6] = 0
    write_labels(mask, Volume(array=other, grid=GRID), header)
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (mask.stat().st_size, mask.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert preprocess_case(case, small_plan(), place).made == ("kidney", "tumor")
    (region,) = open_cases(place, "kidney", small_plan(), ["case_00001"])
    expected = kidney_arrays(image(), Volume(array=other, grid=GRID), small_plan()).target
    np.testing.assert_array_equal(region.read_target(region.whole), expected)


def test_a_new_date_alone_makes_nothing_anew(case, tmp_path):
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    os.utime(case.image, (0, 0))
    os.utime(case.labels, (0, 0))
    assert preprocess_case(case, small_plan(), place).made == ()


def test_a_changed_stage_leaves_the_other_ones_files_alone(case, tmp_path):
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    kidney = place.preprocessed_folder("kidney") / case.id
    before = kidney.stat()
    preprocess_case(case, small_plan(tumor=small_tumor_plan(roi_margin_mm=5.0)), place)
    assert (kidney.stat().st_ino, kidney.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_values_that_no_array_depends_on_make_nothing_anew(case, tmp_path):
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    changed = small_plan(
        kidney=small_kidney_plan(window_stride=(4, 16, 16)), tumor=small_tumor_plan(threshold=0.4)
    )
    assert preprocess_case(case, changed, place).made == ()


def measured(case):
    return Fingerprint(cases=(fingerprint_case(CaseFiles(case)),))


def test_arrays_of_a_mask_that_is_no_more_are_never_opened(case, tmp_path):
    place = Workspace(root=tmp_path)
    preprocess_case(case, small_plan(), place)
    write_document(place.fingerprint_file, measured(case))
    assert open_cases(place, "kidney", small_plan(), [case.id])
    other = labels_of_two_kidneys().array.copy()
    other[4:6] = 0
    write_labels(case.labels, Volume(array=other, grid=GRID), header_for(GRID, axes="IPL"))
    write_document(place.fingerprint_file, measured(case))
    for stage in STAGES:
        with pytest.raises(UserError, match="another scan or mask than the fingerprint"):
            open_cases(place, stage, small_plan(), [case.id])
    preprocess_case(case, small_plan(), place)
    assert open_cases(place, "kidney", small_plan(), [case.id])


def test_the_same_case_gives_the_same_bytes_whenever_it_is_made(case, tmp_path, monkeypatch):
    stored = []
    for name, now in (("first", 1e9), ("second", 1.5e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        place = Workspace(root=tmp_path / name)
        preprocess_case(case, small_plan(), place)
        files = sorted(file for file in place.root.rglob("*") if file.is_file())
        stored.append({str(f.relative_to(place.root)): f.read_bytes() for f in files})
    assert stored[0] == stored[1]
    assert len(stored[0]) == 2 + 3 + 2 * 4


def test_arrays_that_do_not_fit_on_the_disk_are_a_message_and_nothing_else(case, tmp_path):
    place = Workspace(root=tmp_path / "place")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(UserError, match=r"case_00001\n[\s\S]*File too large"):
            preprocess_case(case, small_plan(), place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in place.root.rglob("*") if "case" in path.name]


def test_a_case_that_is_not_preprocessed_is_named(tmp_path):
    with pytest.raises(UserError, match="case_00009"):
        open_cases(Workspace(root=tmp_path), "kidney", small_plan(), ["case_00009"])


def test_a_training_case_without_kidney_is_refused(case, tmp_path):
    empty = Volume(array=np.zeros(GRID.shape, np.uint8), grid=GRID)
    write_labels(case.labels, empty, header_for(GRID, axes="IPL"))
    with pytest.raises(UserError, match="no voxel of kidney"):
        preprocess_case(case, small_plan(), Workspace(root=tmp_path))
    assert not list(tmp_path.glob("preprocessed/**/case.json"))


@pytest.mark.parametrize(
    "grid", [replace(GRID, origin=(-30.9, 12.5, 700.0)), replace(GRID, spacing=(4.0, 2.5, 1.0))]
)
def test_a_mask_that_lies_elsewhere_than_its_scan_is_refused(case, tmp_path, grid):
    moved = Volume(array=labels_of_two_kidneys().array, grid=grid)
    write_labels(case.labels, moved, header_for(grid, axes="IPL"))
    with pytest.raises(UserError, match="another size or place"):
        preprocess_case(case, small_plan(), Workspace(root=tmp_path))


def test_a_label_that_the_plan_does_not_know_is_refused_and_not_a_hole(case, tmp_path):
    labels = labels_of_two_kidneys().array.copy()
    labels[labels == 1] = 7
    write_labels(case.labels, Volume(array=labels, grid=GRID), header_for(GRID, axes="IPL"))
    with pytest.raises(UserError, match="label 7"):
        preprocess_case(case, small_plan(), Workspace(root=tmp_path))
