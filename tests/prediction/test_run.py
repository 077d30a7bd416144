import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicom_files import write_series
from small_data import painted
from small_plans import small_plan
from torch import nn

from kitspipe import cli
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.networks.weights import save_weights
from kitspipe.planning.document import write_document
from kitspipe.planning.planner import training_key
from kitspipe.prediction.cascade import Cascade
from kitspipe.prediction.job import FINAL, Job, Recipe
from kitspipe.prediction.run import predict_case
from kitspipe.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A plan, and a network of each stage that learned nothing."""
    place = Workspace(root=tmp_path_factory.mktemp("workspace"))
    plan = small_plan()
    write_document(place.plan_file, plan)
    networks = {"kidney": ResUNet3D(plan.kidney.network), "tumor": VNet25D(plan.tumor.network)}
    for stage, network in networks.items():
        file = place.fold_folder(stage, 0) / FINAL
        save_weights(file, network, plan_sha256=training_key(plan, stage), stage=stage)
    return place.root


def predict(workspace, images, output, *options):
    given = ["-i", images, "-o", output, "-w", workspace, "--device", "cpu", *options]
    return cli.main(["predict", *map(str, given)])


@pytest.fixture
def study(tmp_path):
    """A folder with two CT series of different geometry, and their scans."""
    early, _ = painted(0)
    write_series(tmp_path / "study", early)
    grid = Grid(shape=(9, 41, 37), spacing=(4.0, 3.0, 2.9), origin=(11.0, -20.0, 90.0))
    late = Volume(array=np.full(grid.shape, -90, np.int16), grid=grid)
    described = {"SeriesInstanceUID": "1.2.4", "SeriesDescription": "late"}
    write_series(tmp_path / "study", late, prefix="b", **described)
    return tmp_path / "study", early, late


@pytest.mark.parametrize("uid", [None, "1.2.3", "1.2.4"])
def test_the_mask_is_that_of_the_series_asked_for_and_named_after_it(
    workspace, study, tmp_path, uid, capsys
):
    folder, early, late = study
    options = () if uid is None else ("--series", uid)
    assert predict(workspace, folder, tmp_path / "out", *options) == 0
    name = "study.nii.gz" if uid is None else f"study_{uid}.nii.gz"
    assert [file.name for file in (tmp_path / "out").glob("*.nii.gz")] == [name]
    mask = sitk.ReadImage(str(tmp_path / "out" / name))
    grid = (late if uid == "1.2.4" else early).grid
    assert mask.GetSize() == grid.shape[::-1]
    np.testing.assert_allclose(mask.GetSpacing(), grid.spacing[::-1], rtol=1e-6)
    np.testing.assert_allclose(mask.GetOrigin(), grid.origin, atol=1e-4)
    assert ("--series UID takes another" in capsys.readouterr().err) == (uid is None)


def test_an_unknown_series_ends_the_command_before_a_network_is_loaded(
    workspace, study, tmp_path, capsys
):
    assert predict(workspace, study[0], tmp_path / "out", "--series", "1.2.9") == 2
    said = capsys.readouterr().err
    assert "there are: 'arterial' (15 slices, 1.2.3), 'late' (9 slices, 1.2.4)" in said
    assert not (tmp_path / "out").exists()


def test_a_scan_that_says_nothing_of_its_axes_is_segmented_with_a_warning(
    workspace, tmp_path, capsys
):
    image = nibabel.Nifti1Image(painted(0)[0].array.T, np.diag([-2.5, -2.5, 5, 1]))
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    assert predict(workspace, tmp_path / "scan.nii.gz", tmp_path / "out") == 0
    assert "warning: scan: neither qform nor sform" in capsys.readouterr().err


def job(output):
    """Masks only; the model is given beside it."""
    recipe = Recipe(kitspipe="1", plan="", choice=None, weights={}, options={})
    return Job(
        root="",
        plan_name="",
        folds=None,
        device="cpu",
        output=str(output),
        recipe=recipe,
        classes=("kidney", "tumor", "cyst"),
    )


class Greedy(nn.Module):
    def forward_finest(self, image):
        return torch.from_numpy(np.empty(1 << 47)) + image


def test_a_scan_too_large_for_memory_is_a_message_that_names_it(tmp_path):
    file = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(painted(0)[0].array.T, np.diag([-2.5, -2.5, 5, 1])), file)
    cascade = Cascade(plan=small_plan(), kidney=[Greedy()], tumor=[], device=torch.device("cpu"))
    with pytest.raises(UserError) as error:
        predict_case(Case(id="a", image=file, labels=None), job(tmp_path), cascade)
    assert error.value.file == str(file)
    assert "out of memory: Unable to allocate 1.00 PiB" in error.value.found
