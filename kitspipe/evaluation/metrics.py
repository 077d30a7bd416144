"""Dice, Surface Dice, and the official scores of KiTS19 and of KiTS21/23.

Arrays are (Z, Y, X). Neither score depends on the order or direction of the axes, so that label
maps turned to LPS score as the files themselves do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from surface_distance import lookup_tables

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
    _check_shapes(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    if total == 0:
        return math.nan
    return float(2 * np.count_nonzero(a & b) / total)


def surface_dice(a: Mask, b: Mask, *, spacing: Triple, tolerance_mm: float) -> float:
    """Share of both surfaces' area that lies within a tolerance of the other surface, [0, 1].

    Surface elements sit on the voxels' corners and weigh as much as the marching-cubes triangles
    there. Equal to `compute_surface_dice_at_tolerance` of the package surface-distance, without
    its distance maps: only corners that lie within the tolerance are looked at, which suits
    tolerances of a few voxels.

    Args:
        a: (Z, Y, X) mask. Both masks empty: NaN; one empty: 0.
        b: mask of the same shape.
        spacing: mm in (Z, Y, X).
        tolerance_mm: largest distance that counts as overlap.

    Raises:
        ValueError: shapes differ.

    Source: Nikolov et al. 2018, arXiv 1809.04430; the official KiTS21 and KiTS23 evaluation.
    """
    _check_shapes(a, b)
    box = Box.around(a | b)
    if box is None:
        return math.nan
    if not (a.any() and b.any()):
        return 0.0
    areas = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    codes = [_corner_codes(mask[box.slices]) for mask in (a, b)]
    borders = [(code != 0) & (code != 255) for code in codes]
    total = overlap = 0.0
    for own, (code, border) in enumerate(zip(codes, borders, strict=True)):
        area = areas[code[border]]
        near = _is_near(border, borders[1 - own], spacing=spacing, tolerance_mm=tolerance_mm)
        total += float(area.sum())
        overlap += float(area[near].sum())
    return overlap / total


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
    _check_shapes(reference, prediction)
    box = Box.around((reference > 0) | (prediction > 0))
    if box is not None:
        reference, prediction = reference[box.slices], prediction[box.slices]
    values = {
        "kidney_and_mass": labels.values,
        "mass": tuple(value for value in labels.values if value != labels.kidney),
        "tumor": (labels.tumor,),
    }
    scores = {
        name: _hec_score(
            union(reference, wanted),
            union(prediction, wanted),
            spacing=spacing,
            tolerance_mm=TOLERANCE_MM[name],
        )
        for name, wanted in values.items()
    }
    return KiTS23Scores(**scores)


def union(labels: NDArray[np.uint8], values: tuple[int, ...]) -> Mask:
    """Mask of the voxels whose label is one of `values`."""
    mask = np.zeros(labels.shape, bool)
    for value in values:
        mask |= labels == value
    return mask


def _hec_score(
    reference: Mask, prediction: Mask, *, spacing: Triple, tolerance_mm: float
) -> HECScore:
    if not reference.any() and not prediction.any():
        return HECScore(dice=1.0, surface_dice=1.0)
    return HECScore(
        dice=dice(reference, prediction),
        surface_dice=surface_dice(
            reference, prediction, spacing=spacing, tolerance_mm=tolerance_mm
        ),
    )


def _check_shapes(a: NDArray[np.generic], b: NDArray[np.generic]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")


def _corner_codes(mask: Mask) -> NDArray[np.uint8]:
    """Which of the 8 voxels around each voxel corner are in the mask, a bit each.

    Args:
        mask: (Z, Y, X); outside of it is background.

    Returns one more element than `mask` per axis; 0 and 255 are no surface.
    """
    padded = np.pad(mask.view(np.uint8), 1)
    z, y, x = (n + 1 for n in mask.shape)
    codes = np.zeros((z, y, x), np.uint8)
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    for (dz, dy, dx), bit in np.ndenumerate(kernel):
        codes |= padded[dz : dz + z, dy : dy + y, dx : dx + x] * np.uint8(bit)
    return codes


def _is_near(border: Mask, other: Mask, *, spacing: Triple, tolerance_mm: float) -> Mask:
    """For each element of `border` in C order, whether `other` has one within the tolerance."""
    reach = [int(tolerance_mm / s + 1e-9) for s in spacing]
    padded = np.pad(other, [(r, r) for r in reach])
    steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1)
    distances = np.sqrt(((steps.reshape(-1, 3) * spacing) ** 2).sum(axis=1))
    nearest_first = np.argsort(distances, kind="stable")
    nearest_first = nearest_first[distances[nearest_first] <= tolerance_mm]
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    places = (np.argwhere(border) + reach) @ strides
    near = np.zeros(len(places), bool)
    open_ones = np.arange(len(places))
    occupied = padded.ravel()
    for offset in steps.reshape(-1, 3)[nearest_first] @ strides:
        hit = occupied[places[open_ones] + offset]
        near[open_ones[hit]] = True
        open_ones = open_ones[~hit]
    return near
