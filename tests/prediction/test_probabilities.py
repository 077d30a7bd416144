import numpy as np
import pytest
import SimpleITK as sitk
from small_data import painted
from small_model import write_model

from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_labels, write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Box, Grid
from kitspipe.prediction.attempt import attempt
from kitspipe.prediction.job import make_job
from kitspipe.prediction.probabilities import (
    StageProbability,
    on_scan,
    read_probabilities,
    write_probabilities,
)
from kitspipe.prediction.run import load_cascade


def ball(grid, center_mm, radius_mm):
    """1 inside, fading to 0 over 5 mm; where it is above 0 does not matter to the grid."""
    places = grid.to_world(np.stack(np.indices(grid.shape), axis=-1))
    distance = np.linalg.norm(places - center_mm, axis=-1)
    return np.clip((radius_mm - distance) / 5 + 0.5, 0, 1).astype(np.float32)


def middle(grid):
    return grid.to_world((np.asarray(grid.shape) - 1) / 2)


def test_a_map_comes_to_lie_where_sitk_resamples_it_to(hard_grid):
    coarse = hard_grid.with_spacing((3.0, 2.0, 2.0))
    array = ball(coarse, middle(hard_grid), 7)
    placed = on_scan([StageProbability(name="kidney", array=array, grid=coarse)], hard_grid)
    source = sitk.GetImageFromArray(array)
    source.SetSpacing(coarse.spacing[::-1])
    source.SetOrigin(coarse.origin)
    source.SetDirection(np.asarray(coarse.direction)[:, ::-1].ravel().tolist())
    target = sitk.Image(hard_grid.shape[::-1], sitk.sitkFloat32)
    target.SetSpacing(hard_grid.spacing[::-1])
    target.SetOrigin(hard_grid.origin)
    target.SetDirection(np.asarray(hard_grid.direction)[:, ::-1].ravel().tolist())
    expected = sitk.GetArrayFromImage(
        sitk.Resample(source, target, sitk.Transform(), sitk.sitkLinear)
    )
    whole = np.zeros(hard_grid.shape)
    start = np.rint(hard_grid.to_index(placed.grid.origin)).astype(int)
    box = Box(start=tuple(start), stop=tuple(start + placed.grid.shape))
    whole[box.slices] = placed.array
    assert np.abs(whole / 255 - expected).max() < 1 / 255
    assert box.shape < hard_grid.shape


def test_written_maps_read_back_on_the_scan_whatever_its_axes(tmp_path, hard_grid):
    whole = ball(hard_grid, middle(hard_grid) + np.array([2, -3, 4]), 6)
    maps = [StageProbability(name="tumor", array=whole, grid=hard_grid)]
    for axes in ("LPS", "IPL", "RAS"):
        file = tmp_path / f"{axes}.nii.gz"
        write_probabilities(file, on_scan(maps, hard_grid), header_for(hard_grid, axes=axes))
        again = read_probabilities(file, hard_grid)
        assert np.abs(again - whole).max() <= 1 / 510 + 1e-6
        assert read_labels(file)[1].axes == axes


def test_the_higher_of_two_overlapping_regions_counts():
    grid = Grid(shape=(8, 10, 12), spacing=(1.0, 1.0, 1.0))
    boxes = [Box(start=(0, 0, 0), stop=(8, 10, 8)), Box(start=(0, 0, 4), stop=(8, 10, 12))]
    maps = [
        StageProbability(
            name="tumor", array=np.full(box.shape, value, np.float32), grid=grid.crop(box)
        )
        for box, value in zip(boxes, (0.2, 0.6), strict=True)
    ]
    placed = on_scan(maps, grid)
    assert placed.array.shape == grid.shape
    np.testing.assert_array_equal(placed.array[0, 0], [51] * 4 + [153] * 8)


def test_nothing_anywhere_is_a_voxel_of_nothing(tmp_path, hard_grid):
    zero = StageProbability(
        name="cyst", array=np.zeros(hard_grid.shape, np.float32), grid=hard_grid
    )
    for maps in ([], [zero]):
        placed = on_scan(maps, hard_grid)
        write_probabilities(tmp_path / "cyst.nii.gz", placed, header_for(hard_grid))
        assert placed.array.shape == (1, 1, 1)
        assert not read_probabilities(tmp_path / "cyst.nii.gz", hard_grid).any()


def test_maps_of_another_scan_are_refused(tmp_path, hard_grid):
    maps = [StageProbability(name="a", array=ball(hard_grid, middle(hard_grid), 6), grid=hard_grid)]
    write_probabilities(tmp_path / "a.nii.gz", on_scan(maps, hard_grid), header_for(hard_grid))
    x, y, z = hard_grid.origin
    moved = Grid(
        shape=hard_grid.shape,
        spacing=hard_grid.spacing,
        origin=(x, y, z + 1.0),
        direction=hard_grid.direction,
    )
    with pytest.raises(UserError, match="give the scan that they were predicted from"):
        read_probabilities(tmp_path / "a.nii.gz", moved)


def test_kidney_probabilities_of_a_case_decide_its_mask(tmp_path):
    place = write_model(tmp_path, seed=2)
    image, _ = painted(0)
    write_image(tmp_path / "scan.nii.gz", image, header_for(image.grid, axes="IPL"))
    case = Case(id="scan", image=tmp_path / "scan.nii.gz", labels=None)
    job = make_job(place, tmp_path / "out", None, "cpu", probabilities=True)
    record = attempt(case, job, load_cascade(place, None, "cpu"), run="r", seen="").record
    assert record.outputs == (
        "scan.nii.gz",
        *(f"probabilities/scan_{name}.nii.gz" for name in ("kidney", "tumor", "cyst")),
    )
    found = {
        name: read_probabilities(file, image.grid)
        for name, file in job.probability_files(case).items()
    }
    labels = read_labels(job.mask_file(case))[0].array
    # Rounded to 1/255, what is just above a half may fall either way; specks are cleaned away.
    kidney = found["kidney"]
    assert (kidney[labels == 1] >= 0.5 - 1 / 255).all()
    assert (found["tumor"][labels == 2] >= 0.5 - 1 / 255).all()
    assert (found["cyst"][labels == 3] >= 0.5 - 1 / 255).all()
    assert np.mean(labels[kidney > 0.51] > 0) > 0.95
