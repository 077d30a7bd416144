"""How badly the tumor stage does on its own training cases (paper 3.4). Arrays (Z, Y, X)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kitspipe.preprocessing.store import TrainingCase
from kitspipe.preprocessing.targets import TUMOR_CLASS
from kitspipe.training.sampling import HARD_POINTS_PER_REGION, CaseDifficulty

PredictTumor = Callable[[TrainingCase], NDArray[np.bool_]]
"""A region's predicted tumor, (Z, Y, X), on its own grid."""


def difficulties(cases: Sequence[TrainingCase], predict: PredictTumor) -> list[CaseDifficulty]:
    """Tumor Dice, false-positive volume and false voxels of each case, over its regions.

    Args:
        cases: training regions only: validation cases must not steer the training.
        predict: what the network at hand makes of a region.
    """
    regions_of: dict[str, list[TrainingCase]] = {}
    for case in cases:
        regions_of.setdefault(case.case_id, []).append(case)
    return [_difficulty(case_id, regions, predict) for case_id, regions in regions_of.items()]


def _difficulty(
    case_id: str, regions: Sequence[TrainingCase], predict: PredictTumor
) -> CaseDifficulty:
    overlap = total = 0
    false_ml = 0.0
    false_points = {}
    for region in regions:
        tumor = region.read_target(region.whole) == TUMOR_CLASS
        predicted = predict(region)
        false = predicted & ~tumor
        overlap += int((predicted & tumor).sum())
        total += int(predicted.sum()) + int(tumor.sum())
        false_ml += float(false.sum()) * region.grid.voxel_ml
        where = np.argwhere(false)
        step = max(1, len(where) // HARD_POINTS_PER_REGION)
        false_points[region.region] = where[::step][:HARD_POINTS_PER_REGION].astype(np.int32)
    return CaseDifficulty(
        case_id=case_id,
        dice=2 * overlap / total if total else float("nan"),
        false_positive_ml=false_ml,
        false_points=false_points,
    )
