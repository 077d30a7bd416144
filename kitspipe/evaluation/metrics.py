"""Dice and the official scores of KiTS19 and of KiTS21/23.

Arrays are (Z, Y, X). No score depends on the order or direction of the axes, so that label
maps turned to LPS score as the files themselves do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kitspipe.evaluation import distances
from kitspipe.imaging.volume import Box, Triple
from kitspipe.planning.plan import Labels

KITS_LABELS = Labels(kidney=1, tumor=2, cyst=3)
"""Values in KiTS21/23; KiTS19 has the first two, and scores the same with these."""

# Source: configuration/labels.py of kits21 and kits23: mean over cases of the mean of the two
# directed 95th percentiles of surface distance between annotators.
TOLERANCE_MM = {
    "kidney_and_mass": 1.0330772532390826,
    "mass": 1.1328796488598762,
    "tumor": 1.1498198361434828,
}

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class KiTS19Scores:
    """Dice of kidney with tumor, and of tumor; NaN where it is undefined."""

    kidney: float
    tumor: float

    @property
    def composite(self) -> float:
        """Mean of both; NaN where one is undefined."""
        return (self.kidney + self.tumor) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class HECScore:
    """Both scores of one hierarchical evaluation class, [0, 1]."""

    dice: float
    surface_dice: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KiTS23Scores:
    """Scores of the three hierarchical evaluation classes (HEC) of KiTS21 and KiTS23."""

    kidney_and_mass: HECScore
    mass: HECScore
    tumor: HECScore


def dice(a: Mask, b: Mask) -> float:
    """Twice the common voxels over the sum of both, [0, 1].

    Args:
        a: mask of any shape. Both masks empty: NaN; one empty: 0.
        b: mask of the same shape.

    Raises:
        ValueError: shapes differ.
    """
    distances.check_shapes(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    if total == 0:
        return math.nan
    return float(2 * np.count_nonzero(a & b) / total)


def kits19_scores(
    reference: NDArray[np.uint8], prediction: NDArray[np.uint8], labels: Labels = KITS_LABELS
) -> KiTS19Scores:
    """The KiTS19 challenge's Dice: kidney is every label above 0, tumor the tumor's label.

    For label maps of 0, 1, 2 this is the official score, whose tumor is "label > 1". Where cysts
    have a label too (KiTS21/23), they count as kidney and not as tumor, as in KiTS19's own
    reference; the official code would take them for tumor.

    Args:
        reference: (Z, Y, X) labels.
        prediction: labels of the same shape.
        labels: which value is what.

    Both masks empty: NaN (the official code intends 0 and gets NaN); one empty: 0.

    Raises:
        ValueError: shapes differ.

    Source: evaluation.py of the KiTS19 starter code.
    """
    return KiTS19Scores(
        kidney=dice(reference > 0, prediction > 0),
        tumor=dice(reference == labels.tumor, prediction == labels.tumor),
    )


def kits23_scores(
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    *,
    spacing: Triple,
    labels: Labels = KITS_LABELS,
) -> KiTS23Scores:
    """Dice and Surface Dice of KiTS21/23: kidney and mass (1, 2, 3), mass (2, 3), tumor (2).

    Args:
        reference: (Z, Y, X) labels; values that `labels` does not name count as background.
        prediction: labels of the same shape.
        spacing: mm in (Z, Y, X).
        labels: which value is what; without cysts, mass and tumor differ in tolerance only.

    Both masks empty: both scores 1; one empty: both 0.

    Raises:
        ValueError: shapes differ.

    Source: evaluation/metrics.py of kits21 and kits23, whose spacing is the prediction's.
    """
    distances.check_shapes(reference, prediction)
    box = Box.around((reference > 0) | (prediction > 0))
    if box is not None:
        reference, prediction = reference[box.slices], prediction[box.slices]
    scores = {}
    for name, values in hec_values(labels).items():
        a, b = union(reference, values), union(prediction, values)
        pair = distances.SurfacePair.between(a, b, spacing=spacing, reach_mm=TOLERANCE_MM[name])
        scores[name] = hec_score(a, b, pair, TOLERANCE_MM[name])
    return KiTS23Scores(**scores)


def hec_values(labels: Labels = KITS_LABELS) -> dict[str, tuple[int, ...]]:
    """The label values of each hierarchical evaluation class."""
    return {
        "kidney_and_mass": labels.values,
        "mass": tuple(value for value in labels.values if value != labels.kidney),
        "tumor": (labels.tumor,),
    }


def hec_score(
    reference: Mask, prediction: Mask, pair: distances.SurfacePair | None, tolerance_mm: float
) -> HECScore:
    """Both scores of one class: 1 where both masks are empty, 0 where one is.

    Args:
        reference: (Z, Y, X) mask.
        prediction: mask of the same shape.
        pair: their surfaces, None where one is empty; reaches at least the tolerance.
        tolerance_mm: the class's.
    """
    if pair is None:
        both_empty = not reference.any() and not prediction.any()
        return HECScore(dice=float(both_empty), surface_dice=float(both_empty))
    return HECScore(dice=dice(reference, prediction), surface_dice=pair.dice(tolerance_mm))


def union(labels: NDArray[np.uint8], values: tuple[int, ...]) -> Mask:
    """Mask of the voxels whose label is one of `values`."""
    mask = np.zeros(labels.shape, bool)
    for value in values:
        mask |= labels == value
    return mask
