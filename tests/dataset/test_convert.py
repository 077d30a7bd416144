import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series

from kitspipe.dataset.cases import find_dataset, find_images, find_masks
from kitspipe.dataset.convert import convert_dataset
from kitspipe.errors import UserError
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume

# Different along all axes; on disk slices come first, as in KiTS.
GRID = Grid(shape=(5, 7, 9), spacing=(2.5, 0.7, 0.8), origin=(-41.3, 107.9, -613.7))


def scan(seed=0):
    array = np.random.default_rng(seed).integers(-1000, 1000, GRID.shape).astype(np.int16)
    return Volume(array=array, grid=GRID)


def mask(values):
    array = np.resize(np.array(values, np.uint8), GRID.shape)
    return Volume(array=array, grid=GRID)


def write_kits(folder, values=(0, 1, 2), cases=("case_00000", "case_00007")):
    header = header_for(GRID, axes="IPL")
    for number, name in enumerate(cases):
        write_image(folder / name / "imaging.nii.gz", scan(number), header)
        write_labels(folder / name / "segmentation.nii.gz", mask(values), header)
    return folder


def write_nnunet(folder, labels, values):
    header = header_for(GRID, axes="IPL")
    write_image(folder / "imagesTr" / "a_0000.nii.gz", scan(), header)
    write_labels(folder / "labelsTr" / "a.nii.gz", mask(values), header)
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1})
    )
    return folder


def convert(source, target, form, *, copy=False):
    return convert_dataset(source, target, form, copy=copy, jobs=1)


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def same_geometry(one, other):
    one, other = (sitk.ReadImage(str(path)) for path in (one, other))
    return one.GetSize() == other.GetSize() and all(
        np.allclose(getattr(one, name)(), getattr(other, name)(), atol=1e-4)
        for name in ("GetSpacing", "GetOrigin", "GetDirection")
    )


def test_kits_to_nnunet_and_back_gives_the_same_bytes(tmp_path):
    source = write_kits(tmp_path / "raw")
    (source / "case_00007" / "segmentation.nii.gz").unlink()
    nnunet, back = tmp_path / "Dataset220_KiTS", tmp_path / "back"
    convert(source, nnunet, "nnunet")
    assert files(nnunet) == {
        "dataset.json",
        "imagesTr/case_00000_0000.nii.gz",
        "labelsTr/case_00000.nii.gz",
        "imagesTs/case_00007_0000.nii.gz",
    }
    assert convert(nnunet, back, "kits").failures == ()
    assert files(back) == files(source)
    assert all((back / name).read_bytes() == (source / name).read_bytes() for name in files(back))


def test_links_are_relative_and_lead_to_the_source(tmp_path):
    write_kits(tmp_path / "raw")
    convert(tmp_path / "raw", tmp_path / "Dataset220_KiTS", "nnunet")
    (tmp_path / "moved").mkdir()
    for name in ("raw", "Dataset220_KiTS"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    link = tmp_path / "moved" / "Dataset220_KiTS" / "labelsTr" / "case_00000.nii.gz"
    assert link.is_symlink()
    origin = tmp_path / "moved" / "raw" / "case_00000" / "segmentation.nii.gz"
    assert link.samefile(origin)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0, 1, 2), {"background": 0, "kidney": 1, "tumor": 2}),
        ((0, 1, 2, 3), {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}),
    ],
)
def test_dataset_json_has_what_nnunet_asks_for(tmp_path, values, labels):
    target = tmp_path / "Dataset220_KiTS"
    convert(write_kits(tmp_path / "raw", values), target, "nnunet")
    content = json.loads((target / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == labels
    assert (content["numTraining"], content["file_ending"]) == (2, ".nii.gz")
    assert len(find_dataset(target).labelled) == 2


@pytest.mark.parametrize("form", ["kits", "nnunet", "nifti"])
def test_other_label_values_become_those_of_kits(tmp_path, form):
    named = {"background": 0, "tumor": 1, "cyst": 2, "kidney": 5}
    source = write_nnunet(tmp_path / "Dataset001_X", named, (0, 1, 2, 5))
    target = tmp_path / "Dataset002_Y"
    assert convert(source, target, form).failures == ()
    written = find_masks(target / "masks" if form == "nifti" else target)["a"]
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
    before = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "labelsTr" / "a.nii.gz")))
    assert not written.is_symlink()
    assert {(int(b), int(s)) for b, s in zip(before.ravel(), stored.ravel(), strict=True)} == {
        (0, 0),
        (1, 2),
        (2, 3),
        (5, 1),
    }
    assert same_geometry(written, source / "labelsTr" / "a.nii.gz")


def test_a_value_that_nobody_named_is_a_failure_and_leaves_nothing(tmp_path):
    source = write_kits(tmp_path / "raw")
    header = header_for(GRID, axes="IPL")
    write_labels(source / "case_00007" / "segmentation.nii.gz", mask((0, 1, 7)), header)
    target = tmp_path / "Dataset220_KiTS"
    done = convert(source, target, "nnunet")
    assert [name for name, _ in done.failures] == ["case_00007"]
    assert "[7]" in done.failures[0][1]
    assert not any("case_00007" in name for name in files(target))
    assert json.loads((target / "dataset.json").read_text())["numTraining"] == 1


def test_dicom_becomes_nifti_on_the_same_grid(tmp_path, hard_grid):
    array = np.random.default_rng(1).integers(-1000, 1000, hard_grid.shape).astype(np.int16)
    source = tmp_path / "scans"
    source.mkdir()
    write_series(source / "patient", Volume(array=array, grid=hard_grid))
    convert(source, tmp_path / "out", "nifti")
    written = sitk.ReadImage(str(tmp_path / "out" / "patient.nii.gz"))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source / "patient"))
    expected = sitk.ReadImage(names)
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(expected))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(written, name)(), getattr(expected, name)(), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii"])
def test_other_formats_are_written_anew_with_their_masks(tmp_path, suffix, hard_grid):
    array = np.random.default_rng(1).integers(-1000, 1000, hard_grid.shape).astype(np.int16)
    header, source = header_for(hard_grid, axes="IPL"), tmp_path / "scans"
    labels = (array > 0).astype(np.uint8)
    write_image(source / f"a{suffix}", Volume(array=array, grid=hard_grid), header)
    write_labels(source / "masks" / f"a{suffix}", Volume(array=labels, grid=hard_grid), header)
    assert convert(source, tmp_path / "out", "kits").written == 1
    [case] = find_dataset(tmp_path / "out").cases
    for before, after in ((f"a{suffix}", case.image), (f"masks/a{suffix}", case.labels)):
        assert same_geometry(source / before, after)
        stored = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (source / before, after)]
        assert np.array_equal(*stored)


def test_flat_images_and_masks_are_found_again(tmp_path):
    convert(write_kits(tmp_path / "raw"), tmp_path / "flat", "nifti")
    assert [case.id for case in find_images(tmp_path / "flat")] == ["case_00000", "case_00007"]
    assert [*find_masks(tmp_path / "flat" / "masks")] == ["case_00000", "case_00007"]
    convert(tmp_path / "flat", tmp_path / "back", "kits")
    assert files(tmp_path / "back") == files(tmp_path / "raw")


@pytest.mark.parametrize("copy", [False, True])
def test_a_second_run_does_what_is_missing_only(tmp_path, copy):
    source, target = write_kits(tmp_path / "raw"), tmp_path / "out"
    convert(source, target, "kits", copy=copy)
    kept = target / "case_00000" / "imaging.nii.gz"
    before = kept.lstat()
    assert kept.is_symlink() != copy
    shutil.rmtree(target / "case_00007")
    done = convert(source, target, "kits", copy=copy)
    assert (done.written, done.kept) == (1, 1)
    assert kept.lstat().st_ino == before.st_ino
    assert files(target) == files(source)


def test_what_was_written_anew_is_known_again_and_nothing_is_left_beside(tmp_path):
    source = tmp_path / "scans"
    write_image(source / "a.nrrd", scan(), header_for(GRID))
    assert convert(source, tmp_path / "out", "nifti").written == 1
    assert convert(source, tmp_path / "out", "nifti").kept == 1
    # Same bytes with another time are no other file.
    os.utime(tmp_path / "out" / "a.nii.gz")
    assert convert(source, tmp_path / "out", "nifti").kept == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_another_file_is_not_overwritten(tmp_path, suffix):
    write_image(tmp_path / "scans" / f"a{suffix}", scan(), header_for(GRID))
    other = tmp_path / "out" / "a.nii.gz"
    write_image(other, scan(9), header_for(GRID))
    before = other.read_bytes()
    [(name, reason)] = convert(tmp_path / "scans", tmp_path / "out", "nifti").failures
    assert (name, str(other) in reason) == ("a", True)
    assert other.read_bytes() == before
    assert [path.name for path in other.parent.iterdir()] == ["a.nii.gz"]


def test_a_dataset_json_of_somebody_else_is_refused_before_anything_is_written(tmp_path):
    target = write_nnunet(tmp_path / "Dataset001_X", {"kidney": 1, "tumor": 2}, (0, 1, 2))
    before = files(target)
    with pytest.raises(UserError, match="another file"):
        convert(write_kits(tmp_path / "raw"), target, "nnunet")
    assert files(target) == before


def test_a_damaged_scan_is_named_and_the_others_are_done(tmp_path):
    source = write_kits(tmp_path / "raw")
    (source / "case_00000" / "imaging.nii.gz").write_bytes(b"<html>")
    done = convert(source, tmp_path / "out", "kits")
    assert [name for name, _ in done.failures] == ["case_00000"]
    assert files(tmp_path / "out") == {
        "case_00007/imaging.nii.gz",
        "case_00007/segmentation.nii.gz",
    }


@pytest.mark.parametrize("target", ["raw", "raw/out", "raw/../raw/x"])
def test_a_target_in_the_source_is_refused(tmp_path, target):
    write_kits(tmp_path / "raw")
    with pytest.raises(UserError, match="outside of what is converted"):
        convert(tmp_path / "raw", tmp_path / target, "nifti")


def test_without_scans_the_source_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        convert(tmp_path / "empty", tmp_path / "out", "kits")
