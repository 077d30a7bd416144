"""Tumor training arrays around kidneys that networks of other folds predicted.

In prediction a kidney's mask, and what is taken for a kidney, is itself a prediction. These regions
show the tumor stage the same in training: borders that are off, kidneys cut short, other organs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from kitspipe.dataset.cases import Case
from kitspipe.dataset.check import CORNER_TOLERANCE_MM
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.planning.document import Document, read_document
from kitspipe.planning.fingerprint import file_sha256
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import training_key
from kitspipe.planning.splits import Splits
from kitspipe.preprocessing.preprocess import (
    arrays_key,
    source_cases,
    store_case,
    tumor_arrays,
)
from kitspipe.preprocessing.store import TrainingCase, open_regions, read_key, read_record
from kitspipe.workspace import Workspace


class KidneyValidation(Document, frozen=True, kw_only=True):
    """How a fold's kidney network does on the cases that it was not trained on.

    `training_key` is the hash of the plan values that it was trained with; `cases` holds the Dice
    of each case, whose mask lies beside.
    """

    training_key: str
    mean: float | None
    cases: dict[str, float]


def predicted_kidneys(workspace: Workspace, splits: Splits, plan: Plan) -> dict[str, Path]:
    """Case -> kidney mask by the one network that was validated, and so not trained, on it.

    Only folds count that were trained with the plan as it is now and are validated to the end.
    """
    found: dict[str, Path] = {}
    for number in range(len(splits.folds)):
        file = workspace.kidney_validation_file(number)
        if not file.exists():
            continue
        validation = read_document(file, KidneyValidation, made_by="kitspipe_train kidney")
        if validation.training_key == training_key(plan, "kidney"):
            found |= {case_id: file.with_name(f"{case_id}.nii.gz") for case_id in validation.cases}
    return found


def out_of_fold_case(
    case: Case, plan: Plan, workspace: Workspace, masks: Mapping[str, Path]
) -> None:
    """Make a case's arrays around its predicted kidneys, where they are not there yet.

    Args:
        case: with its mask.
        plan: the plan.
        workspace: where the arrays go.
        masks: case -> predicted kidney mask.

    Raises:
        UserError: a file can't be read, or the predicted mask lies on another grid.
    """
    assert case.labels is not None
    mask_file = masks[case.id]
    hashes = (file_sha256(case.image), file_sha256(case.labels))
    key = _key(arrays_key(plan, "tumor", *hashes), mask_file)
    folder = workspace.out_of_fold_folder / case.id
    if read_key(folder) == key:
        return
    image, _ = read_image(case.image)
    labels, _ = read_labels(case.labels)
    mask, _ = read_labels(mask_file)
    if not mask.grid.close_to(image.grid, CORNER_TOLERANCE_MM):
        raise UserError(
            mask_file,
            found="a predicted kidney mask of another size or place than its scan",
            expected=f"the grid of {case.image}",
            remedy="train the kidney stage's fold again: its validation writes this mask",
        )
    regions = tumor_arrays(image, labels, plan, predicted=mask.array.astype(bool))
    store_case(case, hashes, folder, key, regions)


def predicted_regions(workspace: Workspace, plan: Plan, ids: Sequence[str]) -> list[TrainingCase]:
    """Regions around the predicted kidneys of those cases that have such, made where missing.

    Args:
        workspace: with the kidney stage's folds, as far as they are trained.
        plan: the plan.
        ids: preprocessed cases.

    Raises:
        UserError: a case's arrays can't be made.
    """
    splits = read_document(workspace.splits_file, Splits, made_by="kitspipe_plan")
    masks = predicted_kidneys(workspace, splits, plan)
    cases = source_cases(workspace, "tumor", [case_id for case_id in ids if case_id in masks])
    work = partial(out_of_fold_case, plan=plan, workspace=workspace, masks=masks)
    for result in for_each_case(work, cases, jobs=None, label="out-of-fold kidneys"):
        if isinstance(result, CaseFailure):
            raise result.error
    folders = [workspace.out_of_fold_folder / case.id for case in cases]
    return [region for folder in folders for region in open_regions(folder, read_record(folder))]


def _key(arrays: str, mask_file: Path) -> str:
    return hashlib.sha256(f"{arrays} {file_sha256(mask_file)}".encode()).hexdigest()
