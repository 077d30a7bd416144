"""Every layout and format, by the command itself."""

import json
import math

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from kitspipe import cli

AFFINE = np.array(  # IPL, oblique, anisotropic
    [
        [0, 0, -0.8, 31],
        [2.5 * math.sin(0.17), -0.7 * math.cos(0.17), 0, -12],
        [-2.5 * math.cos(0.17), -0.7 * math.sin(0.17), 0, 405],
        [0, 0, 0, 1],
    ]
)
IDS = ("case_00001", "case_00002", "case_00003")


def labels(shift=0):
    array = np.zeros((9, 31, 23), np.uint8)
    array[1:8, 2:28, 3:20] = 1
    array[2:7, 5 + shift : 14 + shift, 5:15] = 2
    array[3:6, 20:26, 6:12] = 3
    return array


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti = path if path.name.endswith((".nii", ".nii.gz")) else path.parent / "beside.nii"
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), nifti)
    if nifti != path:
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
        nifti.unlink()


LAYOUTS = {
    "flat": "{id}.nii.gz",
    "submission": "prediction_{number}.nii.gz",
    "KiTS": "{id}/segmentation.nii.gz",
    "KiTS clone": "data/{id}/segmentation.nii.gz",
    "KiTS21": "{id}/aggregated_MAJ_seg.nii.gz",
    "nnU-Net": "labelsTr/{id}.nii.gz",
    "not compressed": "{id}.nii",
    "NRRD": "{id}.nrrd",
    "MetaImage": "{id}.mha",
}


def write(folder, layout, ids=IDS, shift=0):
    for case_id in ids:
        name = LAYOUTS[layout].format(id=case_id, number=case_id[-5:])
        save(folder / name, labels(shift))
    return folder


def evaluate(*arguments):
    return cli.main(["evaluate", *map(str, arguments), "-j", "1"])


@pytest.fixture
def references(tmp_path):
    return write(tmp_path / "refs", "KiTS")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_predictions_in_every_layout_are_found(tmp_path, references, layout):
    predictions = write(tmp_path / "preds", layout)
    assert evaluate("-r", references, "-i", predictions, "-o", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["cases"]) == list(IDS)
    assert summary["kits23"]["tumor"] == {"dice": 1, "surface_dice": 1}


@pytest.mark.parametrize("layout", ["nnU-Net", "flat", "KiTS21", "NRRD"])
def test_references_in_every_layout_are_found(tmp_path, layout):
    references = write(tmp_path / "refs", layout)
    predictions = write(tmp_path / "preds", "submission")
    assert evaluate("-r", references, "-i", predictions) == 0
    assert (predictions / "evaluation.csv").is_file()


def test_formats_and_names_may_be_mixed_in_one_folder(tmp_path, references):
    folder = tmp_path / "preds"
    for case_id, layout in zip(IDS, ("submission", "NRRD", "not compressed"), strict=True):
        write(folder, layout, [case_id])
    assert evaluate("-r", references, "-i", folder, "-o", tmp_path) == 0


def test_missing_and_extra_predictions_are_told(tmp_path, references, capsys):
    predictions = write(
        tmp_path / "preds", "submission", ["case_00001", "case_00003", "case_00009"]
    )
    assert evaluate("-r", references, "-i", predictions, "-o", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "case_00002" in told
    assert "no prediction" in told
    assert "case_00009: no reference, so not scored" in told
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["kits23"]["tumor"]["dice"] == pytest.approx(2 / 3)
    assert summary["without_reference"] == ["case_00009"]


def test_two_sets_are_compared_and_both_sets_failures_named(tmp_path, references, capsys):
    new = write(tmp_path / "new", "flat")
    old = write(tmp_path / "old", "submission", IDS[:2], shift=2)
    assert evaluate("-r", references, "-i", new, "-o", tmp_path / "out", "--against", old) == 1
    told = capsys.readouterr()
    assert f"{old}: case_00003" in told.err
    assert "KiTS21/23 tumor dice" in told.out
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    dice = content["metrics"]["kits23_tumor_dice"]
    assert (dice["better"], dice["worse"], dice["cases"]) == (3, 0, 3)
    assert content["other"] == str(old)


@pytest.mark.parametrize("option", ["-r", "-i", "--against"])
def test_a_folder_without_masks_is_one_message(tmp_path, references, capsys, option):
    given = {"-r": references, "-i": write(tmp_path / "preds", "flat")}
    given |= {"--against": given["-i"], "-o": tmp_path / "out", option: tmp_path / "nothing"}
    assert evaluate(*(part for pair in given.items() for part in pair)) == 2
    assert "nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
