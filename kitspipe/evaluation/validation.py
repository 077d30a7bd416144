"""Whole-case validation at the end of a fold, on the scans' own voxels.

The kidney stage is judged by itself. The tumor stage is judged inside the reference's kidneys and,
where the fold's kidney stage is trained, end to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from kitspipe import console
from kitspipe.dataset.cases import Case
from kitspipe.evaluation import evaluate, evaluation_files
from kitspipe.evaluation.metrics import dice
from kitspipe.imaging.formats import read_image, read_labels, write_labels
from kitspipe.imaging.volume import Volume
from kitspipe.planning.document import write_document
from kitspipe.planning.plan import Labels
from kitspipe.planning.planner import training_key
from kitspipe.prediction.cascade import Cascade, find_kidneys, segment, tumors_in
from kitspipe.prediction.job import Fold, trained_folds
from kitspipe.prediction.postprocess import merge
from kitspipe.prediction.run import load_cascade
from kitspipe.preprocessing.out_of_fold import KidneyValidation
from kitspipe.preprocessing.preprocess import source_cases
from kitspipe.preprocessing.targets import kidney_mask
from kitspipe.workspace import Stage, Workspace

KIDNEY_FILE, SUMMARY_FILE = "kidney.json", "summary.json"
"""Written last: a validation without it is done again."""

Segment = Callable[[Volume, Volume], Volume]
"""(CT, reference labels) -> predicted labels on the same grid."""


def validate_fold(
    stage: Stage, fold: Fold, place: Workspace, ids: Sequence[str], device: torch.device
) -> list[tuple[str, str]]:
    """Whole validation cases through the fold's networks, where that is not done yet.

    Returns:
        Rows for a summary: scores of what was done now.
    """
    cases, folder = source_cases(place, stage, ids), place.fold_folder(stage, fold)
    rows = []
    if stage == "kidney":
        if not (folder / "validation" / KIDNEY_FILE).exists():
            cascade = load_cascade(place, [fold], str(device), ["kidney"], chosen=False)
            score = validate_kidney(cascade, cases, folder / "validation")
            rows.append(("kidney Dice", f"{score:.4f}"))
        return rows
    if not (folder / "validation" / SUMMARY_FILE).exists():
        cascade = load_cascade(place, [fold], str(device), ["tumor"], chosen=False)
        inside = validate_tumor(cascade, cases, folder / "validation", end_to_end=False)
        rows.append(("tumor Dice in reference kidneys", f"{inside.kits19.tumor:.4f}"))
    whole = folder / "validation_end_to_end"
    if fold in trained_folds(place, "kidney") and not (whole / SUMMARY_FILE).exists():
        cascade = load_cascade(place, [fold], str(device), chosen=False)
        scores = validate_tumor(cascade, cases, whole, end_to_end=True)
        rows.append(("tumor Dice end to end", f"{scores.kits19.tumor:.4f}"))
    return rows


def validate_kidney(cascade: Cascade, cases: Sequence[Case], folder: Path) -> float:
    """Mean Dice of the whole kidney; masks and `kidney.json` in the folder.

    Args:
        cascade: with the fold's kidney network.
        cases: the fold's validation cases.
        folder: for the masks, overwritten.
    """
    values = cascade.plan.labels

    def predict(image: Volume, _: Volume) -> Volume:
        mask = find_kidneys(image, cascade).mask
        return Volume(array=np.where(mask, np.uint8(values.kidney), np.uint8(0)), grid=image.grid)

    _predict_all(cases, folder, predict, "kidney validation")
    scores = {case.id: _kidney_dice(case, folder, values) for case in cases}
    mean = sum(scores.values()) / len(scores) if scores else math.nan
    write_document(
        folder / KIDNEY_FILE,
        KidneyValidation(
            training_key=training_key(cascade.plan, "kidney"),
            mean=None if math.isnan(mean) else mean,
            cases=scores,
        ),
    )
    return mean


def validate_tumor(
    cascade: Cascade, cases: Sequence[Case], folder: Path, *, end_to_end: bool
) -> evaluate.Evaluation:
    """Scores; masks and the files of `evaluation_files` in the folder.

    Args:
        cascade: with the fold's networks.
        cases: the fold's validation cases.
        folder: for the masks, overwritten.
        end_to_end: whether kidneys are the kidney network's, else the reference's.
    """
    values = cascade.plan.labels

    def inside_reference(image: Volume, reference: Volume) -> Volume:
        kidney = kidney_mask(reference, values)
        lesions, _ = tumors_in(image, kidney, cascade)
        return Volume(array=merge(kidney, lesions.classes, values), grid=image.grid)

    def whole_cascade(image: Volume, _: Volume) -> Volume:
        return segment(image, cascade).labels

    label = "end-to-end validation" if end_to_end else "tumor validation"
    _predict_all(cases, folder, whole_cascade if end_to_end else inside_reference, label)
    references = {case.id: case.labels for case in cases if case.labels is not None}
    predictions = {case.id: _mask_file(folder, case) for case in cases}
    evaluation = evaluate.evaluate(references, predictions, values, jobs=1)
    evaluation_files.write(evaluation, folder)
    return evaluation


def _predict_all(cases: Sequence[Case], folder: Path, predict: Segment, label: str) -> None:
    for case in console.progress(cases, len(cases), label):
        if case.labels is None:
            continue
        image, header = read_image(case.image)
        reference, _ = read_labels(case.labels)
        write_labels(_mask_file(folder, case), predict(image, reference), header)


def _kidney_dice(case: Case, folder: Path, values: Labels) -> float:
    if case.labels is None:
        return math.nan
    reference, _ = read_labels(case.labels)
    predicted, _ = read_labels(_mask_file(folder, case))
    return dice(predicted.array.astype(bool), kidney_mask(reference, values))


def _mask_file(folder: Path, case: Case) -> Path:
    return folder / f"{case.id}.nii.gz"
