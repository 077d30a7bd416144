"""Predictions against references: the official scores of every case, their means, files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import msgspec
import numpy as np
from numpy.typing import NDArray

from kitspipe import console, workspace
from kitspipe.errors import UserError
from kitspipe.evaluation import metrics
from kitspipe.evaluation.metrics import HECScore, KiTS19Scores, KiTS23Scores
from kitspipe.imaging import formats
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.plan import Labels

GEOMETRY_TOLERANCE_MM = 0.1
"""How far corners may lie apart: a quarter of KiTS's smallest pixel; headers round to less."""

CSV_HEADER = "caseID,Dice_kidney,Dice_masses,Dice_tumor,SD_kidney,SD_masses,SD_tumor"
Row = tuple[str, str, str, str]
_NOTHING_FOUND = HECScore(dice=0.0, surface_dice=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScore:
    """One case's scores.

    Args:
        case_id: the case.
        kits19: Dice as in KiTS19.
        kits23: Dice and Surface Dice as in KiTS21/23.
        failure: why the prediction could not be compared, in which case all scores are 0.
    """

    case_id: str
    kits19: KiTS19Scores
    kits23: KiTS23Scores
    failure: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All cases with a reference.

    Args:
        scores: by case, sorted by id; failed predictions are in it with 0.
        unscored: case id and reason where the reference itself can't be read: left out of means.
        without_reference: predictions that there is no reference for, left out too.
    """

    scores: tuple[CaseScore, ...]
    unscored: tuple[tuple[str, str], ...] = ()
    without_reference: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[tuple[str, str], ...]:
        """Case id and reason of all that failed, whether counted as 0 or left out."""
        counted = ((s.case_id, s.failure) for s in self.scores if s.failure is not None)
        return (*counted, *self.unscored)

    @property
    def kits19(self) -> KiTS19Scores:
        """Means over the cases where a score is defined; NaN where there is none."""
        return KiTS19Scores(
            kidney=_mean(score.kits19.kidney for score in self.scores),
            tumor=_mean(score.kits19.tumor for score in self.scores),
        )

    @property
    def kits23(self) -> KiTS23Scores:
        """Means over all scored cases."""
        return KiTS23Scores(
            kidney_and_mass=_mean_hec(score.kits23.kidney_and_mass for score in self.scores),
            mass=_mean_hec(score.kits23.mass for score in self.scores),
            tumor=_mean_hec(score.kits23.tumor for score in self.scores),
        )


def evaluate(
    references: Mapping[str, Path],
    predictions: Mapping[str, Path],
    labels: Labels = metrics.KITS_LABELS,
    jobs: int | None = 1,
) -> Evaluation:
    """Scores of every case that has a reference.

    A prediction that is missing, can't be read, lies on another grid or has unknown labels scores
    0 and is named with its reason; the other cases go on.

    Args:
        references: mask file by case id.
        predictions: mask file by case id.
        labels: which value is what, in both.
        jobs: processes; None one per core.

    Raises:
        UserError: no references, or not one prediction for them.
    """
    if not references:
        raise UserError(
            "the references",
            found="no masks",
            expected="a mask per case, as case_00000.nii.gz or case_00000/segmentation.nii.gz",
            remedy="give the folder of the reference masks with -r",
        )
    if not predictions.keys() & references.keys():
        raise UserError(
            "the predictions",
            found=f"masks of {_some(predictions)}",
            expected=f"masks of the references' cases: {_some(references)}",
            remedy="give the folder that kitspipe_predict wrote with -i; ids are the files' names",
        )
    case_ids = sorted(references)
    work = (
        joblib.delayed(score_case)(case_id, references[case_id], predictions.get(case_id), labels)
        for case_id in case_ids
    )
    processes = min(joblib.cpu_count() if jobs is None else jobs, len(case_ids))
    done = joblib.Parallel(n_jobs=processes, return_as="generator")(work)
    results = list(console.progress(done, len(case_ids), "evaluate"))
    return Evaluation(
        scores=tuple(result for result in results if isinstance(result, CaseScore)),
        unscored=tuple(
            (case_id, str(result))
            for case_id, result in zip(case_ids, results, strict=True)
            if isinstance(result, UserError)
        ),
        without_reference=tuple(sorted(predictions.keys() - references.keys())),
    )


def score_case(
    case_id: str, reference: Path, prediction: Path | None, labels: Labels
) -> CaseScore | UserError:
    """A case's scores; an error in the reference comes back, so that other cases go on."""
    try:
        expected = _read(reference, labels)
    except UserError as error:
        return error
    try:
        if prediction is None:
            raise UserError(
                case_id,
                found="no prediction",
                expected="a mask for every reference",
                remedy="run kitspipe_predict for this case",
            )
        found = _read(prediction, labels)
        _check_grid(prediction, found.grid, expected.grid)
    except UserError as error:
        return _failed(case_id, str(error))
    return _scores(case_id, expected, found, labels)


def write(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Paths of the two files written into `folder`: evaluation.csv and summary.json.

    evaluation.csv is the one of the official KiTS21/23 code: a line per case and their average.
    summary.json has the KiTS19 scores too, counts, failures and all cases; undefined is null.
    """
    table, summary = folder / "evaluation.csv", folder / "summary.json"
    workspace.write_bytes(table, _csv(evaluation).encode())
    content = msgspec.json.format(msgspec.json.encode(_summary(evaluation)), indent=2)
    workspace.write_bytes(summary, content + b"\n")
    return table, summary


def as_table(evaluation: Evaluation) -> tuple[Row, list[Row]]:
    """Column names and text rows of the mean scores, for a terminal; undefined is a dash."""
    old, new = evaluation.kits19, evaluation.kits23
    rows = [("KiTS19", name, _text(value), "") for name, value in _with_composite(old).items()]
    rows += [
        ("KiTS21/23", name.replace("_", " "), _text(hec.dice), _text(hec.surface_dice))
        for name, hec in (
            ("kidney_and_mass", new.kidney_and_mass),
            ("mass", new.mass),
            ("tumor", new.tumor),
        )
    ]
    return ("scores of", "class", "Dice", "Surface Dice"), rows


def _text(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.4f}"


def _read(path: Path, labels: Labels) -> Volume:
    volume, _ = formats.read_labels(path)
    known = sum(np.count_nonzero(volume.array == value) for value in labels.values)
    if known != np.count_nonzero(volume.array):
        strange = sorted(set(np.unique(volume.array).tolist()) - {0, *labels.values})
        raise UserError(
            path,
            found=f"label values {strange}",
            expected=f"0 and {list(labels.values)}",
            remedy="renumber the mask's labels",
        )
    return volume


def _check_grid(path: Path, found: Grid, expected: Grid) -> None:
    if found.close_to(expected, GEOMETRY_TOLERANCE_MM):
        return
    raise UserError(
        path,
        found=_describe(found),
        expected=f"the reference's grid, {_describe(expected)}, to {GEOMETRY_TOLERANCE_MM} mm",
        remedy="write the prediction on the grid of the scan that it was made from",
    )


def _describe(grid: Grid) -> str:
    """Size, spacing and origin in words; the direction too where the grid is turned."""
    spacing = ", ".join(f"{s:.4g}" for s in grid.spacing)
    origin = ", ".join(f"{o:.5g}" for o in grid.origin)
    axes = "; ".join(", ".join(f"{value:.4g}" for value in row) for row in grid.direction)
    return f"{grid.shape} voxels of ({spacing}) mm at ({origin}), axes ({axes})"


def _scores(case_id: str, reference: Volume, prediction: Volume, labels: Labels) -> CaseScore:
    expected: NDArray[np.uint8] = reference.array.astype(np.uint8, copy=False)
    found: NDArray[np.uint8] = prediction.array.astype(np.uint8, copy=False)
    return CaseScore(
        case_id=case_id,
        kits19=metrics.kits19_scores(expected, found, labels),
        kits23=metrics.kits23_scores(
            expected, found, spacing=reference.grid.spacing, labels=labels
        ),
    )


def _failed(case_id: str, reason: str) -> CaseScore:
    return CaseScore(
        case_id=case_id,
        kits19=KiTS19Scores(kidney=0.0, tumor=0.0),
        kits23=KiTS23Scores(
            kidney_and_mass=_NOTHING_FOUND, mass=_NOTHING_FOUND, tumor=_NOTHING_FOUND
        ),
        failure=reason,
    )


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _mean_hec(scores: Iterable[HECScore]) -> HECScore:
    cases = list(scores)
    return HECScore(
        dice=_mean(case.dice for case in cases),
        surface_dice=_mean(case.surface_dice for case in cases),
    )


def _csv(evaluation: Evaluation) -> str:
    rows = [(score.case_id, score.kits23) for score in evaluation.scores]
    rows.append(("average", evaluation.kits23))
    return "\n".join([CSV_HEADER, *(_csv_row(name, scores) for name, scores in rows), ""])


def _csv_row(name: str, scores: KiTS23Scores) -> str:
    classes = (scores.kidney_and_mass, scores.mass, scores.tumor)
    numbers = [hec.dice for hec in classes] + [hec.surface_dice for hec in classes]
    return ",".join([name, *(f"{number:0.8f}" for number in numbers)])


def _summary(evaluation: Evaluation) -> dict[str, object]:
    undefined = sum(math.isnan(score.kits19.composite) for score in evaluation.scores)
    return {
        "kits19": _with_composite(evaluation.kits19),
        "kits23": asdict(evaluation.kits23),
        "counts": {
            "scored": len(evaluation.scores),
            "failed": len(evaluation.failures),
            "undefined_in_kits19": undefined,
            "without_reference": len(evaluation.without_reference),
        },
        "failures": dict(evaluation.failures),
        "without_reference": evaluation.without_reference,
        "cases": {
            score.case_id: {
                "kits19": _with_composite(score.kits19),
                "kits23": asdict(score.kits23),
            }
            for score in evaluation.scores
        },
    }


def _with_composite(scores: KiTS19Scores) -> dict[str, float]:
    return {**asdict(scores), "composite": scores.composite}


def _some(ids: Iterable[str], most: int = 3) -> str:
    names: Sequence[str] = sorted(ids)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no case") + more
