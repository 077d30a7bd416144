"""What is measured of a case: types with units in their names, as they stand in the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kitspipe.evaluation.kidneys import Side
from kitspipe.evaluation.nephrometry import RenalScore
from kitspipe.imaging.volume import Shape, Triple

Pole = Literal["upper", "middle", "lower"]
TSize = Literal["T1a", "T1b", "T2a", "T2b"]
Line = tuple[Triple, Triple]


@dataclass(frozen=True, kw_only=True, slots=True)
class Intensity:
    """HU of a region's voxels; percentiles are of voxels, not of a fit."""

    mean_hu: float
    sd_hu: float
    p05_hu: float
    median_hu: float
    p95_hu: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KidneyMeasurement:
    """One kidney; definitions in docs/measurements.md.

    Args:
        side: the patient's.
        side_is_certain: False where one kidney alone leaves it open.
        volume_ml: kidney, tumors and cysts.
        parenchyma_ml: kidney tissue only.
        parenchyma_share: of all kidneys' tissue; 1 for a single one.
        tumor_count: tumors counted to this kidney.
        tumor_ml: their volume.
        cyst_count: cysts of at least 0.1 ml.
        cyst_ml: volume of all.
        length_mm: of the tissue, along the kidney's own axis.
        center_mm: middle of the tissue, (x, y, z) LPS.
        center_voxel: the same, (Z, Y, X) in the array turned to LPS.
        is_cut: it reaches the scan's border.
        parenchyma: HU of the tissue; None without a CT.
    """

    side: Side
    side_is_certain: bool
    volume_ml: float
    parenchyma_ml: float
    parenchyma_share: float
    tumor_count: int
    tumor_ml: float
    cyst_count: int
    cyst_ml: float
    length_mm: float
    center_mm: Triple
    center_voxel: Shape
    is_cut: bool
    parenchyma: Intensity | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TumorMeasurement:
    """One tumor; definitions in docs/measurements.md.

    What needs a kidney is None where none is near.

    Args:
        number: 1 for the largest of the case.
        side: of its kidney.
        pole: third of the kidney's length in which its middle lies.
        volume_ml: volume.
        axial_diameter_mm: largest diameter in an axial slice.
        perpendicular_mm: largest across it in the same slice.
        diameter_3d_mm: largest in any direction.
        sphere_diameter_mm: of a sphere of the same volume.
        axial_slice: where the axial diameters were taken, Z in the array turned to LPS.
        axial_line_mm: ends of the largest axial diameter, (x, y, z) LPS.
        perpendicular_line_mm: ends of the one across.
        center_mm: middle, (x, y, z) LPS.
        center_voxel: the same, (Z, Y, X) in the array turned to LPS.
        exophytic_share: share of its volume outside the kidney's contour.
        contact_area_mm2: its surface with kidney tissue.
        kidney_gap_mm: distance to the nearest kidney; 0 where they touch, None without kidneys.
        sinus_distance_mm: distance to the approximated sinus; None where there is none.
        t_size: bin of the largest axial diameter, as in the TNM's T1 and T2.
        is_cut: it reaches the scan's border, so it is larger than measured.
        tissue: HU; None without a CT.
        renal: R.E.N.A.L. nephrometry.
    """

    number: int
    side: Side | None
    pole: Pole | None
    volume_ml: float
    axial_diameter_mm: float
    perpendicular_mm: float
    diameter_3d_mm: float
    sphere_diameter_mm: float
    axial_slice: int
    axial_line_mm: Line
    perpendicular_line_mm: Line
    center_mm: Triple
    center_voxel: Shape
    exophytic_share: float | None
    contact_area_mm2: float | None
    kidney_gap_mm: float | None
    sinus_distance_mm: float | None
    t_size: TSize
    is_cut: bool
    tissue: Intensity | None
    renal: RenalScore | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseMeasurement:
    """All of one case.

    Args:
        case_id: the case.
        kidneys: from right to left.
        tumors: by falling volume.
        warnings: what to look at, a sentence each.
    """

    case_id: str
    kidneys: tuple[KidneyMeasurement, ...]
    tumors: tuple[TumorMeasurement, ...]
    warnings: tuple[str, ...]


def t_size(diameter_mm: float) -> TSize:
    """The size bin of the TNM's T1 and T2: limits at 4, 7 and 10 cm, each in the lower bin.

    Source: AJCC Cancer Staging Manual, 8th edition, kidney.
    """
    if diameter_mm <= 40:
        return "T1a"
    if diameter_mm <= 70:
        return "T1b"
    return "T2a" if diameter_mm <= 100 else "T2b"
