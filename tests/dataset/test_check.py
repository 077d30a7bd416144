import gzip
import math
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from kitspipe.dataset.cases import Case, Dataset, find_dataset
from kitspipe.dataset.check import CORNER_TOLERANCE_MM, check_case, check_dataset
from kitspipe.dataset.problems import Problem

# (slices, rows, columns), slices first and superior to inferior, as KiTS has them on disk.
SHAPE = (9, 23, 31)
KITS_AFFINE = np.array(
    [[0, 0, -0.8, 7.25], [0, -0.7, 0, -31.5], [-2.5, 0, 0, 412.75], [0, 0, 0, 1.0]]
)


def ct():
    """HU (slices, rows, columns): air, fat and noisy tissue."""
    hu = np.random.default_rng(3).normal(60, 15, SHAPE)
    hu[:, :4] = -1000
    hu[:, 4:7] -= 160
    return hu.astype(np.int16)


def mask(*values):
    """Labels (slices, rows, columns): a block for each value, none for none."""
    labels = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        labels[2:6, 10:14, 5 * place + 1 : 5 * place + 4] = value
    return labels


def save(path, array, affine=KITS_AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def kits_case(folder, name="case_00001", image=None, labels=None, affine=KITS_AFFINE):
    """A case in KiTS layout; `affine` is the mask's."""
    return Case(
        id=name,
        image=save(folder / name / "imaging.nii.gz", ct() if image is None else image),
        labels=save(
            folder / name / "segmentation.nii.gz", mask(1, 2) if labels is None else labels, affine
        ),
    )


def severities(problems):
    return [(problem.severity, problem.found.split(";")[0]) for problem in problems]


def single(problems, severity="error"):
    [problem] = problems
    assert problem.severity == severity
    return problem


# Sound cases


@pytest.mark.parametrize("labels", [(1, 2), (1, 2, 3)])
def test_a_sound_case_has_no_problem(tmp_path, labels):
    assert check_case(kits_case(tmp_path, labels=mask(*labels)), None) == []


def test_the_real_kits_case_has_no_problem(shared_data):
    assert check_dataset(find_dataset(shared_data / "real" / "kits_layout"), jobs=1) == []


def test_a_mask_stored_along_other_axes_in_the_same_place_is_sound(tmp_path):
    case = kits_case(tmp_path)
    turned = nib.as_closest_canonical(nib.load(case.labels))
    assert turned.shape != SHAPE
    other = save(tmp_path / "ras.nii.gz", np.asarray(turned.dataobj), turned.affine)
    assert check_case(Case(id="a", image=case.image, labels=other), None) == []


# Partners


def test_a_missing_mask_and_a_missing_image_are_named(tmp_path):
    case = kits_case(tmp_path)
    no_mask = single(check_case(Case(id="a", image=case.image, labels=None), None))
    assert (no_mask.file, no_mask.found) == (str(case.image), "no mask for this image")
    no_image = single(check_case(Case(id="a", image=tmp_path / "gone", labels=case.labels), None))
    assert no_image.file == str(tmp_path / "gone")
    assert str(case.labels) in no_image.found


def test_a_case_with_neither_file_has_both_problems(tmp_path):
    gone = Case(id="a", image=tmp_path / "i.nii.gz", labels=tmp_path / "l.nii.gz")
    assert [p.file for p in check_case(gone, None)] == [str(gone.image), str(gone.labels)]


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("case_00209", "error"),
        ("case_00210", "warning"),
        ("case_00299", "warning"),
        ("case_00300", "error"),
        ("case_00588", "error"),
        ("case_00589", "warning"),
        ("case_00698", "warning"),
        ("case_00699", "error"),
        ("case_210", "error"),
    ],
)
def test_only_test_cases_of_the_challenges_may_lack_a_mask(tmp_path, name, severity):
    image = save(tmp_path / "imaging.nii.gz", ct())
    problem = single(check_case(Case(id=name, image=image, labels=None), None), severity)
    assert "no mask" in problem.found


# Geometry


def test_another_size_is_an_error_that_shows_both(tmp_path):
    case = kits_case(tmp_path, labels=mask(1, 2)[:-1])
    problem = single(check_case(case, None))
    assert problem.file == str(case.labels)
    assert "another size" in problem.found
    # canonical (Z, Y, X) of the slices-first file
    assert "8 x 23 x 31 voxels of 2.5, 0.7, 0.8 mm" in problem.found
    assert f"{case.image}: 9 x 23 x 31 voxels of 2.5, 0.7, 0.8 mm" in problem.expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("shift_mm", "count"), [(0.5, 0), (2, 1)])
def test_a_shift_beyond_the_tolerance_is_an_error(tmp_path, axis, shift_mm, count):
    affine = KITS_AFFINE.copy()
    affine[axis, 3] += shift_mm * CORNER_TOLERANCE_MM
    problems = check_case(kits_case(tmp_path, affine=affine), None)
    assert ["another place" in problem.found for problem in problems] == [True] * count


def test_a_spacing_that_drifts_beyond_the_tolerance_at_the_far_corner_is_an_error(tmp_path):
    # 30 steps of 0.001 mm: 0.03 mm at the last column, 0 at the first.
    affine = KITS_AFFINE.copy()
    affine[0, 2] -= 0.001
    assert "0.801" in single(check_case(kits_case(tmp_path, affine=affine), None)).found


def test_a_mask_turned_against_its_oblique_image_is_an_error(tmp_path):
    angle = math.radians(7)
    image = sitk.GetImageFromArray(ct())
    image.SetSpacing((0.8, 0.7, 2.5))
    labels = sitk.GetImageFromArray(mask(1, 2))
    labels.CopyInformation(image)
    labels.SetDirection(
        (math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, 1)
    )
    sitk.WriteImage(image, tmp_path / "i.nrrd")
    sitk.WriteImage(labels, tmp_path / "l.nrrd")
    case = Case(id="a", image=tmp_path / "i.nrrd", labels=tmp_path / "l.nrrd")
    problem = single(check_case(case, None))
    # the vectors along Z, Y, X; cos and sin of 7 degrees
    assert "axes (0, 0, 1) (-0.1219, 0.9925, 0) (0.9925, 0.1219, 0)" in problem.found
    assert "axes (0, 0, 1) (0, 1, 0) (1, 0, 0)" in problem.expected


@pytest.mark.parametrize(("spacing_mm", "count"), [(5.0, 0), (5.5, 1)])
def test_slices_over_5_mm_are_a_warning(tmp_path, spacing_mm, count):
    affine = KITS_AFFINE.copy()
    affine[2, 0] = -spacing_mm
    image = save(tmp_path / "i.nii.gz", ct(), affine)
    labels = save(tmp_path / "l.nii.gz", mask(1, 2), affine)
    problems = check_case(Case(id="a", image=image, labels=labels), None)
    assert [(p.severity, "5.5, 0.7, 0.8" in p.found) for p in problems] == [
        ("warning", True)
    ] * count


# Labels


def test_unknown_labels_are_listed_with_the_map_and_the_way_out(tmp_path):
    case = kits_case(tmp_path, labels=mask(1, 2, 3, 7))
    problem = single(check_case(case, None, names={"kidney": 1, "tumor": 2}))
    assert problem.found == "label 3, 7"
    assert problem.expected == "background 0, kidney 1, tumor 2"
    assert '"cyst": 3' in problem.remedy


def test_values_that_the_caller_allows_are_no_problem(tmp_path):
    case = kits_case(tmp_path, labels=mask(1, 2, 7))
    assert check_case(case, frozenset({1, 2, 7})) == []
    assert single(check_case(case, None)).found == "label 7"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), [("error", "no kidney"), ("warning", "no tumor")]),
        ((1,), [("warning", "no tumor")]),
        ((2,), [("error", "no kidney")]),
        ((1, 2), []),
        ((1, 3), [("warning", "no tumor")]),
    ],
)
def test_a_mask_without_kidney_is_an_error_and_without_tumor_a_warning(tmp_path, values, expected):
    assert severities(check_case(kits_case(tmp_path, labels=mask(*values)), None)) == expected


def test_the_data_sets_own_label_values_decide(tmp_path):
    case = kits_case(tmp_path, labels=mask(5, 9))
    names = {"kidney": 9, "tumor": 5}
    assert check_case(case, None, names=names) == []
    found = Dataset(folder=tmp_path, layout="nnunet", cases=(case,), label_values=names)
    assert check_dataset(found, jobs=1) == []


@pytest.mark.parametrize("labels", [np.full(SHAPE, 0.5, np.float32), np.full(SHAPE, 900, np.int16)])
def test_a_mask_of_other_numbers_is_an_error(tmp_path, labels):
    case = kits_case(tmp_path, labels=labels)
    assert single(check_case(case, None)).file == str(case.labels)


# HU


def gray():
    low, high = -1000, 120
    return np.clip((ct().astype(float) - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def padded(image):
    image = image.astype(np.int16)
    image[:, :, :3] = -2000
    return image


def with_metal():
    image = ct()
    image[4:6, 15:17, 20:25] = 3071  # 20 of 6417 voxels
    return image


@pytest.mark.parametrize(
    ("image", "severity", "found"),
    [
        (np.full(SHAPE, 40, np.int16), "error", "all voxels are equal"),
        (np.full(SHAPE, -3000, np.int16), "error", "all voxels are equal"),
        (gray(), "error", "gray levels"),
        (gray().astype(np.float32) / 255, "error", "gray levels"),
        (padded(gray()), "error", "gray levels"),
        (ct() + 1024, "error", "intercept was not applied"),
        (padded(ct() + 1024), "error", "intercept was not applied"),
        ((ct().astype(np.float32) - 60) / 77, "error", "too narrow"),
        (ct() + np.int16(1024) + 2000, "warning", "neither air nor fat"),
        (np.clip(3 * ct(), 5, None), "warning", "neither air nor fat"),
        # the intercept twice: tissue ends up as lung
        (ct() - 1024, "warning", "almost nothing from -50 to 250"),
        (np.where(ct() > 80, 12000, ct()).astype(np.int16), "warning", "than bones"),
    ],
)
def test_values_that_are_no_hu_are_named(tmp_path, image, severity, found):
    case = kits_case(tmp_path, image=image)
    problem = single(check_case(case, None), severity)
    assert problem.file == str(case.image)
    assert found in problem.found


@pytest.mark.parametrize(
    "image",
    [
        padded(ct()),
        ct().astype(np.float64),
        with_metal(),
    ],
)
def test_padding_float_storage_and_metal_are_no_problem(tmp_path, image):
    assert check_case(kits_case(tmp_path, image=image), None) == []


# Unreadable files


@pytest.mark.parametrize("which", ["imaging.nii.gz", "segmentation.nii.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_an_error_of_its_case(tmp_path, which, kept):
    file = kits_case(tmp_path).image.with_name(which)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    [case] = find_dataset(tmp_path).cases
    assert single(check_case(case, None)).file == str(file)


def test_voxels_that_end_early_in_a_whole_gz_are_an_error(tmp_path):
    case = kits_case(tmp_path)
    whole = gzip.decompress(case.image.read_bytes())
    case.image.write_bytes(gzip.compress(whole[: len(whole) // 2]))
    assert single(check_case(case, None)).file == str(case.image)


def test_all_problems_of_a_case_are_named_at_once(tmp_path):
    image = ct() + 1024
    case = kits_case(tmp_path, image=image, labels=mask(2, 5)[1:])
    problems = check_case(case, None)
    assert [problem.severity for problem in problems] == ["error"] * 4
    for problem, said in zip(
        problems, ["intercept", "label 5", "no kidney", "another size"], strict=True
    ):
        assert said in problem.found


# The data set


def dataset(folder, *cases):
    return Dataset(folder=folder, layout="kits", cases=cases, label_values=None)


def spoiled_dataset(folder):
    """Five cases; the odd ones lack a kidney, the last one is no image at all."""
    for number in range(4):
        kits_case(folder, f"case_{number:05d}", labels=mask(2) if number % 2 else None)
    kits_case(folder, "case_00004").image.write_bytes(b"no image")
    return find_dataset(folder)


@pytest.mark.parametrize("jobs", [1, 2])
def test_problems_come_in_the_order_of_the_cases(tmp_path, jobs):
    problems = check_dataset(spoiled_dataset(tmp_path), jobs)
    assert [p.case_id for p in problems] == ["case_00001", "case_00003", "case_00004"]
    assert [p.found.startswith("no kidney") for p in problems] == [True, True, False]


def test_two_cases_of_one_id_are_an_error_of_the_data_set(tmp_path):
    case = kits_case(tmp_path)
    other = Case(id=case.id.upper(), image=case.image, labels=tmp_path / "copy.nii.gz")
    shutil.copy(case.labels, other.labels)
    problem = single(check_dataset(dataset(tmp_path, case, other), 1))
    assert (problem.case_id, problem.found) == (case.id, "2 cases with this id")
    assert problem.file == f"{case.labels}, {other.labels}"


def test_no_cases_have_no_problems(tmp_path):
    assert check_dataset(dataset(tmp_path), 4) == []


def test_a_folder_in_a_files_place_is_a_problem_and_no_crash(tmp_path):
    case = kits_case(tmp_path)
    case.labels.unlink()
    case.labels.mkdir()
    assert single(check_case(case, None)).file == str(case.labels)


def test_a_failure_of_the_check_itself_is_a_problem_of_its_case(tmp_path):
    case = kits_case(tmp_path, image=ct() + 1024)
    image, labels = check_case(case, None, names={"kidney": 1})  # no name for the tumor
    assert "intercept" in image.found
    assert (labels.file, "KeyError: 'tumor'" in labels.found) == (str(case.labels), True)


# Problem


@pytest.mark.parametrize(("file", "first"), [("ct.nii", "case_1: ct.nii"), ("", "case_1")])
def test_the_text_says_where_and_what_and_what_to_do(file, first):
    problem = Problem(
        case_id="case_1",
        file=file,
        found="mud",
        expected="a CT",
        remedy="wash it",
        severity="error",
    )
    assert problem.text == (f"{first}\n  found:    mud\n  expected: a CT\n  to do:    wash it")


@pytest.mark.parametrize("empty", ["case_id", "found", "expected", "remedy"])
def test_a_problem_without_its_texts_is_refused(empty):
    texts = dict.fromkeys(("case_id", "file", "found", "expected", "remedy"), "x") | {empty: ""}
    with pytest.raises(ValueError, match="needs"):
        Problem(**texts, severity="error")


def test_a_header_that_says_nothing_of_the_axes_is_a_warning(tmp_path):
    case = kits_case(tmp_path)
    for file in (case.image, case.labels):
        scan = nib.load(file)
        array = np.asarray(scan.dataobj)
        bare = nib.Nifti1Image(array, None)
        bare.header.set_zooms(scan.header.get_zooms())
        bare.header["qform_code"] = bare.header["sform_code"] = 0
        nib.save(bare, file)
    found = check_case(case, None)
    assert [p.severity for p in found] == ["warning", "warning"]
    assert all("neither qform nor sform" in p.found for p in found)
