"""One fold of a stage: trained on its arrays, then validated on the cases held out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from kitspipe import console
from kitspipe.errors import ALL_DONE, STOPPED
from kitspipe.evaluation.validation import validate_fold
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import read_fold, read_plan, training_key
from kitspipe.prediction.job import Fold
from kitspipe.prediction.tumors import region_tumor
from kitspipe.preprocessing.out_of_fold import predicted_regions
from kitspipe.preprocessing.preprocess import open_cases
from kitspipe.training.distributed import together
from kitspipe.training.fold import rehearse_fold, train_fold
from kitspipe.training.options import FoldOptions
from kitspipe.training.stages import PredictedRegions, TrainingTask, kidney_task, tumor_task
from kitspipe.workspace import Stage, Workspace


def run_fold(
    stage: Stage, fold: Fold, place: Workspace, options: FoldOptions, *, dry_run: bool = False
) -> int:
    """Train a fold to its end, or to where it is stopped, and validate it on whole cases.

    Args:
        stage: which network.
        fold: which cases are held out; "all" holds out none and is not validated.
        place: the workspace, with the arrays.
        options: how it is trained this time.
        dry_run: only say what would run.

    Returns:
        The exit status.

    Raises:
        UserError: arrays are missing or stale, or the training can't go on.
    """
    plan, folder, process = read_plan(place), place.fold_folder(stage, fold), options.process
    ids = read_fold(place, fold)
    task = _task(stage, place, plan, ids, options.device)
    training = (task, plan.stage(stage), folder, training_key(plan, stage), options)
    if dry_run:
        console.summary(f"train {stage} fold {fold} (dry run)", rehearse_fold(*training))
        return ALL_DONE
    with together(process, options.device):
        is_complete = train_fold(*training)
    if not is_complete:
        console.info(f"stopped; the same command goes on from {folder}")
        return STOPPED
    if process.is_first:
        scores = [] if fold == "all" else validate_fold(stage, fold, place, ids[1], options.device)
        console.summary(f"train {stage} fold {fold}", [*scores, ("results", folder)])
    return ALL_DONE


def _task(
    stage: Stage,
    place: Workspace,
    plan: Plan,
    ids: tuple[Sequence[str], Sequence[str]],
    device: torch.device,
) -> TrainingTask:
    training, validation = (open_cases(place, stage, plan, some) for some in ids)
    if stage == "kidney":
        return kidney_task(plan, training, validation)
    predicted = PredictedRegions(
        training=predicted_regions(place, plan, ids[0]),
        validation=predicted_regions(place, plan, ids[1]),
    )
    cases = len({region.case_id for region in predicted.training})
    console.info(f"kidneys predicted out of fold: {cases} of {len(ids[0])} cases")
    predict_region = partial(region_tumor, plan=plan.tumor, device=device)
    return tumor_task(plan, training, validation, predict_region, predicted)
