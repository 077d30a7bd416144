import json
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from kitspipe.dataset.cases import Case, duplicate_ids, find_dataset, find_images, find_masks
from kitspipe.errors import UserError

LABELS = {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}


def touch(folder, *names):
    """Empty files: finding cases reads no voxels."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def nnunet(folder, *names, labels=None):
    touch(folder, *names)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels or LABELS}))
    return folder


def dicom_series(folder, slices=3):
    """A CT series as SimpleITK writes it."""
    folder.mkdir(parents=True)
    for z in range(slices):
        image = sitk.GetImageFromArray(np.full((1, 5, 7), z, np.int16))
        image.SetSpacing((0.8, 0.7, 2.5))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{z + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.100",
            "0020|0013": str(z),
            "0020|0032": f"-10\\-20\\{2.5 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"IM{z:04d}.dcm"))
        writer.Execute(image)
    return folder


def zipped(folder, target):
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"series/{file.name}")
    return target


def relative(cases, folder):
    return [
        (c.id, str(c.image.relative_to(folder)), c.labels and str(c.labels.relative_to(folder)))
        for c in cases
    ]


# find_dataset: KiTS


@pytest.mark.parametrize("below", ["", "data/", "dataset/"])
def test_kits_cases_are_found_in_the_folder_and_one_level_below(tmp_path, below):
    touch(
        tmp_path,
        f"{below}case_00003/imaging.nii.gz",
        f"{below}case_00003/segmentation.nii.gz",
        f"{below}case_00001/imaging.nii.gz",
        f"{below}case_00001/aggregated_MAJ_seg.nii.gz",
        f"{below}case_00001/aggregated_AND_seg.nii.gz",
        f"{below}kits23.json",
    )
    found = find_dataset(tmp_path)
    assert (found.folder, found.layout, found.label_values) == (tmp_path, "kits", None)
    one, three = f"{below}case_00001/", f"{below}case_00003/"
    assert relative(found.cases, tmp_path) == [
        ("case_00001", f"{one}imaging.nii.gz", f"{one}aggregated_MAJ_seg.nii.gz"),
        ("case_00003", f"{three}imaging.nii.gz", f"{three}segmentation.nii.gz"),
    ]


def test_a_kits_case_without_a_partner_stays_a_case(tmp_path):
    touch(tmp_path, "case_00000/imaging.nii.gz", "case_00001/segmentation.nii.gz")
    (tmp_path / "case_00002").mkdir()
    assert relative(find_dataset(tmp_path).cases, tmp_path) == [
        ("case_00000", "case_00000/imaging.nii.gz", None),
        ("case_00001", "case_00001/imaging.nii.gz", "case_00001/segmentation.nii.gz"),
        ("case_00002", "case_00002/imaging.nii.gz", None),
    ]


def test_the_real_kits_case_is_found(shared_data):
    folder = shared_data / "real" / "kits_layout"
    [case] = find_dataset(folder).cases
    assert (case.id, case.image.exists(), case.labels.exists()) == ("case_00000", True, True)
    assert find_images(folder) == [Case(id=case.id, image=case.image, labels=None)]
    assert find_masks(folder) == {"case_00000": case.labels}


# find_dataset: nnU-Net


def test_nnunet_cases_are_paired_by_name(tmp_path):
    nnunet(
        tmp_path,
        "imagesTr/b_0000.nrrd",
        "imagesTr/a_0000.nii.gz",
        "imagesTr/._a_0000.nii.gz",
        "imagesTr/notes.txt",
        "labelsTr/a.nii.gz",
        "labelsTr/b.nrrd",
        "imagesTs/c_0000.nii.gz",
    )
    found = find_dataset(tmp_path)
    assert (found.layout, found.label_values) == ("nnunet", {"kidney": 1, "tumor": 2, "cyst": 3})
    assert relative(found.cases, tmp_path) == [
        ("a", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
        ("b", "imagesTr/b_0000.nrrd", "labelsTr/b.nrrd"),
    ]


def test_an_nnunet_case_without_a_partner_stays_a_case(tmp_path):
    nnunet(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/b.nii.gz")
    assert relative(find_dataset(tmp_path).cases, tmp_path) == [
        ("a", "imagesTr/a_0000.nii.gz", None),
        ("b", "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"),
    ]


def test_two_files_of_one_case_stay_two_cases_for_check_to_name(tmp_path):
    nnunet(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/a.nrrd")
    assert relative(find_dataset(tmp_path).cases, tmp_path) == [
        ("a", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
        ("a", "imagesTr/a_0000.nii.gz", "labelsTr/a.nrrd"),
    ]


def test_a_second_channel_is_refused(tmp_path):
    nnunet(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(UserError) as refused:
        find_dataset(tmp_path)
    assert refused.value.file.endswith("a_0001.nii.gz")
    assert "channel 0001 of a" in refused.value.found


def test_nnunet_folders_without_a_dataset_json_are_refused(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(UserError, match=r"dataset\.json"):
        find_dataset(tmp_path)


def test_nnunet_folders_without_volumes_are_refused(tmp_path):
    nnunet(tmp_path, "imagesTr/a_0000.png", "labelsTr/a.png")
    with pytest.raises(UserError, match="imagesTr/CASE_0000"):
        find_dataset(tmp_path)


# Nothing found


@pytest.mark.parametrize("find", [find_dataset, find_images, find_masks])
def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path, find):
    with pytest.raises(UserError) as refused:
        find(tmp_path)
    assert refused.value.file == str(tmp_path)
    assert refused.value.found == "an empty folder"
    assert "case_*/" in refused.value.expected


@pytest.mark.parametrize("find", [find_dataset, find_images, find_masks])
def test_a_missing_folder_is_refused(tmp_path, find):
    with pytest.raises(UserError) as refused:
        find(tmp_path / "nowhere")
    assert refused.value.file.endswith("nowhere")
    assert "no such" in refused.value.found


@pytest.mark.parametrize("find", [find_dataset, find_images, find_masks])
def test_a_folder_of_other_things_is_refused_with_its_content(tmp_path, find):
    touch(tmp_path, "readme.txt", "scans/ct.nii.gz", *(f"{n}.png" for n in "abcdef"))
    with pytest.raises(UserError) as refused:
        find(tmp_path)
    assert refused.value.found == "a.png, b.png, c.png, d.png, e.png and 3 more"


# find_images


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan.nii.gz", "scan"),
        ("scan.NII.GZ", "scan"),
        ("scan_0000.nii.gz", "scan"),
        ("scan_0003.mha", "scan_0003"),  # no _0000 beside it: the third scan
        ("case_00000.nrrd", "case_00000"),  # five digits are no channel
        ("2021.03.04 Müller (2).nii", "2021.03.04_Müller_2_"),
        ("case_00007/imaging.nii.gz", "case_00007"),
    ],
)
def test_a_file_is_one_case_named_after_it(tmp_path, name, expected):
    file = touch(tmp_path, name) / name
    assert find_images(file) == [Case(id=expected, image=file, labels=None)]


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = touch(tmp_path, "scan.jpg") / "scan.jpg"
    with pytest.raises(UserError, match=r"\.nii\.gz"):
        find_images(file)


def test_a_zip_that_holds_no_dicom_is_refused(tmp_path):
    touch(tmp_path, "notes/readme.txt")
    with pytest.raises(UserError, match="DICOM"):
        find_images(zipped(tmp_path / "notes", tmp_path / "notes.zip"))


def test_a_folder_of_volumes_gives_ids_without_channel(tmp_path):
    touch(tmp_path, "imagesTs/b_0000.nii.gz", "imagesTs/a_0000.nii.gz", "imagesTs/c.mha")
    touch(tmp_path, "imagesTs/.a.nii.gz", "imagesTs/d.txt")
    found = find_images(tmp_path / "imagesTs")
    assert [(case.id, case.image.name, case.labels) for case in found] == [
        ("a", "a_0000.nii.gz", None),
        ("b", "b_0000.nii.gz", None),
        ("c", "c.mha", None),
    ]


def test_numbers_of_five_digits_in_nnunet_folders_are_no_channels(tmp_path):
    touch(tmp_path / "imagesTs", "case_00001.nii.gz", "case_00002_0000.nii.gz")
    found = [case.id for case in find_images(tmp_path / "imagesTs")]
    assert found == ["case_00001", "case_00002"]


def test_a_second_channel_without_the_first_is_refused_in_nnunet_folders(tmp_path):
    touch(tmp_path / "imagesTs", "a_0001.nii.gz")
    with pytest.raises(UserError, match="channel 0001 of a"):
        find_images(tmp_path / "imagesTs")


@pytest.mark.parametrize("folder", ["imagesTs", "scans"])
def test_a_channel_beside_the_first_is_refused_everywhere(tmp_path, folder):
    touch(tmp_path / folder, "a_0000.nii.gz", "a_0001.nii.gz")
    with pytest.raises(UserError, match="channel 0001 of a"):
        find_images(tmp_path / folder)


def test_a_kits_folder_gives_its_scans_and_none_of_its_masks(tmp_path):
    touch(
        tmp_path,
        "case_00000/imaging.nii.gz",
        "case_00000/segmentation.nii.gz",
        "case_00001/segmentation.nii.gz",
    )
    expected = [
        Case(id="case_00000", image=tmp_path / "case_00000" / "imaging.nii.gz", labels=None)
    ]
    assert find_images(tmp_path) == expected
    assert find_images(tmp_path / "case_00000") == expected


@pytest.mark.parametrize(
    "names", [("a.nii.gz", "a.nrrd"), ("a b.nii", "a_b.nii"), ("A.nii", "a.mha")]
)
def test_two_scans_of_one_id_are_refused_with_both_names(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(UserError) as refused:
        find_images(tmp_path)
    assert all(name in refused.value.found for name in names)


def test_a_dicom_series_is_a_case_as_folder_and_as_zip(tmp_path):
    series = dicom_series(tmp_path / "patient 1")
    archive = zipped(series, tmp_path / "patient 2.zip")
    assert find_images(series) == [Case(id="patient_1", image=series, labels=None)]
    assert find_images(archive) == [Case(id="patient_2", image=archive, labels=None)]


def test_a_folder_of_series_zips_and_volumes_gives_all(tmp_path):
    series = dicom_series(tmp_path / "series")
    archive = zipped(series, tmp_path / "archive.zip")
    touch(tmp_path, "volume.nii.gz", "other/readme.txt")
    assert [(case.id, case.image) for case in find_images(tmp_path)] == [
        ("archive", archive),
        ("series", series),
        ("volume", tmp_path / "volume.nii.gz"),
    ]


# find_masks


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["prediction_00210.nii.gz", "case_00001.nii.gz", "scan 4.mha"],
            {"case_00001": 1, "case_00210": 0, "scan_4": 2},
        ),
        (["labelsTr/a.nii.gz", "imagesTr/a_0000.nii.gz"], {"a": 0}),
        (["dataset/case_00002/segmentation.nii.gz"], {"case_00002": 0}),
        (
            ["case_00002/segmentation.nii.gz", "case_00002/imaging.nii.gz", "case_00003/x.txt"],
            {"case_00002": 0},
        ),
    ],
)
def test_masks_are_found_by_case(tmp_path, files, expected):
    touch(tmp_path, *files)
    found = find_masks(tmp_path)
    assert found == {name: tmp_path / files[place] for name, place in expected.items()}
    assert list(found) == sorted(found)


def test_one_mask_file_and_one_kits_case_are_understood(tmp_path):
    mask = touch(tmp_path, "case_00002/segmentation.nii.gz") / "case_00002/segmentation.nii.gz"
    assert find_masks(tmp_path / "case_00002") == find_masks(mask) == {"case_00002": mask}


def test_a_prediction_and_a_mask_of_the_same_case_are_refused(tmp_path):
    touch(tmp_path, "prediction_00001.nii.gz", "case_00001.nii.gz")
    with pytest.raises(UserError, match="case_00001"):
        find_masks(tmp_path)


# Ids


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a:b", "a\n"])
def test_an_id_that_is_no_safe_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="not safe"):
        Case(id=name, image=tmp_path, labels=None)


# The name as a file system may have it: anything but its separators and control characters.
FILE_STEMS = st.text(
    st.characters(exclude_characters="/\\", exclude_categories=("C", "Z")), min_size=1, max_size=30
)


@given(FILE_STEMS.filter(lambda stem: not stem.startswith(".")))
def test_every_file_name_gives_a_safe_id(tmp_path_factory, stem):
    folder = tmp_path_factory.mktemp("ids")
    (folder / f"{stem}.nii.gz").touch()
    [case] = find_images(folder)
    made = folder / f"{case.id}.nii.gz"
    made.touch()  # a mask can be written under the id
    assert made.parent.resolve() == folder.resolve()
    assert case.image.name == f"{stem}.nii.gz"


@given(st.lists(st.sampled_from(["a", "A", "b", "c", "C"])))
def test_ids_are_duplicates_exactly_when_they_are_equal_but_for_case(tmp_path_factory, names):
    root = tmp_path_factory.getbasetemp()
    files = [root / str(place) for place in range(len(names))]
    found = duplicate_ids(zip(names, files, strict=True))
    lower = [name.lower() for name in names]
    counted = {name: lower.count(name) for name in lower if lower.count(name) > 1}
    assert {name.lower(): len(places) for name, places in found.items()} == counted
