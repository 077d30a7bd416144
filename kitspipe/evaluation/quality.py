"""Predicted quality, learned from the cross-validation: from members' agreement to Dice.

Each held-out case goes through the networks of its fold, mirrored; how far these passes agree is
held against the Dice of their mean. Agreement alone orders cases; the calibration turns it into a
Dice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kitspipe import console
from kitspipe.evaluation.metrics import kits19_scores
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.planning.calibration import FEWEST_CASES, Calibration
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import read_fold
from kitspipe.prediction.cascade import Cascade, segment
from kitspipe.prediction.effort import effort_of
from kitspipe.prediction.run import load_cascade
from kitspipe.preprocessing.preprocess import source_cases
from kitspipe.workspace import STAGES, Stage, Workspace


def measure_quality(
    place: Workspace, plan: Plan, folds: Sequence[int], device: str
) -> dict[Stage, Calibration]:
    """Calibrations from all held-out cases; a stage with too few is missing.

    Args:
        place: with these folds trained in both stages.
        plan: with the values chosen.
        folds: whose held-out cases are looked at.
        device: a name as `pick_device` takes it.
    """
    agreements: dict[Stage, list[float]] = {stage: [] for stage in STAGES}
    dices: dict[Stage, list[float]] = {stage: [] for stage in STAGES}
    todo = [(fold, case_id) for fold in folds for case_id in read_fold(place, fold)[1]]
    cascade, loaded = None, None
    for fold, case_id in console.progress(todo, len(todo), "agreement"):
        if fold != loaded:
            made = load_cascade(place, [fold], device, effort=effort_of(mirror=True), chosen=False)
            cascade, loaded = replace(made, plan=plan), fold
        assert cascade is not None
        agreement, dice = _look_at(place, case_id, cascade)
        for stage in STAGES:
            agreements[stage].append(agreement[stage])
            dices[stage].append(dice[stage])
    made_of = {stage: calibrate(agreements[stage], dices[stage]) for stage in STAGES}
    return {stage: found for stage, found in made_of.items() if found is not None}


def calibrate(agreements: Sequence[float], dices: Sequence[float]) -> Calibration | None:
    """The rising line nearest to what cases with a reference show; None for too few cases.

    Isotonic regression (pools of neighbors that would fall), points at the pools' means.

    Args:
        agreements: of the cases; those with NaN here or in `dices` are left out.
        dices: their Dice.
    """
    pairs = np.column_stack([agreements, dices]).astype(float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < FEWEST_CASES:
        return None
    pools: list[tuple[float, float, int]] = []
    # Cases of equal agreement have to be one pool, whatever their Dice.
    for value in np.unique(pairs[:, 0]):
        same = pairs[pairs[:, 0] == value, 1]
        pools.append((float(value), float(same.mean()), len(same)))
        while len(pools) > 1 and pools[-2][1] >= pools[-1][1]:
            (a, b, n), (c, d, m) = pools[-2:]
            pools[-2:] = [((a * n + c * m) / (n + m), (b * n + d * m) / (n + m), n + m)]
    return Calibration(
        agreement=tuple(pool[0] for pool in pools),
        dice=tuple(pool[1] for pool in pools),
        cases=len(pairs),
    )


def _look_at(
    place: Workspace, case_id: str, cascade: Cascade
) -> tuple[dict[Stage, float], dict[Stage, float]]:
    """A held-out case's agreement and Dice, by stage."""
    [case] = source_cases(place, "tumor", [case_id])
    assert case.labels is not None
    image, reference = read_image(case.image)[0], read_labels(case.labels)[0]
    found = segment(image, cascade)
    true, predicted = (
        volume.array.astype(np.uint8, copy=False) for volume in (reference, found.labels)
    )
    scores = kits19_scores(true, predicted, cascade.plan.labels)
    return found.agreement, {"kidney": scores.kidney, "tumor": scores.tumor}
