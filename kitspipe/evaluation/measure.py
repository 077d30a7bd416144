"""Kidneys and tumors of a label map in mm, ml and HU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kitspipe.evaluation.contact import contact_area_mm2, gap_mm
from kitspipe.evaluation.contour import contour_of, with_edges
from kitspipe.evaluation.diameters import (
    axial_diameters,
    largest_diameter_mm,
    sphere_diameter_mm,
)
from kitspipe.evaluation.kidneys import Directions, Kidney, points_of
from kitspipe.evaluation.measurements import (
    CaseMeasurement,
    Intensity,
    KidneyMeasurement,
    Line,
    TumorMeasurement,
    t_size,
)
from kitspipe.evaluation.nephrometry import (
    anterior_direction,
    place_in_kidney,
    polar_lines,
    renal_score,
)
from kitspipe.evaluation.outline import Mask, Points
from kitspipe.evaluation.pieces import MINIMAL_TUMOR_ML, Pieces, Tumor, find_pieces
from kitspipe.evaluation.plausibility import warnings_of
from kitspipe.evaluation.sinus import find_sinus
from kitspipe.imaging.components import components
from kitspipe.imaging.volume import Box, Grid, Shape, Triple, Volume
from kitspipe.planning.plan import Labels

GRID_TOLERANCE_MM = 0.1
"""How far a CT's corners may lie from the mask's: a quarter of KiTS's smallest pixel."""


def measure_case(
    labels: Volume, image: Volume | None, values: Labels, case_id: str
) -> CaseMeasurement:
    """Kidneys, tumors and warnings of one case.

    Args:
        labels: (Z, Y, X) uint8; without labels there are warnings only.
        image: its CT, int16 HU on the same grid; None leaves HU out.
        values: which label is what.
        case_id: the case.

    Raises:
        ValueError: the CT lies on another grid.
    """
    if image is not None and not image.grid.close_to(labels.grid, GRID_TOLERANCE_MM):
        raise ValueError(f"CT on {image.grid}, labels on {labels.grid}")
    pieces = find_pieces(labels, values)
    scan = _Scan(labels=labels, image=image, values=values)
    relations = [_Relations(kidney, labels.grid) for kidney in pieces.kidneys]
    kidneys = tuple(_measure_kidney(index, pieces, scan) for index in range(len(relations)))
    tumors = tuple(
        _measure_tumor(
            number, tumor, None if tumor.kidney is None else relations[tumor.kidney], scan
        )
        for number, tumor in enumerate(pieces.tumors, start=1)
    )
    return CaseMeasurement(
        case_id=case_id,
        kidneys=kidneys,
        tumors=tumors,
        warnings=warnings_of(labels.grid, pieces, kidneys, tumors),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scan:
    labels: Volume
    image: Volume | None
    values: Labels

    @property
    def grid(self) -> Grid:
        return self.labels.grid

    def intensity(self, box: Box, mask: Mask) -> Intensity | None:
        """HU of the voxels of a mask in a box; None without a CT."""
        if self.image is None:
            return None
        hu = self.image.array[box.slices][mask].astype(np.float64)
        p05, median, p95 = np.percentile(hu, (5, 50, 95))
        return Intensity(
            mean_hu=float(hu.mean()),
            sd_hu=float(hu.std()),
            p05_hu=float(p05),
            median_hu=float(median),
            p95_hu=float(p95),
        )

    def is_cut(self, box: Box) -> bool:
        """Whether something reaches the scan's border."""
        return 0 in box.start or any(
            stop == n for stop, n in zip(box.stop, self.grid.shape, strict=True)
        )

    def center(self, index: Points) -> tuple[Triple, Shape]:
        """A place in mm LPS, and the voxel it lies in."""
        x, y, z = map(float, self.grid.to_world(index))
        k, j, i = (int(n) for n in np.round(index))
        return (x, y, z), (k, j, i)

    def line(self, z: int, ends: Points) -> Line:
        """Ends (2, 2) in (Y, X) of a line in a slice, in mm LPS."""
        one, other = self.grid.to_world(np.insert(ends, 0, z, axis=1)).tolist()
        return tuple(one), tuple(other)


class _Relations:
    """What the tumors of a kidney are measured against, made once per kidney."""

    def __init__(self, kidney: Kidney, grid: Grid) -> None:
        self.kidney = kidney
        self.contour = contour_of(kidney.tissue, grid.spacing)
        self.edged = with_edges(kidney.tissue, kidney.parenchyma, grid.spacing)
        inside = self.contour.hull.mask(kidney.box.shape)
        self.sinus = find_sinus(kidney, inside, grid)
        self.polar_lines = polar_lines(kidney, points_of(self.sinus.mouth, kidney.box, grid))
        self.anterior = anterior_direction(
            kidney, self.sinus.direction, Directions.of(grid).posterior
        )


def _measure_kidney(index: int, pieces: Pieces, scan: _Scan) -> KidneyMeasurement:
    kidney, grid = pieces.kidneys[index], scan.grid
    parenchyma_ml = np.count_nonzero(kidney.parenchyma) * grid.voxel_ml
    all_ml = sum(np.count_nonzero(k.parenchyma) for k in pieces.kidneys) * grid.voxel_ml
    own = [tumor for tumor in pieces.tumors if tumor.kidney == index]
    cysts = np.zeros_like(kidney.masses)
    if scan.values.cyst is not None:
        cysts = kidney.masses & (scan.labels.array[kidney.box.slices] == scan.values.cyst)
    numbered, _ = components(cysts)
    cysts_ml = np.bincount(numbered.ravel())[1:] * grid.voxel_ml
    center_mm, center_voxel = scan.center(kidney.center_mm / grid.spacing)
    return KidneyMeasurement(
        side=kidney.side,
        side_is_certain=kidney.side_is_certain,
        volume_ml=float(parenchyma_ml + np.count_nonzero(kidney.masses) * grid.voxel_ml),
        parenchyma_ml=float(parenchyma_ml),
        parenchyma_share=float(parenchyma_ml / all_ml),
        tumor_count=len(own),
        tumor_ml=float(sum(np.count_nonzero(tumor.mask) for tumor in own) * grid.voxel_ml),
        cyst_count=int((cysts_ml >= MINIMAL_TUMOR_ML).sum()),
        cyst_ml=float(cysts_ml.sum()),
        length_mm=kidney.length_mm,
        center_mm=center_mm,
        center_voxel=center_voxel,
        is_cut=scan.is_cut(kidney.own_box),
        parenchyma=scan.intensity(kidney.box, kidney.parenchyma),
    )


def _measure_tumor(
    number: int, tumor: Tumor, relations: _Relations | None, scan: _Scan
) -> TumorMeasurement:
    spacing = scan.grid.spacing
    axial = axial_diameters(tumor.mask, spacing)
    z, corner = axial.z + tumor.box.start[0], tumor.box.start[1:]
    volume_ml = float(np.count_nonzero(tumor.mask) * scan.grid.voxel_ml)
    center_mm, center_voxel = scan.center(np.argwhere(tumor.mask).mean(axis=0) + tumor.box.start)
    return TumorMeasurement(
        number=number,
        volume_ml=volume_ml,
        axial_diameter_mm=axial.largest_mm,
        perpendicular_mm=axial.perpendicular_mm,
        diameter_3d_mm=largest_diameter_mm(tumor.mask, spacing),
        sphere_diameter_mm=sphere_diameter_mm(volume_ml),
        axial_slice=z,
        axial_line_mm=scan.line(z, axial.largest_ends + corner),
        perpendicular_line_mm=scan.line(z, axial.perpendicular_ends + corner),
        center_mm=center_mm,
        center_voxel=center_voxel,
        t_size=t_size(axial.largest_mm),
        is_cut=scan.is_cut(tumor.box),
        tissue=scan.intensity(tumor.box, tumor.mask),
        **_in_kidney(tumor, axial.largest_mm, relations, scan.grid),
    )


_WITHOUT_KIDNEY: dict[str, Any] = dict.fromkeys(
    (
        "side",
        "pole",
        "exophytic_share",
        "contact_area_mm2",
        "sinus_distance_mm",
        "renal",
    )
)


def _in_kidney(
    tumor: Tumor, diameter_mm: float, relations: _Relations | None, grid: Grid
) -> dict[str, Any]:
    """All of a tumor that needs its kidney."""
    gap = {"kidney_gap_mm": None if math.isinf(tumor.gap_mm) else tumor.gap_mm}
    if relations is None:
        return _WITHOUT_KIDNEY | gap
    kidney = relations.kidney
    mask = tumor.within(kidney.box)
    points = points_of(mask, kidney.box, grid)
    outside = relations.contour.share_outside(mask)
    sinus = gap_mm(mask, relations.sinus.mouth | relations.sinus.core, grid.spacing)
    sinus_mm = None if math.isinf(sinus) else sinus
    place = place_in_kidney(points, kidney, relations.polar_lines, relations.anterior)
    along = float(kidney.along(points.mean(axis=0)))
    return {
        "side": kidney.side,
        "pole": "lower" if along < 1 / 3 else "middle" if along <= 2 / 3 else "upper",
        "exophytic_share": outside,
        "contact_area_mm2": contact_area_mm2(mask, relations.edged, grid.spacing),
        **gap,
        "sinus_distance_mm": sinus_mm,
        "renal": renal_score(
            diameter_mm=diameter_mm, exophytic_share=outside, sinus_mm=sinus_mm, place=place
        ),
    }
