"""Memory of a prediction on tall scans, with networks that need none of their own."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_plans import small_kidney_plan, small_plan, small_tumor_plan

from kitspipe.imaging.formats import read_labels, write_image
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.document import write_document

SPACING = (0.5, 0.8, 0.8)
PREDICT = """
import sys
import torch
from pathlib import Path
from test_memory_use import Bright
from kitspipe.dataset.cases import Case
from kitspipe.planning.document import read_document
from kitspipe.planning.plan import Plan
from kitspipe.prediction.cascade import Cascade
from kitspipe.prediction.effort import DEFAULT
from kitspipe.prediction.job import Job, Recipe
from kitspipe.prediction.memory_use import peak_mib, reset_peak
from kitspipe.prediction.run import predict_case

scan, output, plan_file = map(Path, sys.argv[1:])
plan = read_document(plan_file, Plan, made_by="the test")
recipe = Recipe(kitspipe="", plan="", choice=None, weights={}, options={})
job = Job(root="", plan_name="", folds=None, device="cpu", output=str(output), recipe=recipe,
          classes=())
cascade = Cascade(plan=plan, kidney=[Bright(plan.kidney)], tumor=[Bright(plan.tumor)],
                  device=torch.device("cpu"), effort=DEFAULT)
reset_peak()
before = peak_mib()
predict_case(Case(id="a", image=scan, labels=None), job, cascade)
print(peak_mib() - before)
"""


class Bright:
    """Both stages' networks: what is brighter than 100 HU; tumor only in the middle of it."""

    def __init__(self, plan):
        self.window = plan.hu_window

    def hu(self, image):
        return image * self.window.scale_hu + self.window.center_hu - 100

    def forward_finest(self, image):
        fine = self.hu(image)
        return fine.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def forward_coarse(self, image, below):
        by = 2**below
        return self.hu(image)[:, :, :: by // 2, ::by, ::by]

    def __call__(self, slab):
        return self.hu(slab[:, :1]).repeat(1, 2, 1, 1) - 100


def predicted(folder, slices):
    """MiB that a scan of so many slices takes beyond what a process has anyway, and its mask."""
    grid = Grid(shape=(slices, 512, 512), spacing=SPACING)
    hu = np.full(grid.shape, -90, np.int16)
    hu[:, :100] = -1000
    hu[20:220, 200:280, 100:180] = hu[50:250, 200:280, 320:400] = 180
    file = folder / f"{slices}.nii"
    write_image(file, Volume(array=hu, grid=grid), header_for(grid, axes="IPL"))
    kidney = small_kidney_plan(
        target_spacing_mm=(2.0, "x2", "x2"),
        patch_size=(64, 256, 256),
        window_stride=(32, 128, 128),
    )
    network = msgspec.structs.replace(kidney.network, target_refinement=(1, 2, 2))
    kidney = msgspec.structs.replace(kidney, network=network)
    tumor = small_tumor_plan(target_spacing_mm=(1.0, "x1", "x1"))
    write_document(folder / "plan.json", small_plan(kidney=kidney, tumor=tumor))
    command = [sys.executable, "-c", PREDICT, file, folder / str(slices), folder / "plan.json"]
    tests = Path(__file__).parent
    done = subprocess.run(
        [str(part) for part in command],
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    labels, _ = read_labels(folder / str(slices) / "a.nii.gz")
    assert np.count_nonzero(labels.array[20:250]) > 0.95 * 2 * 200 * 80 * 80
    return float(done.stdout)


@pytest.mark.slow
def test_memory_grows_by_the_scans_own_voxels_and_hardly_more(tmp_path):
    # A mask of the scan's size would be half of that more, a float32 volume twice.
    low, high = (predicted(tmp_path, slices) for slices in (500, 1059))
    scan_mib = (1059 - 500) * 512 * 512 * 2 / 2**20
    assert high - low < 1.25 * scan_mib
