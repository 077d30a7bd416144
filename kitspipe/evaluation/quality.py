"""Predicted quality, learned from the cross-validation: from members' agreement to Dice.

Each held-out case goes through the networks of its fold, mirrored; how far these passes agree, and
how far the fold agrees with the next one, is held against the Dice of the fold alone. Agreement
orders cases; the calibration turns it into a Dice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kitspipe import console
from kitspipe.evaluation.metrics import kits19_scores
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.planning.calibration import FEWEST_CASES, Calibration, Members
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import read_fold
from kitspipe.prediction.cascade import Cascade, segment
from kitspipe.prediction.effort import effort_of
from kitspipe.prediction.run import load_cascade
from kitspipe.preprocessing.preprocess import source_cases
from kitspipe.workspace import Stage, Workspace


def measure_quality(
    place: Workspace, plan: Plan, folds: Sequence[int], device: str
) -> dict[Members, dict[Stage, Calibration]]:
    """Calibrations from all held-out cases; what there are too few for is missing.

    Args:
        place: with these folds trained in both stages.
        plan: with the values chosen.
        folds: whose held-out cases are looked at.
        device: a name as `pick_device` takes it.
    """
    seen: dict[tuple[Members, Stage], list[tuple[float, float]]] = defaultdict(list)
    todo = [(fold, case_id) for fold in folds for case_id in read_fold(place, fold)[1]]
    alone, pair, loaded = None, None, None
    for fold, case_id in console.progress(todo, len(todo), "agreement"):
        if fold != loaded:
            alone = _cascade(place, plan, [fold], device, mirror=True)
            other = folds[(folds.index(fold) + 1) % len(folds)]
            pair = None
            if other != fold:
                pair = _cascade(place, plan, [fold, other], device, mirror=False)
            loaded = fold
        assert alone is not None
        for (members, stage), found in _look_at(place, case_id, alone, pair).items():
            seen[members, stage].append(found)
    made: dict[Members, dict[Stage, Calibration]] = defaultdict(dict)
    for (members, stage), pairs in seen.items():
        line = calibrate(*zip(*pairs, strict=True))
        if line is not None:
            made[members][stage] = line
    return dict(made)


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


def _cascade(
    place: Workspace, plan: Plan, folds: Sequence[int], device: str, *, mirror: bool
) -> Cascade:
    effort = effort_of(mirror=mirror)
    return replace(load_cascade(place, folds, device, effort=effort, chosen=False), plan=plan)


def _look_at(
    place: Workspace, case_id: str, alone: Cascade, pair: Cascade | None
) -> dict[tuple[Members, Stage], tuple[float, float]]:
    """A held-out case's agreement, by members and stage, each with the Dice of its fold alone."""
    [case] = source_cases(place, "tumor", [case_id])
    assert case.labels is not None
    image, reference = read_image(case.image)[0], read_labels(case.labels)[0]
    found = segment(image, alone)
    true, predicted = (
        volume.array.astype(np.uint8, copy=False) for volume in (reference, found.labels)
    )
    scores = kits19_scores(true, predicted, alone.plan.labels)
    agreements: dict[Members, dict[Stage, float]] = {"mirrored": found.agreement}
    if pair is not None:
        agreements["folds"] = segment(image, pair).agreement
    return {
        (members, stage): (agreement, scores.kidney if stage == "kidney" else scores.tumor)
        for members, of_members in agreements.items()
        for stage, agreement in of_members.items()
    }
