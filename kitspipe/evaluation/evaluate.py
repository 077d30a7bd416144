"""Predictions against references: the scores of every case, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.cases import Case
from kitspipe.dataset.dataset_json import read_label_values
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.errors import UserError
from kitspipe.evaluation import case_scores, metrics
from kitspipe.evaluation.case_scores import METRICS, CaseScore, Metric
from kitspipe.evaluation.intervals import Estimate, estimate
from kitspipe.evaluation.metrics import HECScore, KiTS19Scores, KiTS23Scores
from kitspipe.imaging import formats
from kitspipe.imaging.values import count_labels
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.planning.plan import Labels

GEOMETRY_TOLERANCE_MM = 0.1
"""How far corners may lie apart: a quarter of KiTS's smallest pixel; headers round to less."""


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
    def estimates(self) -> dict[str, Estimate]:
        """Every metric over the cases where it is defined, with its interval, by its name."""
        return {m.name: estimate(self.values(m), m.center) for m in METRICS}

    def values(self, metric: Metric) -> list[float]:
        """A metric of every case, in their order; NaN where undefined."""
        return [metric.of(score) for score in self.scores]

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
    *,
    predicted_labels: Labels | None = None,
) -> Evaluation:
    """Scores of every case that has a reference.

    A prediction that is missing, can't be read, lies on another grid or has unknown labels scores
    0 and is named with its reason; the other cases go on. Each process holds one case at a time.

    Args:
        references: mask file by case id.
        predictions: mask file by case id.
        labels: which value is what in the references.
        jobs: processes; None one per core.
        predicted_labels: which value is what in the predictions; None the same.

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
    cases = [
        Case(id=case_id, image=references[case_id], labels=predictions.get(case_id))
        for case_id in sorted(references)
    ]
    work = partial(score_case, labels=labels, predicted_labels=predicted_labels or labels)
    results = list(for_each_case(work, cases, jobs=jobs, label="evaluate"))
    return Evaluation(
        scores=tuple(result for result in results if isinstance(result, CaseScore)),
        unscored=tuple(
            (result.case_id, str(result.error))
            for result in results
            if isinstance(result, CaseFailure)
        ),
        without_reference=tuple(sorted(predictions.keys() - references.keys())),
    )


def score_case(case: Case, *, labels: Labels, predicted_labels: Labels) -> CaseScore:
    """A case's scores.

    Args:
        case: its image is the reference mask, its labels the predicted one.
        labels: which value is what in the reference.
        predicted_labels: which value is what in the prediction.

    Raises:
        UserError: the reference itself can't be read or has unknown labels.
    """
    expected = _read(case.image, labels)
    try:
        if case.labels is None:
            raise UserError(
                case.id,
                found="no prediction",
                expected="a mask for every reference",
                remedy="run kitspipe_predict for this case",
            )
        found = _read(case.labels, predicted_labels)
        _check_grid(case.labels, found.grid, expected.grid)
    except UserError as error:
        return case_scores.failed(case.id, _bytes(expected), expected.grid, labels, str(error))
    predicted = _renumbered(_bytes(found), predicted_labels, labels)
    return case_scores.score(case.id, _bytes(expected), predicted, expected.grid, labels)


def label_values(references: Path, predictions: Path) -> tuple[Labels, Labels]:
    """Which value is what in two folders of masks.

    An nnU-Net `dataset.json` in a folder says so (nnU-Net copies it beside its predictions). Where
    there is none, references have KiTS's values, and predictions those of the references.

    Raises:
        UserError: a `dataset.json` does not tell kidney and tumor.
    """
    expected = _named_labels(references) or metrics.KITS_LABELS
    return expected, _named_labels(predictions) or expected


def _named_labels(folder: Path) -> Labels | None:
    file = folder / "dataset.json"
    if not file.is_file():
        return None
    labels = Labels(**read_label_values(file))
    # KiTS19's values score the same with cysts named, and predictions may have cysts.
    return metrics.KITS_LABELS if labels == Labels() else labels


def _bytes(volume: Volume) -> NDArray[np.uint8]:
    labels: NDArray[np.uint8] = volume.array.astype(np.uint8, copy=False)
    return labels


def _renumbered(prediction: NDArray[np.uint8], given: Labels, wanted: Labels) -> NDArray[np.uint8]:
    """Labels in the references' values; a cyst that these do not know is kidney there."""
    if given == wanted:
        return prediction
    table = np.zeros(256, np.uint8)
    table[[given.kidney, given.tumor]] = wanted.kidney, wanted.tumor
    if given.cyst is not None:
        table[given.cyst] = wanted.kidney if wanted.cyst is None else wanted.cyst
    renumbered: NDArray[np.uint8] = table[prediction]
    return renumbered


def _read(path: Path, labels: Labels) -> Volume:
    volume, _ = formats.read_labels(path)
    present = np.flatnonzero(count_labels(volume.array)).tolist()
    strange = sorted(set(present) - {0, *labels.values})
    if strange:
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


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _mean_hec(scores: Iterable[HECScore]) -> HECScore:
    cases = list(scores)
    return HECScore(
        dice=_mean(case.dice for case in cases),
        surface_dice=_mean(case.surface_dice for case in cases),
    )


def _some(ids: Iterable[str], most: int = 3) -> str:
    names: Sequence[str] = sorted(ids)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no case") + more
