import numpy as np
import pytest
from small_data import tumor_regions
from small_plans import small_kidney_plan, small_tumor_plan

from kitspipe.imaging.volume import Box
from kitspipe.preprocessing.intensity import background_value
from kitspipe.training.augmentation import Augment
from kitspipe.training.changes import AugmentationParameters
from kitspipe.training.patches import kidney_patch, tumor_slab
from kitspipe.training.random_keys import SampleKey
from kitspipe.training.sampling import PatchRequest

PLAN = small_tumor_plan(patch_size=(16, 24), slab_depth=3)


def request(z, jitter=0.0, **parameters):
    return PatchRequest(
        region=0,
        box=Box(start=(z, 4, 2), stop=(z + 3, 20, 26)),
        mask_jitter_mm=jitter,
        key=SampleKey(seed=1, stage=2, epoch=0, sample=0),
        **parameters,
    )


def test_a_slab_is_masked_and_its_target_is_the_middle_slices(tmp_path):
    region = tumor_regions(tmp_path)[0]
    slab = tumor_slab(region, request(4), PLAN)
    box = request(4).box
    outside = region.read_distance_mm(box) > PLAN.mask_dilation_mm
    assert slab["data"].shape == (3, 16, 24)
    assert (slab["data"][outside] == background_value(PLAN.hu_window)).all()
    np.testing.assert_array_equal(slab["seg"], region.read_target(box)[1])


@pytest.mark.parametrize(("z", "expected"), [(-1, [0, 0, 1]), (9, [9, 10, 10])])
def test_slabs_repeat_the_regions_first_and_last_slice(tmp_path, z, expected):
    region = tumor_regions(tmp_path)[0]
    assert region.grid.shape[0] == 11
    slab = tumor_slab(region, request(z), PLAN)
    whole = tumor_slab(region, request(4), PLAN)["data"].shape
    in_plane = Box(start=(0, 4, 2), stop=(11, 20, 26))
    mask = region.read_distance_mm(in_plane) <= PLAN.mask_dilation_mm
    np.testing.assert_array_equal(slab["mask"], mask[expected])
    assert slab["data"].shape == whole
    np.testing.assert_array_equal(slab["seg"], region.read_target(in_plane)[z + 1])


def test_a_jittered_mask_wanders_around_its_border_and_stays_within_its_mm(tmp_path):
    region = tumor_regions(tmp_path)[0]
    distance = region.read_distance_mm(request(4).box)
    exact = tumor_slab(region, request(4), PLAN)["mask"]
    jittered = tumor_slab(region, request(4, jitter=4.0), PLAN)["mask"]
    changed = distance[exact != jittered]
    assert changed.size > 20
    assert np.abs(changed - PLAN.mask_dilation_mm).max() <= 4.0


def test_a_turned_slab_is_read_around_its_box_and_ends_as_large_as_asked(tmp_path):
    region = tumor_regions(tmp_path)[0]
    turned = request(4, parameters=AugmentationParameters(rotation_degrees=20.0))
    slab = tumor_slab(region, turned, PLAN)
    around = slab["change"].read
    assert around.shape > turned.box.shape
    assert slab["data"].shape == slab["mask"].shape == around.shape
    np.testing.assert_array_equal(slab["seg"], region.read_target(around)[1])
    found = Augment(None)(**{key: [value] for key, value in slab.items()}, cases=("a",))
    assert found["data"][0].shape == (3, 16, 24)
    assert found["seg"][0].shape == (16, 24)


def test_only_voxels_of_the_scan_count_for_a_patchs_histogram(tmp_path):
    region = tumor_regions(tmp_path)[0]
    drawn = request(-2, parameters=AugmentationParameters(equalize=True))
    patch = kidney_patch(region, drawn, small_kidney_plan())
    _, rows, columns = region.grid.shape
    height, width = min(20, rows) - 4, min(26, columns) - 2
    assert patch["mask"].shape == patch["data"].shape == (1, 3, 16, 24)
    assert not patch["mask"][0, :2].any()
    assert patch["mask"][0, 2, :height, :width].all()
    assert patch["mask"].sum() == height * width
