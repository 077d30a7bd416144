from __future__ import annotations

import functools
import hashlib
import itertools

import numpy as np
import pytest
from data_sets import case_record
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.testing import assert_allclose
from scipy import ndimage
from strategies import label_arrays

from kitspipe.dataset.case_files import CaseFiles
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.document import read_document, write_document
from kitspipe.planning.fingerprint import (
    Fingerprint,
    file_sha256,
    fingerprint_case,
)
from kitspipe.planning.measured import merge
from kitspipe.planning.plan import Labels

# Kidney voxels of 2.5 x 0.7 x 0.8 mm: a block of 5 x 20 x 20 is 2.8 ml, one of 9 x 30 x 20 7.56 ml.
LEFT, RIGHT, TUMOR = np.s_[3:12, 4:34, 45:65], np.s_[8:13, 5:25, 10:30], np.s_[4:8, 10:18, 50:56]


def hard_grid(shape=(17, 41, 71)):
    turned = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    return Grid(
        shape=shape, spacing=(2.5, 0.7, 0.8), origin=(-41.3, 107.9, -613.7), direction=turned
    )


def write_case(folder, name, labels, hu=None, axes="IPL", grid=None):
    """A case on disk; without `hu` a body of 40 HU fills the scan but for two pixels of air."""
    grid = grid or hard_grid(labels.shape)
    if hu is None:
        hu = np.full(labels.shape, -1000, np.int16)
        hu[:, 2:-2, 2:-2] = 40
    header = header_for(grid, axes)
    case = Case(
        id=name, image=folder / name / "imaging.nii.gz", labels=folder / name / "labels.nii.gz"
    )
    write_image(case.image, Volume(array=hu.copy(), grid=grid), header)
    write_labels(case.labels, Volume(array=labels.copy(), grid=grid), header)
    return case


def kidneys():
    """Two kidneys, the larger one with a tumor and a speck of a cyst."""
    labels = np.zeros((17, 41, 71), np.uint8)
    labels[LEFT] = labels[RIGHT] = 1
    labels[TUMOR] = 2
    labels[11, 33, 64] = 3
    return labels


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A case and its record."""
    case = write_case(tmp_path_factory.mktemp("data"), "case_00000", kidneys())
    return case, fingerprint_case(CaseFiles(case))


def test_the_grid_is_that_of_the_canonical_scan(measured):
    _, record = measured
    assert record.id == "case_00000"
    assert record.shape == (17, 41, 71)
    assert_allclose(record.spacing_mm, (2.5, 0.7, 0.8), rtol=1e-6)
    assert record.orientation == "IPL"


def test_extents_and_volumes_are_those_of_the_painted_blocks(measured):
    _, record = measured
    # Both: Z 3..13, Y 4..34, X 10..65; left 9 x 30 x 20 voxels of 1.4 mm^3; right is below 5 ml.
    assert_allclose(record.kidney_extent_mm, (25.0, 21.0, 44.0), rtol=1e-6)
    assert_allclose(record.kidney_extents_mm, [(22.5, 21.0, 16.0)], rtol=1e-6)
    assert_allclose(record.tumor_extents_mm, [(10.0, 5.6, 4.8)], rtol=1e-6)
    assert record.kidney_ml == pytest.approx((5400 + 2000) * 1.4e-3)
    assert record.tumor_ml == pytest.approx(192 * 1.4e-3)
    assert record.cyst_ml == pytest.approx(1.4e-3)
    assert (record.slices_with_kidney, record.slices_with_tumor) == (10, 4)
    assert record.label_values == (1, 2, 3)


def test_the_body_is_measured_to_four_pixels(measured):
    _, record = measured
    z, y, x = record.body_extent_mm
    assert z == pytest.approx(17 * 2.5)
    assert abs(y - 37 * 0.7) <= 4 * 0.7
    assert abs(x - 67 * 0.8) <= 4 * 0.8


def test_a_table_beside_the_body_is_no_body(tmp_path):
    hu = np.full((17, 41, 71), -1000, np.int16)
    hu[:, 4:25, 8:61], hu[:, 36:41] = 40, 100
    record = fingerprint_case(CaseFiles(write_case(tmp_path, "a", kidneys(), hu)))
    assert abs(record.body_extent_mm[1] - 21 * 0.7) <= 4 * 0.7


def test_small_kidneys_count_when_there_is_no_larger_one(tmp_path):
    labels = np.zeros((17, 41, 71), np.uint8)
    labels[RIGHT] = 1
    labels[0, 0, 0] = 1
    record = fingerprint_case(CaseFiles(write_case(tmp_path, "a", labels)))
    assert_allclose(record.kidney_extents_mm, [(12.5, 14.0, 16.0)], rtol=1e-6)


def test_tumors_below_a_tenth_of_a_ml_have_no_extent_but_a_volume(tmp_path):
    labels = np.zeros((17, 41, 71), np.uint8)
    labels[LEFT] = 1
    labels[3, 4:11, 45:55] = 2  # 70 voxels are 0.098 ml
    labels[9, 4:13, 45:53] = 2  # 72 voxels are 0.1008 ml
    record = fingerprint_case(CaseFiles(write_case(tmp_path, "a", labels)))
    assert_allclose(record.tumor_extents_mm, [(2.5, 6.3, 6.4)], rtol=1e-6)
    assert record.tumor_ml == pytest.approx(142 * 1.4e-3)


def test_a_mask_without_labels_measures_nothing(tmp_path):
    case = write_case(tmp_path, "a", np.zeros((5, 9, 11), np.uint8))
    record = fingerprint_case(CaseFiles(case))
    assert record.kidney_extent_mm == (0, 0, 0)
    assert record.kidney_extents_mm == record.tumor_extents_mm == record.label_values == ()
    assert record.foreground_histogram == {}
    assert record.kidney_ml == record.slices_with_kidney == 0


def test_other_label_values_say_what_is_tumor_and_cyst(tmp_path):
    labels = np.choose(kidneys(), np.array([0, 4, 9, 2], np.uint8))
    case = write_case(tmp_path, "a", labels)
    values = Labels(kidney=4, tumor=9, cyst=2)
    record = fingerprint_case(CaseFiles(case), values)
    assert record.tumor_ml == pytest.approx(192 * 1.4e-3)
    assert record.cyst_ml == pytest.approx(1.4e-3)
    data = Fingerprint(cases=(record,))
    assert data.has_cysts
    assert data.label_values == (2, 4, 9)
    without = fingerprint_case(CaseFiles(case), Labels(kidney=4, tumor=9))
    assert without.cyst_ml == 0
    assert not Fingerprint(cases=(without,)).has_cysts


@pytest.mark.parametrize("axes", ["LPS", "RAI", "SAL"])
def test_what_is_measured_does_not_depend_on_the_axes_of_the_file(tmp_path, measured, axes):
    _, expected = measured
    record = fingerprint_case(CaseFiles(write_case(tmp_path, "case_00000", kidneys(), axes=axes)))
    assert record.orientation == axes
    hashes = {"image_sha256": "", "labels_sha256": "", "orientation": "IPL"}
    assert replace(record, **hashes) == replace(expected, **hashes)


@given(labels=st.data(), seed=st.integers(0, 99))
def test_slices_volumes_and_extents_agree_with_scipy(tmp_path_factory, labels, seed):
    array = labels.draw(label_arrays((7, 12, 9)))
    grid = Grid(shape=array.shape, spacing=(9.0, 5.0, 7.0))
    folder = tmp_path_factory.mktemp("data")
    hu = np.random.default_rng(seed).integers(-1024, 3000, array.shape).astype(np.int16)
    record = fingerprint_case(CaseFiles(write_case(folder, "a", array, hu, grid=grid)))
    voxel_ml = 9 * 5 * 7 / 1000
    assert record.kidney_ml == pytest.approx(np.count_nonzero(array) * voxel_ml)
    assert record.slices_with_tumor == len(set(np.argwhere(array == 2)[:, 0]))
    numbered, n = ndimage.label(array == 2, np.ones((3, 3, 3)))
    boxes = ndimage.find_objects(numbered)
    expected = sorted(
        tuple((s.stop - s.start) * mm for s, mm in zip(box, grid.spacing, strict=True))
        for box in boxes
    )
    assert len(record.tumor_extents_mm) == n  # one voxel is 0.315 ml
    assert sorted(record.tumor_extents_mm) == expected
    assert sum(record.foreground_histogram.values()) == np.count_nonzero(array)


def row_case(folder, name, hu):
    """A case whose foreground is one row of these HU, above a plane of body."""
    labels = np.zeros((2, 1, len(hu)), np.uint8)
    labels[1] = 1
    image = np.zeros(labels.shape, np.int16)
    image[1, 0] = hu
    return write_case(folder, name, labels, image)


@given(
    parts=st.lists(
        st.lists(st.integers(-1024, 4000), min_size=1, max_size=60), min_size=1, max_size=3
    ),
    percent=st.floats(0.5, 99.5),
)
def test_pooled_intensities_are_those_of_all_voxels_to_half_a_bin(tmp_path_factory, parts, percent):
    folder = tmp_path_factory.mktemp("data")
    cases = [row_case(folder, f"case_{index}", hu) for index, hu in enumerate(parts)]
    data = Fingerprint(cases=tuple(fingerprint_case(CaseFiles(case)) for case in cases))
    # HU above those of 12 bits are metal and count as the last bin.
    pooled = np.minimum(np.concatenate(parts), 3071)
    expected = np.percentile(pooled, percent, method="inverted_cdf")
    assert abs(data.foreground_percentile_hu(percent) - expected) <= 3.5
    assert abs(data.foreground_mean_hu - pooled.mean()) <= 3.5
    assert abs(data.foreground_sd_hu - pooled.std()) <= 3.5 * 2


def test_bins_are_eight_hu_from_the_lowest_on(tmp_path):
    case = row_case(tmp_path, "a", [-1024, -1017, -1016, 0, 7, 8, 3071, 3072])
    record = fingerprint_case(CaseFiles(case))
    assert record.foreground_histogram == {-1024: 2, -1016: 1, 0: 2, 8: 1, 3064: 2}


def test_a_scan_without_a_mask_is_named(tmp_path):
    case = Case(id="a", image=tmp_path / "a.nii.gz", labels=None)
    with pytest.raises(UserError, match=r"a\.nii\.gz"):
        fingerprint_case(CaseFiles(case))


def test_a_mask_of_another_shape_is_named(tmp_path):
    case = write_case(tmp_path, "a", kidneys())
    other = write_case(tmp_path, "b", kidneys()[:-1])
    with pytest.raises(UserError) as raised:
        fingerprint_case(CaseFiles(Case(id="a", image=case.image, labels=other.labels)))
    assert raised.value.file == str(other.labels)
    assert "(16, 41, 71)" in raised.value.found
    assert "(17, 41, 71)" in raised.value.expected


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path):
    content = bytes(range(256)) * 9000  # more than two blocks
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_folder_is_that_of_its_files_by_name(tmp_path):
    for name, content in (("b", b"2"), ("c", b"3"), ("a", b"1")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    assert file_sha256(tmp_path) == hashlib.sha256(b"123").hexdigest()


def records(measured, names):
    _, record = measured
    return [replace(record, id=name) for name in names]


def test_merging_does_not_depend_on_order_or_grouping(measured):
    parts = [Fingerprint(cases=tuple(records(measured, ids))) for ids in ("ac", "b", "bd")]
    whole = Fingerprint(cases=tuple(records(measured, "abcd")))
    for a, b, c in itertools.permutations(parts):
        assert merge(merge(a, b), c) == merge(a, merge(b, c)) == whole


@given(st.lists(st.sets(st.sampled_from("abcdefgh")), min_size=1, max_size=5))
def test_any_parts_merge_into_their_union_whatever_their_order(parts):
    made = [
        Fingerprint(
            cases=tuple(case_record((3.0, 0.7, 0.8), (90, 512, 512), id=n) for n in sorted(part))
        )
        for part in parts
    ]
    merged = functools.reduce(merge, made)
    assert [one.id for one in merged.cases] == sorted(set().union(*parts))
    assert functools.reduce(merge, reversed(made)) == merged
    assert merge(merged, merged) == merged


def test_a_case_measured_twice_with_other_results_is_refused(measured):
    (record,) = records(measured, "a")
    other = Fingerprint(cases=(replace(record, cyst_ml=1.0),))
    with pytest.raises(ValueError, match="a was measured twice"):
        merge(Fingerprint(cases=(record,)), other)


@pytest.mark.parametrize("names", ["ba", "aa"])
def test_cases_are_sorted_and_each_is_there_once(measured, names):
    with pytest.raises(ValueError, match="not sorted by id"):
        Fingerprint(cases=tuple(records(measured, names)))


def test_medians_and_percentiles_are_axis_by_axis(measured):
    a, b, c = records(measured, "abc")
    data = Fingerprint(
        cases=(
            replace(a, spacing_mm=(5, 0.6, 0.9), shape=(40, 512, 500), kidney_extents_mm=()),
            replace(b, spacing_mm=(1, 0.8, 0.7), shape=(90, 500, 512), kidney_extent_mm=(9, 2, 5)),
            replace(
                c,
                spacing_mm=(3, 0.7, 0.8),
                shape=(60, 796, 501),
                kidney_extents_mm=((80, 40, 50), (120, 60, 30)),
            ),
        )
    )
    assert data.median_spacing_mm == (3, 0.7, 0.8)
    assert data.median_shape == (60, 512, 501)
    assert data.median_in_plane_pixels == 512
    # Kidneys: of b 22.5 x 21 x 16, of c 80 x 40 x 50 and 120 x 60 x 30.
    assert_allclose(data.kidney_percentile_mm(100), (120, 60, 50))
    assert_allclose(data.kidney_percentile_mm(50), (80, 40, 30))
    assert_allclose(data.kidneys_percentile_mm(0), (9, 2, 5))


def test_without_cases_or_foreground_there_is_nothing_to_tell(measured):
    (record,) = records(measured, "a")
    nothing = replace(
        record, foreground_histogram={}, kidney_extents_mm=(), slices_with_kidney=0, label_values=()
    )
    data = Fingerprint(cases=(nothing,))
    assert data.label_values == ()
    assert not data.has_cysts
    with pytest.raises(ValueError, match="no case has foreground"):
        data.foreground_percentile_hu(50)
    for measure in (data.kidney_percentile_mm, data.kidneys_percentile_mm):
        with pytest.raises(ValueError, match="nothing was measured"):
            measure(50)
    with pytest.raises(ValueError, match="nothing was measured"):
        Fingerprint(cases=()).median_spacing_mm  # noqa: B018


def test_a_fingerprint_is_read_as_it_was_written(tmp_path, measured):
    data = Fingerprint(cases=tuple(records(measured, "ab")))
    write_document(tmp_path / "f.json", data)
    assert read_document(tmp_path / "f.json", Fingerprint, made_by="kitspipe_fingerprint") == data


@pytest.mark.parametrize("low_hu", [-1032, -1023, 3072])
def test_a_histogram_has_no_other_bins(measured, low_hu):
    (record,) = records(measured, "a")
    with pytest.raises(ValueError, match=f"starts at {low_hu} HU"):
        replace(record, foreground_histogram={low_hu: 1})
