import numpy as np
import pytest
from small_plans import small_plan

from kitspipe.imaging.volume import Grid
from kitspipe.preprocessing.store import (
    CaseRecord,
    GridRecord,
    RegionArrays,
    RegionRecord,
    open_regions,
    write_case,
)
from kitspipe.training.hard_cases import difficulties

GRID = Grid(shape=(4, 10, 10), spacing=(5.0, 2.0, 2.0))  # 0.02 ml a voxel


def stored(tmp_path, case_id, names, target):
    arrays = [
        RegionArrays(
            name=name,
            grid=GRID,
            image=np.zeros(GRID.shape, np.int16),
            target=target[name],
            refinement=(1, 1, 1),
            distance_mm=np.zeros(GRID.shape, np.float32),
            points={},
        )
        for name in names
    ]
    record = CaseRecord(
        case_id=case_id,
        key="",
        image_sha256="",
        labels_sha256="",
        image="",
        labels="",
        regions=tuple(
            RegionRecord(name=name, grid=GridRecord.of(GRID), refinement=(1, 1, 1))
            for name in names
        ),
    )
    write_case(tmp_path / case_id, record, arrays)
    return open_regions(tmp_path / case_id, record)


def blocks(*blocks):
    array = np.zeros(GRID.shape, np.uint8)
    for value, where in blocks:
        array[where] = value
    return array


def test_dice_is_over_all_regions_of_a_case_and_cysts_are_no_tumor(tmp_path):
    ten, cyst = np.s_[0, 0, :10], np.s_[2, 5, :10]
    target = {"right": blocks((1, ten)), "left": blocks((2, cyst))}
    regions = stored(tmp_path, "a", ["right", "left"], target)
    found = {
        "right": blocks((1, np.s_[0, 0, :5])) > 0,
        "left": blocks((1, np.s_[2, 5, :5])) > 0,
    }
    (case,) = difficulties(regions, lambda region: found[region.region])
    # 5 of 10 tumor voxels found, 5 voxels of a cyst taken for tumor.
    assert case.dice == pytest.approx(2 * 5 / (10 + 10))
    assert case.false_positive_ml == pytest.approx(5 * 0.02)
    assert case.false_points["left"].tolist() == [[2, 5, x] for x in range(5)]
    assert len(case.false_points["right"]) == 0


def test_a_case_without_tumor_has_no_dice(tmp_path):
    regions = stored(tmp_path, "a", ["right"], {"right": blocks()})
    (case,) = difficulties(regions, lambda region: np.zeros(GRID.shape, bool))
    assert np.isnan(case.dice)
    assert case.false_positive_ml == 0


def test_small_plans_are_plans():
    assert small_plan().tumor.network.classes == 2
