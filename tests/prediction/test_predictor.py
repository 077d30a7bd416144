import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from small_data import painted
from small_model import chosen, write_model

from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_labels, write_image
from kitspipe.imaging.header import header_for
from kitspipe.planning.document import write_document
from kitspipe.planning.planner import read_plan
from kitspipe.prediction.archive import unpack
from kitspipe.prediction.export import export_model
from kitspipe.prediction.predictor import Predictor
from kitspipe.workspace import Workspace

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), seed=2).root


@pytest.fixture(scope="module")
def predictor(root):
    return Predictor.from_folder(root, device="cpu")


@pytest.fixture(scope="module")
def expected(predictor):
    """Labels of a scan given as our own volume, canonical."""
    labels = predictor(painted(0)[0]).labels.array
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    return labels


@pytest.mark.parametrize("axes", ["LPS", "IPL", "RAS", "PSR"])
def test_a_path_and_its_simpleitk_image_give_the_same_on_the_scans_own_axes(
    predictor, expected, tmp_path, axes
):
    image, _ = painted(0)
    file = tmp_path / "scan.nrrd"
    write_image(file, image, header_for(image.grid, axes=axes, suffix=".nrrd"))
    read = sitk.ReadImage(str(file))
    for scan in (file, str(file), read):
        found = predictor(scan)
        np.testing.assert_array_equal(found.labels.array, expected)
        assert found.array.shape == read.GetSize()[::-1]
        assert found.image.GetSize() == read.GetSize()
        np.testing.assert_allclose(found.image.GetOrigin(), read.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(found.image.GetDirection(), read.GetDirection())
    found.write(tmp_path / "mask.mha")
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.mha")[0].array, expected)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
def test_an_array_with_its_spacing_gives_the_same(predictor, expected, dtype):
    image, _ = painted(0)
    found = predictor(image.array.astype(dtype), spacing=image.grid.spacing)
    np.testing.assert_array_equal(found.array, expected)
    assert found.array.dtype == np.uint8
    z, y, x = image.grid.spacing
    tumor_ml = np.count_nonzero(expected == 2) * z * y * x / 1000
    assert found.volume_ml("tumor") == pytest.approx(tumor_ml)


def test_a_dicom_series_gives_the_same_and_dicom_seg(predictor, expected, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="needs kitspipe[dicom]")
    uids = {"StudyInstanceUID": "1.2.7", "FrameOfReferenceUID": "1.2.8"}
    found = predictor(write_series(tmp_path / "series", painted(0)[0], **uids))
    np.testing.assert_array_equal(found.labels.array, expected)
    found.write_seg(tmp_path / "seg.dcm")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    assert np.count_nonzero(seg.array) == np.count_nonzero(expected)


def test_an_exported_file_is_the_same_model_and_its_folder_too(root, expected, tmp_path):

    file = tmp_path / "model.kitspipe"
    export_model(Workspace(root=root), file, None)
    unpack(file, tmp_path / "content")
    for model in (file, tmp_path / "content"):
        found = Predictor.from_folder(model, device="cpu")(painted(0)[0])
        np.testing.assert_array_equal(found.labels.array, expected)
    [weights] = (tmp_path / "content").glob("results/*/tumor/fold_0/*")
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(UserError, match="its hash differs"):
        Predictor.from_folder(tmp_path / "content", device="cpu")


def test_probabilities_come_only_if_asked_for(predictor):
    image, _ = painted(0)
    assert predictor(image).probabilities == {}
    found = predictor(image, probabilities=True).probabilities
    assert list(found) == ["kidney", "tumor", "cyst"]
    assert all(volume.array.dtype == np.uint8 for volume in found.values())


@pytest.mark.parametrize(
    ("scan", "options", "said"),
    [
        (np.zeros((4, 5, 6)), {}, "an array without spacing"),
        (np.zeros((4, 5)), {"spacing": (1, 1, 1)}, "an array of shape"),
        (np.zeros((4, 5, 6)), {"spacing": (1, 1)}, "not enough values"),
        (np.zeros((4, 5, 6)), {"spacing": (1, 0, 1)}, "not finite and positive"),
        (np.zeros((4, 5, 6)), {"spacing": (1, 1e-5, 1)}, "that of no CT"),
        (np.full((4, 5, 6), "a"), {"spacing": (1, 1, 1)}, "type <U1"),
        (sitk.Image(4, 5, sitk.sitkInt16), {}, "2D"),
        (sitk.Image([4, 5, 6], sitk.sitkVectorInt16, 3), {}, "3 values per voxel"),
        (sitk.Image(4, 5, 6, sitk.sitkInt16), {"spacing": (1, 1, 1)}, "that has its own"),
        ("nowhere.nii.gz", {}, "no such file"),
    ],
)
def test_what_is_no_scan_is_a_message(predictor, scan, options, said):
    with pytest.raises(UserError, match=said):
        predictor(scan, **options)


def test_where_no_model_is_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="a file that kitspipe_export wrote"):
            Predictor.from_folder(folder)


def test_the_pages_examples_run(root, tmp_path, monkeypatch):

    monkeypatch.chdir(tmp_path)
    image, _ = painted(0)
    export_model(Workspace(root=root), tmp_path / "model.kitspipe", None)
    for suffix in (".nii.gz", ".nrrd"):
        write_image(tmp_path / f"scan{suffix}", image, header_for(image.grid, suffix=suffix))
    code = "\n".join(
        re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    )
    namespace = {}
    exec(compile(code, "docs/python.md", "exec"), namespace)
    assert namespace["tumor"].array.max() > 0
    for name in ("mask.nii.gz", "mask.nrrd"):
        assert read_labels(tmp_path / name)[0].grid.close_to(image.grid)


def test_what_was_chosen_decides_the_masks(root, expected, tmp_path):
    image, _ = painted(0)
    shutil.copytree(root, tmp_path / "model")
    place = Workspace(root=tmp_path / "model")
    plan = read_plan(place)
    found = Predictor.from_folder(root, device="cpu")(image, probabilities=True)
    tumor = found.probabilities["tumor"].array / 255
    strict = float(np.quantile(tumor[tumor >= 0.5], 0.5))
    write_document(place.choice_file, chosen(plan, strict))
    stricter = Predictor.from_folder(place.root, device="cpu")(image)
    assert (expected == 2).sum() * 0.3 < stricter_count(stricter) < (expected == 2).sum() * 0.7
    # Made for networks of another plan, it does not count.
    other = msgspec.structs.replace(chosen(plan, strict), training_keys={"kidney": "", "tumor": ""})
    write_document(place.choice_file, other)
    ignored = Predictor.from_folder(place.root, device="cpu")(image)
    np.testing.assert_array_equal(ignored.labels.array, expected)


def stricter_count(found):
    return np.count_nonzero(found.labels.array == 2)


def test_folds_that_were_left_out_are_not_asked(tmp_path):
    image, _ = painted(0)
    place = write_model(tmp_path, folds=(0, 1), seed=2)
    alone = Predictor.from_folder(tmp_path, folds=[0], device="cpu")(image).labels.array
    both = Predictor.from_folder(tmp_path, device="cpu")(image).labels.array
    assert (both != alone).any()
    left_out = {"kidney": (1,), "tumor": (1,)}
    plan = read_plan(place)
    choice = msgspec.structs.replace(chosen(plan, plan.tumor.threshold), left_out=left_out)
    write_document(place.choice_file, choice)
    found = Predictor.from_folder(tmp_path, device="cpu")(image).labels.array
    np.testing.assert_array_equal(found, alone)


def test_several_folds_say_on_what_they_agree_and_one_does_not(tmp_path):
    root = write_model(tmp_path, folds=(0, 1)).root
    scan = painted(0)[0]
    both = Predictor.from_folder(root, device="cpu")(scan).quality
    assert 0 <= both.kidney_agreement < 1
    assert Predictor.from_folder(root, device="cpu", folds=[0])(scan).quality is None
