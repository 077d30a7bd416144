"""Everything hospitals send: read right, or refused with a reason; never silently wrong."""

import gzip
import shutil
import struct

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from PIL import Image, features
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from kitspipe import cli
from kitspipe.dataset.cases import find_images
from kitspipe.errors import UserError
from kitspipe.imaging.dicom import read_series
from kitspipe.imaging.formats import read_image, read_labels, write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume


@pytest.fixture
def ct(hard_grid):
    values = np.random.default_rng(0).integers(-1024, 3000, hard_grid.shape).astype(np.int16)
    return Volume(array=values, grid=hard_grid)


def thin(slices, rows=3, columns=2):
    grid = Grid(shape=(slices, rows, columns), spacing=(0.5, 0.9, 0.7), origin=(5.0, -7.0, 300.0))
    values = np.random.default_rng(slices).integers(-1000, 2000, grid.shape).astype(np.int16)
    return Volume(array=values, grid=grid)


def ras_affine(grid, axes):
    """A NIfTI affine of the grid for a file whose axes run so."""
    header = header_for(grid, axes)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(header.direction, (3, 3)) * header.spacing
    affine[:3, 3] = header.origin
    return np.diag([-1, -1, 1, 1]) @ affine


# Axes and geometry


@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL", "SPL", "PIR", "ALS"])
@pytest.mark.parametrize("forms", ["qform", "sform", "both"])
def test_any_axes_are_read_from_qform_or_sform(tmp_path, ct, axes, forms):
    # Slices first, last or in the middle, forward and reversed, all oblique.
    affine = ras_affine(ct.grid, axes)
    stored = header_for(ct.grid, axes).from_canonical(ct.array).T
    image = nibabel.Nifti1Image(stored, affine)
    image.set_qform(affine, 0 if forms == "sform" else 1)
    image.set_sform(affine, 0 if forms == "qform" else 1)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    volume, header = read_image(tmp_path / "ct.nii.gz")
    assert header.axes == axes
    assert volume.grid.close_to(ct.grid, 1e-3)
    np.testing.assert_array_equal(volume.array, ct.array)


@pytest.mark.parametrize("shear", [0.02, 0.3])
@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_sheared_sform_is_refused_also_beside_a_sound_qform(tmp_path, shear, qform_code):
    affine = np.diag([-0.8, -0.7, 2.5, 1])
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine)
    image.set_qform(affine, qform_code)
    affine[1, 2] = shear * 2.5
    image.set_sform(affine, 1)
    nibabel.save(image, tmp_path / "ct.nii")
    with pytest.raises(UserError, match="right angles"):
        read_image(tmp_path / "ct.nii")


def test_two_spacings_in_one_nifti_are_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([-0.8, -0.7, 2.5, 1]))
    image.header["pixdim"][3] = 5
    nibabel.save(image, tmp_path / "ct.nii")
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "ct.nii")
    assert "pixdim 0.8 x 0.7 x 5 mm and sform 0.8 x 0.7 x 2.5 mm" in error.value.found


@pytest.mark.parametrize("shift", [0.05, 0.8])
def test_a_tilted_gantry_is_refused_with_the_shift(tmp_path, ct, shift):
    folder = write_series(tmp_path / "s", ct, shift=lambda k, _: np.array([0, shift * k, 0]))
    with pytest.raises(UserError, match="tilted gantry"):
        read_image(folder)


@pytest.mark.parametrize("slices", [2, 29, 1059])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_few_and_many_slices_of_odd_matrices_come_and_go(tmp_path, slices, suffix):
    ct = thin(slices)
    write_image(tmp_path / f"ct{suffix}", ct, header_for(ct.grid, "IPL"))
    volume, header = read_image(tmp_path / f"ct{suffix}")
    assert volume.grid.close_to(ct.grid)
    np.testing.assert_array_equal(volume.array, ct.array)
    labels = Volume(array=(ct.array > 0).astype(np.uint8), grid=volume.grid)
    write_labels(tmp_path / f"mask{suffix}", labels, header)
    np.testing.assert_array_equal(read_labels(tmp_path / f"mask{suffix}")[0].array, labels.array)


@pytest.mark.parametrize("slices", [29, pytest.param(1059, marks=pytest.mark.slow)])
def test_dicom_series_of_few_and_many_slices(tmp_path, slices):
    ct = thin(slices)
    volume, _ = read_series(write_series(tmp_path / "s", ct))
    assert volume.grid.close_to(ct.grid)
    np.testing.assert_array_equal(volume.array, ct.array)


def without_codes(path, ct, kind=nibabel.Nifti1Image):
    image = kind(ct.array.T, np.diag([-0.7, -0.9, 0.5, 1]))
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_nifti_that_says_nothing_of_its_axes_is_taken_as_simpleitk_does_and_doubted(
    tmp_path, name, kind
):
    ct = thin(4)
    volume, header = read_image(without_codes(tmp_path / name, ct, kind))
    assert header.axes == "LPS"
    np.testing.assert_array_equal(volume.array, ct.array)
    [doubt] = header.doubts
    assert "neither qform nor sform" in doubt
    assert "LPS, as SimpleITK does" in doubt
    write_labels(tmp_path / "mask.nii.gz", Volume(array=ct.array > 0, grid=volume.grid), header)
    codes = nibabel.load(tmp_path / "mask.nii.gz").header
    assert (int(codes["qform_code"]), int(codes["sform_code"])) == (0, 0)


def test_the_axes_without_codes_are_those_of_simpleitk(tmp_path):
    image = sitk.ReadImage(str(without_codes(tmp_path / "ct.nii", thin(4))))
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert read_image(tmp_path / "ct.nii")[0].grid.origin == image.GetOrigin()


@pytest.mark.parametrize("axes", ["RAS", "IPL"])
@pytest.mark.parametrize("forms", ["qform", "sform"])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_nifti_2_is_read_as_nifti_1_is(tmp_path, ct, axes, forms, name, endian):
    affine = ras_affine(ct.grid, axes)
    stored = header_for(ct.grid, axes).from_canonical(ct.array).T
    image = nibabel.Nifti2Image(stored, affine, nibabel.Nifti2Header(endianness=endian))
    image.set_qform(affine, 0 if forms == "sform" else 1)
    image.set_sform(affine, 0 if forms == "qform" else 1)
    image.header.set_slope_inter(2, -3)
    nibabel.save(image, tmp_path / name)
    volume, header = read_image(tmp_path / name)
    assert header.doubts == ()
    assert volume.grid.close_to(ct.grid, 1e-3)
    np.testing.assert_array_equal(
        header.from_canonical(volume.array).T,
        np.asarray(nibabel.load(tmp_path / name).dataobj).round().clip(-1024, 32767),
    )
    labels = Volume(array=(ct.array > 0).astype(np.uint8), grid=volume.grid)
    write_labels(tmp_path / "mask.nii.gz", labels, header)
    mask, _ = read_labels(tmp_path / "mask.nii.gz")
    assert mask.grid.close_to(volume.grid, 1e-6)
    np.testing.assert_array_equal(mask.array, labels.array)


def patched(path, ct, place, kind, *values):
    nibabel.save(nibabel.Nifti2Image(ct.array.T, np.diag([-0.7, -0.9, 0.5, 1])), path)
    raw = bytearray(path.read_bytes())
    struct.pack_into(kind, raw, place, *values)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("place", "kind", "values", "found"),
    [
        (24, "<3q", (30_000, 30_000, 30_000), "the header declares 54000000000000 bytes"),
        (24, "<3q", (1 << 40, 2, 2), "too large for a scan"),
        (16, "<q", (-3,), "impossible size"),
        (168, "<q", (-544,), "voxels from byte -544"),
        (168, "<q", ((1 << 30) + 1,), "too large for a scan"),
        (112, "<d", (float("nan"),), "spacing"),
        (112, "<d", (1e300,), "spacing"),
        (400, "<d", (1e300,), "sform"),
        (0, "<i", (541,), "no NIfTI-2 header"),
    ],
)
def test_a_nifti_2_that_contradicts_itself_is_refused_before_memory_is_taken(
    tmp_path, place, kind, values, found
):
    patched(tmp_path / "ct.nii", thin(4), place, kind, *values)
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "ct.nii")
    assert found in error.value.found


@pytest.mark.parametrize("kept", [100, 540, 544, -1])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_a_nifti_2_that_is_cut_short_is_refused(tmp_path, kept, name):
    ct = thin(4, 20, 20)
    nibabel.save(nibabel.Nifti2Image(ct.array.T, ras_affine(ct.grid, "LPS")), tmp_path / "w.nii")
    raw = (tmp_path / "w.nii").read_bytes()[:kept]
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    with pytest.raises(UserError, match="can't be read"):
        read_image(tmp_path / name)


# Values


@pytest.mark.parametrize("padding", [-2000, -3024])
@pytest.mark.parametrize("is_dicom", [False, True])
def test_padding_becomes_air(tmp_path, padding, is_dicom):
    ct = thin(4)
    padded = np.array(ct.array)
    padded[:, 0] = padding
    if is_dicom:
        place = write_series(tmp_path / "s", ct)
        for file in place.iterdir():
            part = pydicom.dcmread(file)
            pixels = part.pixel_array.astype(np.int32) + int(part.RescaleIntercept)
            pixels[0] = padding
            part.PixelRepresentation, part.RescaleIntercept = 1, 0
            part.add_new("PixelPaddingValue", "SS", padding)
            part.PixelData = pixels.astype("<i2").tobytes()
            part.save_as(file)
    else:
        place = tmp_path / "ct.nii.gz"
        nibabel.save(nibabel.Nifti1Image(padded.T, ras_affine(ct.grid, "LPS")), place)
    volume, _ = read_image(place)
    assert (volume.array[:, 0] == -1024).all()
    np.testing.assert_array_equal(volume.array[:, 1:], ct.array[:, 1:])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint64, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_values_beyond_a_ct_are_clipped_and_not_wrapped(tmp_path, dtype, suffix):
    values = np.array([0, 1, 40000, 65535], dtype)
    if dtype is not np.uint16:
        values[3] = 2**31 - 1
    image = sitk.GetImageFromArray(values.reshape(1, 2, 2))
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"))
    volume, _ = read_image(tmp_path / f"ct{suffix}")
    assert sorted(volume.array.ravel().tolist()) == [0, 1, 32767, 32767]


def test_slopes_of_single_slices_are_applied_slice_by_slice(tmp_path):
    ct = thin(6)
    folder = write_series(tmp_path / "s", ct)
    for k, file in enumerate(sorted(folder.iterdir())):
        part = pydicom.dcmread(file)
        hu = part.pixel_array.astype(np.int32) - 1024
        part.RescaleIntercept, part.RescaleSlope = -2000 - k, 0.5
        part.PixelData = ((hu + 2000 + k) * 2).astype("<u2").tobytes()
        part.save_as(file)
    np.testing.assert_array_equal(read_image(folder)[0].array, ct.array)


# DICOM


def jpeg2000(pixels):
    from io import BytesIO

    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    return stream.getvalue()


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow has no JPEG 2000 encoder")
def test_jpeg_2000_is_read(tmp_path):
    ct = thin(4, rows=40, columns=37)
    folder = write_series(tmp_path / "s", ct)
    for file in folder.iterdir():
        part = pydicom.dcmread(file)
        part.PixelData = encapsulate([jpeg2000(part.pixel_array)])
        part["PixelData"].is_undefined_length = True
        part.file_meta.TransferSyntaxUID = JPEG2000Lossless
        part.save_as(file)
    np.testing.assert_array_equal(read_image(folder)[0].array, ct.array)


def test_run_length_encoding_is_read(tmp_path):
    ct = thin(4, rows=40, columns=37)
    folder = write_series(tmp_path / "s", ct)
    for file in folder.iterdir():
        part = pydicom.dcmread(file)
        part.compress(RLELossless, generate_instance_uid=False)
        part.save_as(file)
    np.testing.assert_array_equal(read_image(folder)[0].array, ct.array)


def mixed_study(folder, ct):
    """A CT, a shorter CT, a scout and an RT object in one folder."""
    write_series(folder, ct)
    write_series(folder, thin(5), prefix="b", SeriesInstanceUID="1.2.4", SeriesDescription="late")
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(folder, thin(30), prefix="c", SeriesInstanceUID="1.2.5", ImageType=scout)
    plan = pydicom.dcmread(next(folder.glob("b*")))
    del plan.PixelData, plan.Rows, plan.Columns
    plan.Modality = "RTPLAN"
    plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
    plan.save_as(folder / "plan.dcm")
    return folder


def test_the_ct_is_found_between_scouts_and_other_objects_and_the_choice_is_said(
    tmp_path, ct, capsys
):
    volume, _ = read_image(mixed_study(tmp_path / "study", ct))
    np.testing.assert_array_equal(volume.array, ct.array)
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert "took the CT series 'arterial' (17 slices, 1.2.3), not 'late' (5 slices, 1.2.4)" in said
    assert "1.2.5" not in said


def test_another_series_is_taken_by_its_uid(tmp_path, ct, capsys):
    folder = mixed_study(tmp_path / "study", ct)
    [case] = find_images(folder, "1.2.4")
    volume, _ = read_image(case.image)
    np.testing.assert_array_equal(volume.array, thin(5).array)
    # Its mask is no mask of the other series.
    assert case.id == "study_1.2.4"
    assert [case.id for case in find_images(folder)] == ["study"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("uid", ["9.9", "1.2.5"])
def test_an_unknown_series_is_answered_with_those_that_there_are(tmp_path, ct, uid):
    folder = mixed_study(tmp_path / "study", ct)
    with pytest.raises(UserError) as error:
        find_images(folder, uid)
    assert f"no CT series {uid}" in error.value.found
    assert "'arterial' (17 slices, 1.2.3), 'late' (5 slices, 1.2.4)" in error.value.found


def test_a_series_is_asked_of_one_dicom_study_only(tmp_path, ct):
    write_series(tmp_path / "a", thin(3))
    write_series(tmp_path / "b", thin(3))
    write_image(tmp_path / "c.nii.gz", ct, header_for(ct.grid))
    for place in (tmp_path, tmp_path / "c.nii.gz"):
        with pytest.raises(UserError, match="one folder or zip of DICOM"):
            find_images(place, "1.2.3")
    with pytest.raises(UserError, match="digits and dots"):
        find_images(tmp_path / "a", "../b")


def test_the_series_comes_from_the_command_line(tmp_path, capsys):
    folder = str(write_series(tmp_path / "a", thin(3)))
    given = ["predict", "-i", folder, "-o", str(tmp_path / "out"), "--series", "../b"]
    assert cli.main(given) == 2
    assert "digits and dots" in capsys.readouterr().err


def test_an_unknown_series_is_one_message_before_networks_are_looked_for(tmp_path, ct, capsys):
    study = mixed_study(tmp_path / "study", ct)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", study)
    for place in (study, packed):
        given = ["predict", "-i", str(place), "-o", str(tmp_path / "out"), "--series", "9.9"]
        # There is no plan, so no network either.
        assert cli.main([*given, "-w", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "no CT series 9.9; there are: 'arterial' (17 slices, 1.2.3), 'late'" in said
        assert said.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_images_of_the_series_that_are_no_slices_of_its_stack_are_said(tmp_path, ct, capsys):
    folder = write_series(tmp_path / "s", ct)
    write_series(folder, thin(2), prefix="b")
    volume, _ = read_image(folder)
    assert volume.grid.shape == ct.grid.shape
    assert "left out 2 images of the series 'arterial'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"Rows": 30}, "23 x 30 pixels, and other data"),
        ({"BitsStored": 12}, "12 of 16 bits"),
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"RescaleIntercept": None}, "RescaleIntercept"),
    ],
)
def test_slices_whose_values_or_places_would_be_guessed_are_refused(tmp_path, ct, changed, found):
    with pytest.raises(UserError) as error:
        read_image(write_series(tmp_path / "s", ct, **changed))
    assert found in error.value.found


@pytest.mark.parametrize("kept", [0, 100, 170, 700])
def test_a_damaged_slice_at_the_end_is_not_left_out_in_silence(tmp_path, ct, kept):
    folder = write_series(tmp_path / "s", ct)
    last = max(folder.iterdir(), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])
    last.write_bytes(last.read_bytes()[:kept])
    with pytest.raises(UserError) as error:
        read_image(folder)
    assert error.value.file == str(last)


# NRRD and MetaImage


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_text_headers_are_read_as_simpleitk_reads_them(tmp_path, ct, suffix, is_packed):
    write_image(tmp_path / f"a{suffix}", ct, header_for(ct.grid, "IPL"))
    image = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    sitk.WriteImage(image, str(tmp_path / f"b{suffix}"), is_packed)
    volume, header = read_image(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(
        header.from_canonical(volume.array), sitk.GetArrayFromImage(image)
    )


def test_voxels_in_a_file_beside_are_read_in_either_byte_order(tmp_path):
    values = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    (tmp_path / "v.raw").write_bytes(b"\0" * 7 + values.tobytes())
    (tmp_path / "ct.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        "HeaderSize = 7\nElementSpacing = 1 2 3\nDimSize = 4 3 2\nElementType = MET_SHORT\n"
        "ElementDataFile = v.raw\n"
    )
    (tmp_path / "ct.nrrd").write_text(
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 3 2\n"
        "space directions: (1,0,0) (0,2,0) (0,0,3)\nendian: big\nencoding: raw\nbyte skip: -1\n"
        "data file: v.raw\n\n"
    )
    for name in ("ct.mhd", "ct.nrrd"):
        volume, _ = read_image(tmp_path / name)
        assert volume.grid.spacing == (3, 2, 1)
        np.testing.assert_array_equal(volume.array, values)


@pytest.mark.parametrize("line", ["ElementToIntensityFunctionSlope = 2", "BinaryData = False"])
def test_what_would_be_read_as_other_values_is_refused(tmp_path, ct, line):
    path = tmp_path / "ct.mha"
    write_image(path, ct, header_for(ct.grid))
    path.write_bytes(path.read_bytes().replace(b"DimSize", line.encode() + b"\nDimSize", 1))
    with pytest.raises(UserError, match=line.split(" =")[0]):
        read_image(path)
