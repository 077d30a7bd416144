import math

import numpy as np
import pytest

from kitspipe.evaluation.case_scores import METRICS, failed, score
from kitspipe.evaluation.metrics import KITS_LABELS
from kitspipe.imaging.volume import Grid

GRID = Grid(shape=(12, 30, 40), spacing=(2.5, 0.7, 0.8), origin=(3, -4, 100))
VOXEL_ML = 2.5 * 0.7 * 0.8 / 1000
OF = {metric.name: metric.of for metric in METRICS}


def painted():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1:11, 3:27, 2:38] = 1
    labels[3:9, 5:15, 5:20] = 2
    return labels


def test_volume_errors_are_predicted_less_true():
    smaller = painted()
    smaller[3:9, 5:15, 5:8] = 1
    found = score("case", painted(), smaller, GRID)
    assert OF["tumor_volume_error_ml"](found) == pytest.approx(-6 * 10 * 3 * VOXEL_ML)
    assert OF["tumor_volume_error_percent"](found) == pytest.approx(-20)
    assert OF["tumor_absolute_volume_error_percent"](found) == pytest.approx(20)
    assert OF["kidney_and_mass_volume_error_ml"](found) == 0


def test_where_nothing_lies_in_the_scan_changes_nothing():
    reference, prediction = painted(), np.roll(painted(), 1, 1)
    far = Grid(shape=(31, 60, 70), spacing=GRID.spacing, origin=GRID.origin)
    large = np.zeros((2, *far.shape), np.uint8)
    large[0, 5:17, 20:50, 11:51], large[1, 5:17, 20:50, 11:51] = reference, prediction
    near, away = score("case", reference, prediction, GRID), score("case", *large, far)
    for metric in METRICS:
        assert metric.of(near) == pytest.approx(metric.of(away), nan_ok=True)


# (both empty, only the reference has any, only the prediction has any, no prediction)
RULES = {
    "kits19_tumor_dice": (math.nan, 0, 0, 0),
    "kits23_tumor_dice": (1, 0, 0, 0),
    "kits23_tumor_surface_dice": (1, 0, 0, 0),
    "tumor_hausdorff95_mm": (math.nan, math.inf, math.inf, math.inf),
    "tumor_volume_error_percent": (math.nan, -100, math.nan, -100),
    "tumors_found_share": (math.nan, 0, math.nan, 0),
    "false_tumors": (0, 0, 1, math.nan),
}


@pytest.mark.parametrize("name", RULES)
def test_empty_masks_follow_the_written_rules(name):
    without = np.minimum(painted(), 1)
    cases = (
        score("both", without, without, GRID),
        score("missed", painted(), without, GRID),
        score("made up", without, painted(), GRID),
        failed("no prediction", painted(), GRID, KITS_LABELS, "none"),
    )
    assert [OF[name](case) for case in cases] == pytest.approx(list(RULES[name]), nan_ok=True)


def test_all_empty_is_no_error():
    empty = np.zeros(GRID.shape, np.uint8)
    found = score("case", empty, empty, GRID)
    assert OF["kits23_kidney_and_mass_dice"](found) == 1
    assert OF["kidney_and_mass_volume_error_ml"](found) == 0
    assert failed("case", empty, GRID, KITS_LABELS, "none").findings.tumors == ()


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ"):
        score("case", painted(), painted()[1:], GRID)
