import gzip

import nibabel
import numpy as np
import pytest

from kitspipe.dataset.cases import find_dataset
from kitspipe.dataset.check import check_dataset
from kitspipe.dataset.phantom_dataset import paint_demo, phantom_cases
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_image, read_labels, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume

COARSE = (10.0, 5.2, 5.2)


def test_a_written_data_set_is_one_of_kits(tmp_path):
    raw, _ = paint_demo(tmp_path, cases=3, spacing_mm=COARSE)
    dataset = find_dataset(raw)
    assert dataset.layout == "kits"
    assert [case.id for case in dataset.cases] == ["case_00000", "case_00001"]
    assert [p.text for p in check_dataset(dataset, 1) if p.severity == "error"] == []
    for case in dataset.cases:
        stored = nibabel.load(case.image)
        assert "".join(nibabel.aff2axcodes(stored.affine)) == "IPL"
        assert read_image(case.image)[0].grid.close_to(read_labels(case.labels)[0].grid)


def test_cases_differ_in_shape_and_spacing_and_do_not_depend_on_their_number():
    few, more = (
        [case.anatomy() for case in phantom_cases(cases=n, seed=1, spacing_mm=COARSE)]
        for n in (2, 4)
    )
    assert len({anatomy.labels.grid.spacing for anatomy in more}) == 4
    assert all((a.tissue == b.tissue).all() for a, b in zip(few, more, strict=False))


def test_masks_are_the_anatomy_on_the_spacing_asked_for(tmp_path):
    labels = np.zeros((30, 40, 44), np.uint8)
    labels[4:24, 15:25, 6:16] = 1
    labels[4:24, 15:25, 28:38] = 1
    labels[10:18, 15:25, 28:38] = 2
    volume = Volume(array=labels, grid=Grid(shape=labels.shape, spacing=(4.0, 8.0, 8.0)))
    for name in ("case_00007", "case_00003"):
        header = header_for(volume.grid, axes="RAS")
        write_labels(tmp_path / "masks" / name / "segmentation.nii.gz", volume, header)
    asked = {"cases": 9, "seed": 0, "masks": tmp_path / "masks"}
    native = phantom_cases(**asked)
    assert [case.case_id for case in native] == ["case_00003", "case_00007"]
    assert (native[0].anatomy().labels.array == labels).all()
    coarse = phantom_cases(**asked, spacing_mm=(8.0, 8.0, 8.0))[0].anatomy()
    assert coarse.labels.array.shape == (15, 40, 44)
    assert (coarse.labels.array == labels[::2]).all()


def test_the_demo_holds_a_fifth_of_its_cases_out(tmp_path):
    raw, held_out = paint_demo(tmp_path, cases=5, spacing_mm=COARSE)
    assert [case.id for case in find_dataset(raw).cases] == [f"case_{n:05d}" for n in range(4)]
    assert [case.id for case in find_dataset(held_out).cases] == ["case_00004"]


def test_a_demo_of_one_case_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        paint_demo(tmp_path, cases=1, spacing_mm=COARSE)
    assert error.value.file == "--cases"
    assert "two" in error.value.expected


def test_a_demo_beside_another_is_refused(tmp_path):
    paint_demo(tmp_path, cases=3, spacing_mm=COARSE)
    with pytest.raises(UserError) as error:
        paint_demo(tmp_path, cases=2, spacing_mm=COARSE)
    assert error.value.file == str(tmp_path)
    assert "case_00001" in error.value.found


def test_a_broken_mask_is_named(tmp_path):
    file = tmp_path / "case_00000" / "segmentation.nii.gz"
    file.parent.mkdir()
    file.write_bytes(gzip.compress(b"no mask"))
    with pytest.raises(UserError) as error:
        phantom_cases(cases=1, seed=0, masks=tmp_path)[0].anatomy()
    assert error.value.file == str(file)


def test_a_stopped_demo_paints_only_what_is_missing(tmp_path):
    raw, held_out = paint_demo(tmp_path, cases=3, spacing_mm=COARSE)
    before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in tmp_path.rglob("*.nii.gz")}
    (held_out / "case_00002" / "segmentation.nii.gz").unlink()
    paint_demo(tmp_path, cases=3, spacing_mm=COARSE)
    after = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in tmp_path.rglob("*.nii.gz")}
    assert {f: c for f, (c, _) in after.items()} == {f: c for f, (c, _) in before.items()}
    assert all(after[f][1] == before[f][1] for f in raw.rglob("*.nii.gz"))
