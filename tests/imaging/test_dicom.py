import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series, write_slice

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.imaging.dicom import is_dicom, read_series
from kitspipe.imaging.formats import read_image, read_labels, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Box, Volume


@pytest.fixture
def ct(hard_grid):
    values = np.random.default_rng(0).integers(-1024, 3000, hard_grid.shape).astype(np.int16)
    return Volume(array=values, grid=hard_grid)


def zipped(folder, path):
    return shutil.make_archive(str(path), "zip", folder.parent, folder.name)


@pytest.mark.parametrize("packed", [False, True])
def test_slices_are_ordered_by_their_place_and_not_by_their_names(tmp_path, ct, packed):
    source = write_series(tmp_path / "series", ct)
    if packed:
        source = Path(zipped(source, tmp_path / "packed"))
    assert is_dicom(source)
    volume, header = read_image(source)
    assert header.suffix == ".nii.gz"
    assert volume.grid.close_to(ct.grid, 1e-4)
    np.testing.assert_array_equal(volume.array, ct.array)


def test_a_series_from_head_to_feet_is_turned(tmp_path, ct):
    # Rows to the left, columns to the front: the normal points to the feet.
    header = header_for(ct.grid, "LAI")
    stored = header.from_canonical(ct.array)
    columns = np.reshape(header.direction, (3, 3))
    for k, pixels in enumerate(stored):
        position = np.asarray(header.origin) + columns[:, 2] * header.spacing[2] * k
        write_slice(tmp_path / f"{k}", pixels, position, header)
    volume, found = read_series(tmp_path)
    assert found.axes == "LAI"
    np.testing.assert_array_equal(volume.array, ct.array)
    assert volume.grid.close_to(ct.grid, 1e-4)


def test_a_mask_for_a_series_is_written_on_its_grid(tmp_path, ct):
    volume, header = read_series(write_series(tmp_path / "series", ct))
    labels = Volume(array=(volume.array > 0).astype(np.uint8), grid=volume.grid)
    write_labels(tmp_path / "mask.nii.gz", labels, header)
    again, _ = read_labels(tmp_path / "mask.nii.gz")
    assert again.grid.close_to(volume.grid, 1e-3)
    np.testing.assert_array_equal(again.array, labels.array)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"skipped": (7,)}, "5.00 mm between"),
        ({"skipped": (7, 8, 12)}, "gaps from 2.50 to 7.50 mm"),
        ({"shift": lambda k, normal: normal * (-2.5 if k == 9 else 0)}, "more than one slice"),
        ({"shift": lambda k, normal: normal * (0.2 if k == 9 else 0)}, "2.70 mm between"),
        ({"shift": lambda k, _: np.array([0, 0.3 * k, 0])}, "shifted in their plane"),
        ({"Modality": "MR"}, "(MR)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "none of them part of a stack"),
        ({"skipped": range(1, 17)}, "1 DICOM images (CT)"),
    ],
)
def test_what_does_not_stack_to_a_grid_is_refused(tmp_path, ct, options, found):
    folder = write_series(tmp_path / "series", ct, **options)
    with pytest.raises(UserError) as error:
        read_series(folder)
    assert error.value.file == str(folder)
    assert found in error.value.found


def test_rows_and_columns_without_right_angles_are_refused(tmp_path, ct):
    row, column = np.reshape(header_for(ct.grid).direction, (3, 3)).T[:2]
    skewed = [f"{value:.8f}" for value in (*row, *(0.995 * column + 0.0999 * row))]
    folder = write_series(tmp_path / "series", ct, ImageOrientationPatient=skewed)
    with pytest.raises(UserError, match="orthonormal"):
        read_series(folder)


def test_positions_rounded_to_a_tenth_of_a_mm_are_taken(tmp_path, ct):
    jitter = np.random.default_rng(0).uniform(-0.03, 0.03, 99)
    folder = write_series(tmp_path / "series", ct, shift=lambda k, normal: normal * jitter[k])
    volume, _ = read_series(folder)
    assert volume.grid.close_to(ct.grid, 0.05)


def test_of_several_series_the_longest_is_taken_and_said_so(tmp_path, ct, capsys, hard_grid):
    folder = write_series(tmp_path / "series", ct)
    short = ct.crop(Box(start=(0, 0, 0), stop=(4, *hard_grid.shape[1:])))
    write_series(folder, short, prefix="b", SeriesInstanceUID="1.2.4", SeriesDescription="late")
    (folder / "readme.txt").write_text("not DICOM")
    console.set_verbosity(console.QUIET)
    volume, _ = read_series(folder)
    said = capsys.readouterr().err
    console.set_verbosity(console.NORMAL)
    assert volume.grid.shape == hard_grid.shape
    assert "took the CT series 'arterial' (17 slices, 1.2.3), not 'late' (4 slices, 1.2.4)" in said
    assert "--series UID" in said


def test_a_folder_of_other_files_is_no_series(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "notes.zip")
    assert not is_dicom(tmp_path / "notes.txt")
    assert not is_dicom(tmp_path / "missing")


@pytest.mark.parametrize("name", ["../out.dcm", "/out.dcm", "a/../../out.dcm", "C:/out.dcm"])
def test_a_zip_that_leads_out_is_refused(tmp_path, ct, name):
    source = write_series(tmp_path / "series", ct)
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), next(source.iterdir()).read_bytes())
    with pytest.raises(UserError, match="leads out"):
        read_series(path)


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_damaged_anywhere_is_refused_or_read_as_it_was(tmp_path, ct, method):
    path = tmp_path / "series.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in write_series(tmp_path / "series", ct).iterdir():
            archive.write(file, file.name)
    whole = path.read_bytes()
    expected, _ = read_series(path)
    index = whole.find(b"PK\x01\x02")
    places = [*range(0, index, index // 60), *range(index, len(whole), 7)]
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        try:
            found, _ = read_series(path)
        except UserError:
            refused += 1
        else:
            np.testing.assert_array_equal(found.array, expected.array)
    assert refused > len(places) / 2


def test_a_zip_with_a_comment_and_bytes_behind_is_read(tmp_path, ct):
    path = Path(zipped(write_series(tmp_path / "series", ct), tmp_path / "packed"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"from the archive"
    path.write_bytes(path.read_bytes() + bytes(9))
    volume, _ = read_series(path)
    assert volume.array.shape == ct.array.shape


def test_a_zip_cut_short_is_taken_for_a_series_and_refused(tmp_path, ct):
    path = Path(zipped(write_series(tmp_path / "series", ct), tmp_path / "cut"))
    path.write_bytes(path.read_bytes()[:-3000])
    assert is_dicom(path)
    with pytest.raises(UserError, match="can't be unpacked"):
        read_series(path)


def test_a_truncated_slice_is_refused(tmp_path, ct):
    folder = write_series(tmp_path / "series", ct)
    cut = sorted(folder.iterdir())[3]
    cut.write_bytes(cut.read_bytes()[:-500])
    with pytest.raises(UserError):
        read_series(folder)


def test_a_real_series_is_read(shared_data):
    volume, header = read_image(shared_data / "real" / "dicom_series_no_kidney.zip")
    assert volume.grid.shape == (18, 512, 512)
    assert volume.grid.spacing == (2.5, 0.6640625, 0.6640625)
    assert volume.array.dtype == np.int16
    assert volume.array.min() == -1024
    # Air, soft tissue and bone are where HU put them.
    assert -1000 < np.median(volume.array) < 100
    assert volume.array.max() > 300
    assert header.suffix == ".nii.gz"


def test_a_real_series_with_gaps_and_a_duplicate_is_refused(shared_data):
    with pytest.raises(UserError) as error:
        read_image(shared_data / "real" / "dicom_missing_and_duplicate_slices.zip")
    assert "more than one slice at -90.00 mm" in error.value.found
    assert "gaps from 7.50 to 115.00 mm" in error.value.found
    assert "export the whole series again" in error.value.remedy
