import gzip
import shutil
import subprocess
import sys
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from kitspipe.errors import UserError
from kitspipe.imaging.formats import (
    IMAGE_SUFFIXES,
    read_header,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume


@pytest.fixture
def ct(hard_grid):
    values = np.random.default_rng(0).integers(-1024, 3000, hard_grid.shape).astype(np.int16)
    return Volume(array=values, grid=hard_grid)


@pytest.fixture
def labels(hard_grid):
    values = np.random.default_rng(1).integers(0, 4, hard_grid.shape).astype(np.uint8)
    return Volume(array=values, grid=hard_grid)


def foreign_file(path, ct, axes="IPL"):
    """A CT as another program writes it: an oblique file with slices first."""
    header = header_for(ct.grid, axes)
    stored = np.ascontiguousarray(header.from_canonical(ct.array))
    image = sitk.GetImageFromArray(stored)
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction)
    sitk.WriteImage(image, str(path))
    return path


def geometry(path):
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("axes", ["IPL", "LPS", "RAS", "ASL"])
@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_mask_lies_on_its_ct_bit_for_bit(tmp_path, ct, labels, suffix, axes):
    path = foreign_file(tmp_path / f"ct{suffix}", ct, axes)
    header = read_header(path)
    out = tmp_path / "masks" / f"mask{suffix}"
    write_labels(out, Volume(array=labels.array, grid=header.grid), header)
    assert geometry(out) == geometry(path)
    assert read_header(out).grid == header.grid
    again, _ = read_labels(out)
    np.testing.assert_array_equal(again.array, labels.array)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_reading_brings_any_file_to_the_canonical_grid(tmp_path, ct, suffix):
    volume, header = read_image(foreign_file(tmp_path / f"ct{suffix}", ct))
    assert (header.axes, header.suffix, header.stored_dtype) == ("IPL", suffix, "int16")
    assert volume.grid.close_to(ct.grid, 1e-3)
    np.testing.assert_array_equal(volume.array, ct.array)
    assert not volume.array.flags.writeable


@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (1, 4), (3, 3)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_nifti_codes_units_and_affines_are_restored(tmp_path, ct, labels, codes, order):
    affine = nibabel.load(foreign_file(tmp_path / "ct.nii", ct)).affine
    shape = header_for(ct.grid, "IPL").size
    base = nibabel.Nifti1Header(endianness=order)
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), affine, base)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nibabel.save(image, tmp_path / "other.nii.gz")
    header = read_header(tmp_path / "other.nii.gz")
    out = tmp_path / "mask.nii.gz"
    write_labels(out, Volume(array=labels.array, grid=header.grid), header)
    assert geometry(out) == geometry(tmp_path / "other.nii.gz")
    expected, found = (nibabel.load(p) for p in (tmp_path / "other.nii.gz", out))
    np.testing.assert_array_equal(found.affine, expected.affine)
    for key in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "xyzt_units"):
        np.testing.assert_array_equal(found.header[key], expected.header[key])
    np.testing.assert_array_equal(found.header["pixdim"][:4], expected.header["pixdim"][:4])


def test_voxels_of_nifti_files_are_those_nibabel_reads(tmp_path, ct):
    path = foreign_file(tmp_path / "ct.nii.gz", ct)
    volume, header = read_image(path)
    stored = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(header.from_canonical(volume.array), stored.T)


def test_equal_masks_are_equal_files(tmp_path, labels):
    header = header_for(labels.grid, "IPL")
    write_labels(tmp_path / "a.nii.gz", labels, header)
    write_labels(tmp_path / "b.nii.gz", labels, header)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_writing_leaves_no_other_files(tmp_path, labels, suffix):
    write_labels(tmp_path / f"a{suffix}", labels, header_for(labels.grid))
    extra = {"a.zraw"} if suffix == ".mhd" else set()
    assert {file.name for file in tmp_path.iterdir()} == {f"a{suffix}"} | extra


def test_a_ct_is_written_as_int16_and_a_mask_as_uint8(tmp_path, ct):
    header = header_for(ct.grid, "RAS")
    write_image(tmp_path / "ct.nii.gz", ct, header)
    write_labels(tmp_path / "m.nii.gz", Volume(array=ct.array > 0, grid=ct.grid), header)
    assert read_header(tmp_path / "ct.nii.gz").stored_dtype == "int16"
    assert read_header(tmp_path / "m.nii.gz").stored_dtype == "uint8"
    np.testing.assert_array_equal(read_image(tmp_path / "ct.nii.gz")[0].array, ct.array)


def test_a_volume_on_another_grid_or_of_another_type_is_not_written(tmp_path, ct, labels):
    header = header_for(ct.grid)
    moved = replace(labels.grid, origin=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="not the grid"):
        write_labels(tmp_path / "a.nii.gz", Volume(array=labels.array, grid=moved), header)
    with pytest.raises(ValueError, match="int16"):
        write_labels(tmp_path / "a.nii.gz", ct, header)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int32", "uint16", "uint8"])
def test_any_stored_type_becomes_int16_hu(tmp_path, dtype, suffix):
    values = np.array([0, 1, 254, 255]) if dtype == "uint8" else np.array([0, 1, 3071, 40000])
    if dtype not in ("uint8", "uint16"):
        values = np.append(values, [-1024, -3024, -1e6])
    if dtype.startswith("float"):
        values = np.append(values, [40.4, 40.6, np.nan, np.inf, -np.inf])
    expected = np.clip(np.nan_to_num(np.rint(values), nan=-1024), -1024, 32767)
    stored = values.astype(dtype).reshape(1, 1, -1)
    sitk.WriteImage(sitk.GetImageFromArray(stored), str(tmp_path / f"ct{suffix}"))
    volume, _ = read_image(tmp_path / f"ct{suffix}")
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array.ravel(), expected)


def test_slope_and_intercept_are_applied(tmp_path):
    header = nibabel.Nifti1Image(np.zeros((1, 1, 3), np.uint16), np.eye(4)).header
    raw = bytearray(header.binaryblock)
    np.frombuffer(raw, "<f4", 3, 108)[:] = (352, 0.5, -1024)  # vox_offset, slope, intercept
    stored = np.array([0, 1024, 2047], "<u2").tobytes()
    (tmp_path / "ct.nii").write_bytes(bytes(raw[:344]) + b"n+1\0" + bytes(4) + stored)
    volume, _ = read_image(tmp_path / "ct.nii")
    # 2047 / 2 - 1024 = -0.5, rounded to even.
    assert volume.array.ravel().tolist() == [-1024, -512, 0]


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_labels_that_are_no_labels_are_refused_with_the_value(tmp_path, value, suffix):
    path = tmp_path / f"mask{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0, 2, value]]], np.float64)), str(path))
    with pytest.raises(UserError) as error:
        read_labels(path)
    assert error.value.file == str(path)
    assert f"{value:g}" in error.value.found


def test_labels_stored_as_floats_are_read(tmp_path):
    sitk.WriteImage(
        sitk.GetImageFromArray(np.array([[[0, 2.0, 255]]])), str(tmp_path / "mask.nii.gz")
    )
    labels, _ = read_labels(tmp_path / "mask.nii.gz")
    assert labels.array.dtype == np.uint8
    assert labels.array.ravel().tolist() == [0, 2, 255]


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, "uncompressed.nrrd", "uncompressed.mha"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, ct, suffix, share):
    path = tmp_path / f"ct{suffix}"
    if suffix.startswith("uncompressed"):
        sitk.WriteImage(sitk.GetImageFromArray(ct.array), str(path), False)
    else:
        write_image(path, ct, header_for(ct.grid))
    cut = path.with_name("ct.zraw") if suffix == ".mhd" else path
    whole = cut.read_bytes()
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError) as error:
        read_image(path)
    assert error.value.file == str(path)


def test_a_gzip_of_a_truncated_file_and_a_flipped_bit_are_refused(tmp_path, ct):
    path = tmp_path / "ct.nii.gz"
    write_image(path, ct, header_for(ct.grid))
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(UserError, match="1 bytes before its last voxel"):
        read_image(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="can't be read"):
        read_image(path)


def test_a_file_of_several_gzip_members_is_read_whole(tmp_path, ct):
    path = tmp_path / "ct.nii.gz"
    write_image(path, ct, header_for(ct.grid))
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]))
    np.testing.assert_array_equal(read_image(path)[0].array, ct.array)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("missing.nii.gz", "no such file"),
        ("text.txt", "suffix '.txt'"),
        ("empty.nii.gz", "can't be read"),
        ("text.nii", "can't be read"),
        ("text.nrrd", "can't be read"),
        ("folder", "without DICOM"),
        ("flat.nii.gz", "2D image"),
        ("phases.nii.gz", "4D image of 4 x 3 x 2 x 5"),
        ("colour.mha", "3 values per voxel"),
        ("sheared.nii.gz", "right angles"),
        ("sheared.nrrd", "orthonormal"),
    ],
)
def test_what_is_no_ct_is_refused_by_what_it_is(tmp_path, name, found):
    (tmp_path / "folder").mkdir()
    for text in ("text.txt", "text.nii", "text.nrrd", "empty.nii.gz"):
        (tmp_path / text).write_text("" if "empty" in text else "hello " * 99)
    zeros = np.zeros((5, 2, 3, 4), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(zeros[0, 0]), str(tmp_path / "flat.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(zeros, False), str(tmp_path / "phases.nii.gz"))
    colour = sitk.GetImageFromArray(zeros[..., :3], isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "colour.mha"))
    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    image = nibabel.Nifti1Image(zeros[0], sheared)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "sheared.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(zeros[0]), str(tmp_path / "sheared.nrrd"))
    raw = (tmp_path / "sheared.nrrd").read_bytes()
    (tmp_path / "sheared.nrrd").write_bytes(raw.replace(b"(0,0,1)", b"(0.3,0,1)"))
    with pytest.raises(UserError) as error:
        read_image(tmp_path / name)
    assert error.value.file == str(tmp_path / name)
    assert found in error.value.found
    assert error.value.expected
    assert error.value.remedy


def test_a_kits_case_has_slices_first_on_disk_and_superior_last_here(shared_data, tmp_path):
    path = shared_data / "kits_masks" / "case_00003" / "segmentation.nii.gz"
    labels, header = read_labels(path)
    assert header.axes == "IPL"
    assert labels.grid.is_canonical
    assert labels.grid.shape[1:] == (512, 512)
    write_labels(tmp_path / "mask.nii.gz", labels, header)
    assert geometry(tmp_path / "mask.nii.gz") == geometry(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, labels):
    path = tmp_path / "mask.nii.gz"
    write_labels(path, labels, header_for(labels.grid))
    before = path.read_bytes()
    wrong = replace(header_for(labels.grid), nifti="not a geometry")
    with pytest.raises(AttributeError):
        write_labels(path, labels, wrong)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mask.nii.gz"]


def test_capital_suffixes_are_read(tmp_path, ct):
    write_image(tmp_path / "ct.nii.gz", ct, header_for(ct.grid))
    shutil.copy(tmp_path / "ct.nii.gz", tmp_path / "CT.NII.GZ")
    np.testing.assert_array_equal(read_image(tmp_path / "CT.NII.GZ")[0].array, ct.array)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_a_full_disk_leaves_a_message_and_no_file(tmp_path, suffix):
    # A limit on the size of files stands in for the disk; in a process of its own, as it stays.
    file = tmp_path / f"mask{suffix}"
    script = (
        "import resource, signal, sys; import numpy as np; from pathlib import Path\n"
        "from kitspipe.errors import UserError\n"
        "from kitspipe.imaging.formats import write_labels\n"
        "from kitspipe.imaging.header import header_for\n"
        "from kitspipe.imaging.volume import Grid, Volume\n"
        "grid = Grid(shape=(20, 30, 40), spacing=(2.5, 0.7, 0.8))\n"
        "noise = np.random.default_rng(0).integers(0, 255, grid.shape).astype(np.uint8)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n"
        f"    write_labels(Path(sys.argv[1]), Volume(array=noise, grid=grid), "
        f"header_for(grid, suffix='{suffix}'))\n"
        "except UserError as error:\n"
        "    print('refused', error.found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True
    )
    assert "refused it can't be written" in done.stdout
    assert list(tmp_path.iterdir()) == []
