import csv
import json

import numpy as np
import pytest
from shapes import MIDDLES, scan_grid, two_kidneys

from kitspipe import cli
from kitspipe.errors import UserError
from kitspipe.evaluation.measurement_files import measure_files
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Volume

GRID = scan_grid((4.0, 2.0, 2.5), (7.0, -5.0, 9.0))
TUMOR = (MIDDLES["left"] + (19, 0, 20), 11.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two masks, their CTs, slices first on disk; the second case has no tumor."""
    folder = tmp_path_factory.mktemp("data")
    header = header_for(GRID, axes="IPL")
    for number, tumors in enumerate([[TUMOR], []]):
        labels = two_kidneys(GRID, tumors)
        hu = np.choose(labels.array, [-100, 150, 60]).astype(np.int16)
        write_labels(folder / "masks" / f"case_{number:05d}.nii.gz", labels, header)
        write_image(
            folder / "cts" / f"case_{number:05d}.nii.gz", Volume(array=hu, grid=GRID), header
        )
    return folder


def rows(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_table_has_a_row_per_case_kidney_and_tumor(data, tmp_path):
    measure_files(data / "masks", data / "cts", tmp_path / "m.csv", jobs=1)
    found = [(row["case_id"], row["object"], row["side"]) for row in rows(tmp_path / "m.csv")]
    assert found == [
        ("case_00000", "case", ""),
        ("case_00000", "kidney", "right"),
        ("case_00000", "kidney", "left"),
        ("case_00000", "tumor", "left"),
        ("case_00001", "case", ""),
        ("case_00001", "kidney", "right"),
        ("case_00001", "kidney", "left"),
    ]


def test_table_and_json_say_the_same(data, tmp_path):
    measure_files(data / "masks", data / "cts", tmp_path / "m.csv", jobs=1)
    tumor = rows(tmp_path / "m.csv")[3]
    whole = json.loads((tmp_path / "m.json").read_text())["cases"][0]["tumors"][0]
    assert float(tumor["axial_diameter_mm"]) == pytest.approx(whole["axial_diameter_mm"], abs=1e-3)
    assert float(tumor["tissue_mean_hu"]) == whole["tissue"]["mean_hu"] == 60
    assert int(tumor["renal_total"]) == whole["renal"]["total"]
    assert tumor["renal_needs_look"] == "".join(whole["renal"]["needs_look"])
    assert [float(tumor[f"center_{axis}_mm"]) for axis in "xyz"] == pytest.approx(
        whole["center_mm"], abs=1e-3
    )
    assert [int(tumor[f"center_{axis}_voxel"]) for axis in "zyx"] == whole["center_voxel"]
    assert tumor["is_cut"] == "false"


def test_without_cts_there_is_no_hu(data, tmp_path):
    measure_files(data / "masks", None, tmp_path / "m.csv", jobs=1)
    assert not any("hu" in column for column in rows(tmp_path / "m.csv")[0])
    assert json.loads((tmp_path / "m.json").read_text())["cases"][0]["tumors"][0]["tissue"] is None


def test_a_mask_without_its_ct_is_measured_with_a_warning(data, tmp_path):
    done = measure_files(
        data / "masks", data / "cts" / "case_00000.nii.gz", tmp_path / "m.csv", jobs=1
    )
    assert [case.warnings for case in done.cases] == [(), ("no CT for this mask: no HU",)]


def test_a_ct_on_another_grid_fails_its_case_alone(data, tmp_path):
    other = scan_grid((4.0, 2.0, 2.5))
    image = Volume(array=np.zeros(other.shape, np.int16), grid=other)
    for number in (0, 1):
        name = f"case_{number:05d}.nii.gz"
        (tmp_path / name).symlink_to(data / "cts" / name)
    (tmp_path / "case_00001.nii.gz").unlink()
    write_image(tmp_path / "case_00001.nii.gz", image, header_for(other, axes="IPL"))
    done = measure_files(data / "masks", tmp_path, tmp_path / "out" / "m.csv", jobs=1)
    assert [case.case_id for case in done.cases] == ["case_00000"]
    [(case_id, reason)] = done.failures
    assert case_id == "case_00001"
    assert "the mask's grid" in reason


def test_unknown_labels_fail_their_case_alone(data, tmp_path):
    labels = Volume(array=np.full(GRID.shape, 7, np.uint8), grid=GRID)
    write_labels(tmp_path / "case_00007.nii.gz", labels, header_for(GRID, axes="IPL"))
    done = measure_files(tmp_path, None, tmp_path / "m.csv", jobs=1)
    assert "label values [7]" in done.failures[0][1]


def test_an_nnunet_folders_own_labels_are_used(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "tumor": 1, "kidney": 2}}')
    labels = two_kidneys(GRID, [TUMOR]).array
    swapped = Volume(array=np.array([0, 2, 1], np.uint8)[labels], grid=GRID)
    write_labels(tmp_path / "case_00000.nii.gz", swapped, header_for(GRID, axes="IPL"))
    [case] = measure_files(tmp_path, None, tmp_path / "m.csv", jobs=1).cases
    assert [tumor.side for tumor in case.tumors] == ["left"]


@pytest.mark.parametrize("name", ["m.txt", "m", ""])
def test_a_table_ends_in_csv(data, tmp_path, name):
    with pytest.raises(UserError, match=r"a name that ends in \.csv"):
        measure_files(data / "masks", None, tmp_path / name, jobs=1)


def test_cts_of_other_cases_are_refused(data, tmp_path):
    image = Volume(array=np.zeros(GRID.shape, np.int16), grid=GRID)
    write_image(tmp_path / "other.nii.gz", image, header_for(GRID, axes="LPS"))
    with pytest.raises(UserError, match="CTs of the masks' cases"):
        measure_files(data / "masks", tmp_path, tmp_path / "m.csv", jobs=1)


def test_the_command_warns_and_says_what_it_wrote(data, tmp_path, capsys):
    empty = Volume(array=np.zeros(GRID.shape, np.uint8), grid=GRID)
    write_labels(tmp_path / "in" / "case_00009.nii.gz", empty, header_for(GRID, axes="RAS"))
    table = tmp_path / "m.csv"
    assert cli.main(["measure", "-i", str(tmp_path / "in"), "-o", str(table), "-j", "1"]) == 0
    shown = capsys.readouterr()
    assert "warning: case_00009: no kidney" in shown.err
    assert str(table) in shown.out
    assert [row["object"] for row in rows(table)] == ["case"]
