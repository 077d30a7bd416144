"""What the benchmarks of accuracy measure in a case, and intervals over cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kitspipe.evaluation import lesions
from kitspipe.evaluation.intervals import estimate
from kitspipe.evaluation.metrics import dice
from kitspipe.imaging.formats import read_labels

TUMOR, CYST = 2, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScore:
    """A predicted mask against its reference, KiTS labels; tumors as in docs/evaluation.md.

    Args:
        kidney: Dice of all labels together.
        tumor: Dice of the tumor's label; 1 where neither has any.
        tumors_mm: diameter of the ball as large as each true tumor, and whether it was found.
        false_tumors: tumors made up.
        false_in_cystic_kidneys: those of them that lie in kidneys with cysts and without tumor.
        false_ml: predicted tumor outside the true one.
        has_cyst: in the reference.
        tumor_covered: share of true tumor voxels with any predicted label; NaN without tumor.
    """

    kidney: float
    tumor: float
    tumors_mm: tuple[tuple[float, bool], ...]
    false_tumors: int
    false_in_cystic_kidneys: int
    false_ml: float
    has_cyst: bool
    tumor_covered: float


def score_case(reference_file: Path, predicted_file: Path) -> CaseScore:
    """The score of one mask."""
    reference, predicted = read_labels(reference_file)[0], read_labels(predicted_file)[0].array
    labels = reference.array
    true, found = labels == TUMOR, predicted == TUMOR
    findings = lesions.find(labels, predicted, reference.grid)  # type: ignore[arg-type]
    return CaseScore(
        kidney=dice(predicted > 0, labels > 0),
        tumor=dice(found, true) if true.any() or found.any() else 1.0,
        tumors_mm=tuple((tumor.diameter_mm, tumor.is_found) for tumor in findings.tumors),
        false_tumors=len(findings.false_tumors or ()),
        false_in_cystic_kidneys=findings.false_in_cystic,
        false_ml=float((found & ~true).sum() * reference.grid.voxel_ml),
        has_cyst=bool((labels == CYST).any()),
        tumor_covered=float((predicted[true] > 0).mean()) if true.any() else float("nan"),
    )


def interval(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Mean and 95 % of a bootstrap over cases."""
    found = estimate(values)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
