"""Margin, threshold, post-processing, folds, predicted quality, by the cross-validation alone.

Rules are tried one after the other, each against what stands until then; one that does not help is
not used. It helps where the mean tumor Dice rises by at least `LEAST_GAIN` and its interval over
cases lies above 0, or where the Dice does not fall and false tumors do become fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec
import numpy as np

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.evaluation.held_out import Decided, HeldOut, decide, look
from kitspipe.evaluation.intervals import Estimate, estimate
from kitspipe.evaluation.quality import measure_quality
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.networks.device import pick_device
from kitspipe.planning.choice import Choice, Trial, training_keys
from kitspipe.planning.document import read_document, write_document
from kitspipe.planning.plan import Plan, TumorPlan
from kitspipe.planning.planner import read_fold, read_plan
from kitspipe.prediction.job import trained_folds
from kitspipe.prediction.run import load_cascade
from kitspipe.prediction.tumors import TumorStage
from kitspipe.preprocessing.out_of_fold import KidneyValidation
from kitspipe.preprocessing.preprocess import source_cases
from kitspipe.workspace import STAGES, Stage, Workspace

LEAST_GAIN = 0.002
"""Of tumor Dice: less is not worth a rule."""
_FEWER_FALSE = 0.02
_COLLAPSED = 0.5
"""A fold whose Dice is below this share of the folds' median did not learn."""

CANDIDATES: dict[str, tuple[Any, ...]] = {
    "mask_dilation_mm": (3.0, 5.0, 7.0, 10.0),
    "threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "components": ("all", "touching_kidney", "largest_per_kidney", "largest"),
    "minimal_tumor_ml": (0.0, 0.1, 0.5, 1.0),
    "minimal_healthy_ml": (0.0, 10.0, 30.0),
}
"""Rule -> values that are tried, in this order, beside the plan's own."""


def choose(place: Workspace, device: str) -> Choice:
    """Choose, and write `choice.json`.

    Args:
        place: with at least one fold of both stages trained and validated.
        device: a name as `pick_device` takes it.

    Raises:
        UserError: no such fold.
    """
    plan = read_plan(place)
    folds = _both_stages(place)
    cases = _look_at_all(place, plan, folds, device)
    choice = choice_of(cases, plan, _kidney_scores(place, folds))
    calibrations = measure_quality(place, choice.applied(plan), folds, device)
    choice = msgspec.structs.replace(choice, quality=calibrations)
    write_document(place.choice_file, choice)
    return choice


def choice_of(
    cases: Sequence[HeldOut], plan: Plan, kidney_scores: dict[int, float] | None = None
) -> Choice:
    """The choice from cases that were looked at with every margin of `margins_of`.

    Args:
        cases: held out, of all folds.
        plan: whose values stand until something better is found.
        kidney_scores: fold -> mean kidney Dice.
    """
    values, trials, why = plan.tumor, [], {}
    for rule, candidates in CANDIDATES.items():
        values, tried, why[rule] = _best_of(rule, candidates, values, cases)
        trials += tried
    tumor_scores = _fold_scores(cases, values)
    left_out = {"kidney": _collapsed(kidney_scores or {}), "tumor": _collapsed(tumor_scores)}
    why["left_out"] = (
        "networks of all folds are averaged, but those that did not learn; more can't be asked of "
        "a cross-validation, in which each case is held out of one fold only"
    )
    return Choice(
        training_keys=training_keys(plan),
        cases=len(cases),
        mask_dilation_mm=values.mask_dilation_mm,
        threshold=values.threshold,
        components=values.components,
        minimal_tumor_ml=values.minimal_tumor_ml,
        minimal_healthy_ml=values.minimal_healthy_ml,
        left_out={stage: left_out[stage] for stage in STAGES},
        why=why,
        trials=tuple(trials),
    )


def margins_of(plan: TumorPlan) -> tuple[float, ...]:
    """All margins that are tried."""
    return tuple(sorted({*CANDIDATES["mask_dilation_mm"], plan.mask_dilation_mm}))


HEADER = ("rule", "value", "tumor Dice", "false tumors", "gain", "")
"""Of `rows`."""


def rows(choice: Choice) -> list[tuple[str, str, str, str, str, str]]:
    """The trials as a table: rule, value, Dice, false tumors, gain, taken."""
    return [
        (
            trial.rule,
            trial.value,
            f"{trial.tumor_dice:.4f}",
            f"{trial.false_tumors:.2f}",
            f"{trial.gain:+.4f} ({trial.low:+.4f} to {trial.high:+.4f})",
            "taken" if trial.taken else "",
        )
        for trial in choice.trials
    ]


def _best_of(
    rule: str, candidates: Sequence[Any], values: TumorPlan, cases: Sequence[HeldOut]
) -> tuple[TumorPlan, list[Trial], str]:
    """The plan with the rule's best value, what was tried, and why it was taken."""
    standing = getattr(values, rule)
    before = [decide(case, values) for case in cases]
    found: list[tuple[Any, Estimate, Estimate, list[Decided]]] = []
    for value in candidates:
        if value == standing:
            continue
        after = [decide(case, msgspec.structs.replace(values, **{rule: value})) for case in cases]
        gain = estimate([b.dice - a.dice for a, b in zip(before, after, strict=True)])
        fewer = estimate(
            [a.false_tumors - b.false_tumors for a, b in zip(before, after, strict=True)]
        )
        found.append((value, gain, fewer, after))
    helping = [one for one in found if _helps(one[1], one[2])]
    best = max(helping, key=lambda one: (one[1].value, one[2].value), default=None)
    trials = [
        Trial(
            rule=rule,
            value=str(value),
            tumor_dice=float(np.mean([case.dice for case in after])),
            false_tumors=float(np.mean([case.false_tumors for case in after])),
            gain=gain.value,
            low=_number(gain.low),
            high=_number(gain.high),
            taken=best is not None and value == best[0],
        )
        for value, gain, _, after in found
    ]
    if best is None:
        return values, trials, f"{standing}, as planned: nothing that was tried helps"
    value, gain, fewer, _ = best
    reason = (
        f"{value} instead of {standing}: tumor Dice {gain.value:+.4f} ({_number(gain.low):+.4f} to "
        f"{_number(gain.high):+.4f}), false tumors a scan {-fewer.value:+.2f}"
    )
    return msgspec.structs.replace(values, **{rule: value}), trials, reason


def _helps(gain: Estimate, fewer: Estimate) -> bool:
    more_dice = gain.value >= LEAST_GAIN and gain.low > 0
    cleaner = gain.value >= 0 and fewer.value >= _FEWER_FALSE and fewer.low > 0
    return more_dice or cleaner


def _number(end: float) -> float:
    """An interval's end; 0 for a single case, which has none."""
    return 0.0 if np.isnan(end) else end


def _fold_scores(cases: Sequence[HeldOut], values: TumorPlan) -> dict[int, float]:
    by_fold: dict[int, list[float]] = {}
    for case in cases:
        by_fold.setdefault(case.fold, []).append(decide(case, values).dice)
    return {fold: float(np.mean(dices)) for fold, dices in by_fold.items()}


def _collapsed(scores: dict[int, float]) -> tuple[int, ...]:
    if not scores:
        return ()
    middle = median(scores.values())
    return tuple(sorted(fold for fold, score in scores.items() if score < _COLLAPSED * middle))


def _both_stages(place: Workspace) -> list[int]:
    """Folds that are trained in both stages, and whose kidney masks are there."""
    trained: dict[Stage, set[Any]] = {stage: {*trained_folds(place, stage)} for stage in STAGES}
    folds = sorted(trained["kidney"] & trained["tumor"] - {"all"})
    folds = [fold for fold in folds if place.kidney_validation_file(fold).exists()]
    if not folds:
        raise UserError(
            place.results_folder,
            found="no fold that is trained in both stages and validated",
            expected="at least one, better all: choices are made on the cases held out",
            remedy="run kitspipe_train all",
        )
    return folds


def _kidney_scores(place: Workspace, folds: Sequence[int]) -> dict[int, float]:
    scores = {}
    for fold in folds:
        file = place.kidney_validation_file(fold)
        mean = read_document(file, KidneyValidation, made_by="kitspipe_train kidney").mean
        if mean is not None:
            scores[fold] = mean
    return scores


def _look_at_all(place: Workspace, plan: Plan, folds: Sequence[int], device: str) -> list[HeldOut]:
    found = []
    todo = [(fold, case_id) for fold in folds for case_id in read_fold(place, fold)[1]]
    stage, loaded = None, None
    for fold, case_id in console.progress(todo, len(todo), "held-out cases"):
        if fold != loaded:
            # As it was trained: a choice made before must not decide this one.
            cascade = load_cascade(place, [fold], device, ["tumor"], chosen=False)
            stage = TumorStage(
                networks=cascade.tumor,
                plan=plan.tumor,
                device=pick_device(device),
                effort=cascade.effort,
            )
            loaded = fold
        assert stage is not None
        found.append(_look_at(place, plan, fold, case_id, stage))
    return found


def _look_at(place: Workspace, plan: Plan, fold: int, case_id: str, stage: TumorStage) -> HeldOut:
    [case] = source_cases(place, "tumor", [case_id])
    assert case.labels is not None
    image, _ = read_image(case.image)
    labels, _ = read_labels(case.labels)
    kidney, _ = read_labels(place.kidney_validation_file(fold).with_name(f"{case_id}.nii.gz"))
    mask = kidney.array.astype(bool)
    return look((case_id, fold), image, labels, mask, stage, plan, margins_of(plan.tumor))
