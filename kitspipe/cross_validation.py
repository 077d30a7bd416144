"""One fold of a stage: trained on its arrays, then validated on the cases held out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial

from kitspipe import console
from kitspipe.errors import ALL_DONE, STOPPED
from kitspipe.evaluation.validation import validate_fold
from kitspipe.networks.device import pick_device
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import read_fold, read_plan, training_key
from kitspipe.prediction.job import Fold
from kitspipe.prediction.tumors import region_tumor
from kitspipe.preprocessing.out_of_fold import predicted_regions
from kitspipe.preprocessing.preprocess import open_cases
from kitspipe.training.lock import only_training_in
from kitspipe.training.stages import PredictedRegions, TrainingTask, kidney_task, tumor_task
from kitspipe.training.trainer import StopSignal, Trainer
from kitspipe.workspace import Stage, Workspace


def train_fold(
    stage: Stage, fold: Fold, place: Workspace, device: str, workers: int, restart: bool
) -> int:
    """Train a fold to its end, or to where it is stopped, and validate it on whole cases.

    Args:
        stage: which network.
        fold: which cases are held out; "all" holds out none and is not validated.
        place: the workspace, with the arrays.
        device: a name as `pick_device` takes it.
        workers: processes that load.
        restart: start anew over a training that is there.

    Returns:
        The exit status.

    Raises:
        UserError: arrays are missing or stale, or the training can't go on.
    """
    on, plan = pick_device(device), read_plan(place)
    folder = place.fold_folder(stage, fold)
    training_ids, validation_ids = read_fold(place, fold)
    task = _task(stage, place, plan, training_ids, validation_ids, device)
    with only_training_in(folder):
        if restart and folder.exists():
            shutil.rmtree(folder)
        trainer = Trainer(
            task, folder, plan_sha256=training_key(plan, stage), device=on, workers=workers
        )
        with StopSignal().watched() as stop:
            is_complete = trainer.run(stop)
        if not is_complete:
            console.info(f"stopped; the same command goes on from {folder}")
            return STOPPED
        scores = [] if fold == "all" else validate_fold(stage, fold, place, validation_ids, device)
    console.summary(f"train {stage} fold {fold}", [*scores, ("results", folder)])
    return ALL_DONE


def _task(
    stage: Stage,
    place: Workspace,
    plan: Plan,
    training_ids: Sequence[str],
    validation_ids: Sequence[str],
    device: str,
) -> TrainingTask:
    training = open_cases(place, stage, plan, training_ids)
    validation = open_cases(place, stage, plan, validation_ids)
    if stage == "kidney":
        return kidney_task(plan, training, validation)
    predicted = PredictedRegions(
        training=predicted_regions(place, plan, training_ids),
        validation=predicted_regions(place, plan, validation_ids),
    )
    cases = len({region.case_id for region in predicted.training})
    console.info(f"kidneys predicted out of fold: {cases} of {len(training_ids)} cases")
    predict_region = partial(region_tumor, plan=plan.tumor, device=pick_device(device))
    return tumor_task(plan, training, validation, predict_region, predicted)
