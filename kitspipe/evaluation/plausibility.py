"""What somebody should look at in a case's measurements, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kitspipe.evaluation.kidneys import MINIMAL_KIDNEY_ML
from kitspipe.evaluation.measurements import KidneyMeasurement, TumorMeasurement
from kitspipe.evaluation.pieces import MINIMAL_TUMOR_ML, Pieces
from kitspipe.imaging.volume import Grid

THICKEST_MM = 5.0
"""Thicker slices than KiTS's thickest."""
PARENCHYMA_ML = (30.0, 500.0)
"""Tissue of a kidney. In 40 KiTS23 cases 115 to 395 ml, the highest a solitary kidney."""
PARENCHYMA_HU = (10.0, 350.0)
"""Mean of kidney tissue: about 30 without contrast, to 250 in the cortex's phase."""
TUMOR_HU = (-60.0, 250.0)
"""Mean of a tumor: down to fat in an angiomyolipoma, up to strong enhancement."""


def warnings_of(
    grid: Grid,
    pieces: Pieces,
    kidneys: Sequence[KidneyMeasurement],
    tumors: Sequence[TumorMeasurement],
) -> tuple[str, ...]:
    """What to look at, the gravest first; none where all is as usual."""
    return (
        *_of_number(pieces, kidneys),
        *(text for kidney in kidneys for text in _of_kidney(kidney)),
        *(text for tumor in tumors for text in _of_tumor(tumor)),
        *_of_rest(grid, pieces),
    )


def _of_number(pieces: Pieces, kidneys: Sequence[KidneyMeasurement]) -> Iterator[str]:
    if not kidneys:
        yield "no kidney"
    elif len(kidneys) == 1:
        yield f"one kidney only, the {kidneys[0].side} one"
    elif len(kidneys) > 2:
        yield f"{len(kidneys)} pieces of the size of a kidney"
    elif kidneys[0].side == kidneys[1].side:
        yield f"both kidneys on the {kidneys[0].side} side"
    count, ml = pieces.fragments
    if ml >= MINIMAL_KIDNEY_ML / 10:
        yield (
            f"{count} pieces of kidney apart from the others, {ml:.1f} ml together, are left out: "
            f"below {MINIMAL_KIDNEY_ML:g} ml each"
        )


def _of_kidney(kidney: KidneyMeasurement) -> Iterator[str]:
    name = f"{kidney.side} kidney"
    if not kidney.side_is_certain:
        yield f"{name}: its side is uncertain"
    if kidney.is_cut:
        yield f"{name}: cut by the scan's border"
    elif not PARENCHYMA_ML[0] <= kidney.parenchyma_ml <= PARENCHYMA_ML[1]:
        yield f"{name}: {kidney.parenchyma_ml:.0f} ml of tissue are implausible"
    hu = kidney.parenchyma
    if hu is not None and not PARENCHYMA_HU[0] <= hu.mean_hu <= PARENCHYMA_HU[1]:
        yield f"{name}: a mean of {hu.mean_hu:.0f} HU is implausible"


def _of_tumor(tumor: TumorMeasurement) -> Iterator[str]:
    name = f"tumor {tumor.number}"
    if tumor.is_cut:
        yield f"{name}: cut by the scan's border"
    if tumor.side is None:
        gap = tumor.kidney_gap_mm
        away = "" if gap is None else f", {gap:.0f} mm away: neither side nor R.E.N.A.L. values"
        yield f"{name}: outside the kidneys{away}"
    hu = tumor.tissue
    if hu is not None and not TUMOR_HU[0] <= hu.mean_hu <= TUMOR_HU[1]:
        yield f"{name}: a mean of {hu.mean_hu:.0f} HU is implausible"


def _of_rest(grid: Grid, pieces: Pieces) -> Iterator[str]:
    count, ml = pieces.specks
    if count:
        yield f"{count} specks of tumor below {MINIMAL_TUMOR_ML:g} ml, {ml:.2f} ml together"
    if max(grid.spacing) > THICKEST_MM + 0.01:
        yield f"{max(grid.spacing):.1f} mm between voxels: thicker than {THICKEST_MM:g} mm"
