"""What the benchmarks of accuracy measure in a case, and intervals over cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kitspipe.evaluation.metrics import dice
from kitspipe.imaging.components import components
from kitspipe.imaging.formats import read_labels

TUMOR, CYST = 2, 3
SEEN_ML = 0.1
FOUND_SHARE = 0.1
RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScore:
    """A predicted mask against its reference, KiTS labels.

    Args:
        kidney: Dice of all labels together.
        tumor: Dice of the tumor's label; 1 where neither has any.
        tumors_mm: diameter of the ball as large as each true tumor, and whether at least a tenth
            of it was found.
        false_tumors: predicted components of at least 0.1 ml that touch no true tumor.
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
    labels, voxel_ml = reference.array, reference.grid.voxel_ml
    true, found = labels == TUMOR, predicted == TUMOR
    false = _false_components(found, true, voxel_ml)
    cystic = _cystic_kidneys(labels)
    return CaseScore(
        kidney=dice(predicted > 0, labels > 0),
        tumor=dice(found, true) if true.any() or found.any() else 1.0,
        tumors_mm=tuple(_found_tumors(true, found, voxel_ml)),
        false_tumors=len(false),
        false_in_cystic_kidneys=sum(bool((component & cystic).any()) for component in false),
        false_ml=float((found & ~true).sum() * voxel_ml),
        has_cyst=bool((labels == CYST).any()),
        tumor_covered=float((predicted[true] > 0).mean()) if true.any() else float("nan"),
    )


def interval(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Mean and 95 % of a bootstrap over cases."""
    array = np.asarray(values, float)
    rng = np.random.default_rng(0)
    means = array[rng.integers(len(array), size=(RESAMPLES, len(array)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return f"{array.mean():.3f} ({low:.3f} to {high:.3f})"


def _found_tumors(
    true: NDArray[np.bool_], found: NDArray[np.bool_], voxel_ml: float
) -> list[tuple[float, bool]]:
    numbered, count = components(true)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    hits = np.bincount(numbered[found], minlength=count + 1)
    diameters_mm = 2 * (sizes * voxel_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    return [
        (float(diameters_mm[n]), bool(hits[n] >= FOUND_SHARE * sizes[n]))
        for n in range(1, count + 1)
        if sizes[n] * voxel_ml >= SEEN_ML
    ]


def _false_components(
    found: NDArray[np.bool_], true: NDArray[np.bool_], voxel_ml: float
) -> list[NDArray[np.bool_]]:
    numbered, count = components(found)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1) * voxel_ml
    touching = set(np.unique(numbered[true]).tolist())
    return [numbered == n for n in range(1, count + 1) if sizes[n] >= SEEN_ML and n not in touching]


def _cystic_kidneys(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Voxels of kidneys that hold a cyst and no tumor."""
    numbered, _ = components(np.asarray(labels > 0))  # type: ignore[operator]
    with_cyst = set(np.unique(numbered[labels == CYST]).tolist())
    with_tumor = set(np.unique(numbered[labels == TUMOR]).tolist())
    return np.isin(numbered, sorted(with_cyst - with_tumor))
