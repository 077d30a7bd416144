"""R.E.N.A.L. nephrometry of a tumor: continuous values, points, and what needs a human look.

Source: Kutikov and Uzzo 2009, J Urol 182:844. R radius, E exophytic share, N nearness to the
sinus or collecting system, A anterior or posterior, L location to the polar lines. Continuous
values as in Heller et al. 2022, J Urol 207:1105, and its public code (seg-to-nephrometry), whose
definitions docs/measurements.md compares with these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kitspipe.evaluation.kidneys import Kidney, Vector

Face = Literal["a", "p", "x"]
Complexity = Literal["low", "moderate", "high"]

ENDOPHYTIC_SHARE = 0.03
"""Up to this exophytic share a tumor counts as entirely inside: a border of mixed voxels."""
_CLEARLY = 2 / 3
_CROSSING_SHARE = 0.02
_NEAR_MM = 2.0
_NEAR_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class RenalScore:
    """R.E.N.A.L. nephrometry of one tumor.

    Args:
        radius_points: R, from the largest axial diameter: 1 up to 40 mm, 3 from 70 mm.
        exophytic_points: E, from the exophytic share: 1 from 0.5, 3 if inside the contour.
        nearness_points: N, from the distance to the approximated sinus: 1 from 7 mm, 3 up to 4.
        location_points: L, from the polar lines.
        face: A, anterior, posterior or neither.
        anterior_share: volume share in front of the kidney's own coronal plane.
        between_polar_lines_share: volume share between the planes that bound the sinus.
        crosses_midline: whether it crosses the plane halfway between them.
        total: sum of the four, 4 to 12.
        complexity: low to 6, moderate to 9, high from 10.
        needs_look: letters whose value is approximated or near a limit; always N and L. The
            suffix h (touches the main vessels) can't be told from masks.
    """

    radius_points: int
    exophytic_points: int
    nearness_points: int
    location_points: int
    face: Face
    anterior_share: float
    between_polar_lines_share: float
    crosses_midline: bool
    total: int
    complexity: Complexity
    needs_look: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a tumor lies in its kidney, as shares of its volume.

    Args:
        between_share: between the polar lines.
        crosses_midline: whether more than 2 % lie on either side of the renal midline.
        anterior_share: in front of the kidney's coronal plane.
    """

    between_share: float
    crosses_midline: bool
    anterior_share: float


def renal_score(
    *, diameter_mm: float, exophytic_share: float, sinus_mm: float | None, place: Place
) -> RenalScore:
    """The score of a tumor from its continuous values.

    Args:
        diameter_mm: its largest axial diameter.
        exophytic_share: share of its volume outside the kidney's contour, [0, 1].
        sinus_mm: distance to the sinus; None, no sinus found, gives the most points.
        place: where it lies along and across the kidney.
    """
    points = {
        "R": 1 if diameter_mm <= 40 else 2 if diameter_mm < 70 else 3,
        "E": _exophytic_points(exophytic_share),
        "N": 3 if sinus_mm is None or sinus_mm <= 4 else 2 if sinus_mm < 7 else 1,
        "L": _location_points(place),
    }
    total = sum(points.values())
    return RenalScore(
        radius_points=points["R"],
        exophytic_points=points["E"],
        nearness_points=points["N"],
        location_points=points["L"],
        face=_face(place.anterior_share),
        anterior_share=place.anterior_share,
        between_polar_lines_share=place.between_share,
        crosses_midline=place.crosses_midline,
        total=total,
        complexity="low" if total <= 6 else "moderate" if total <= 9 else "high",
        needs_look=_needs_look(diameter_mm, exophytic_share, place.anterior_share),
    )


def place_in_kidney(
    tumor_points: Vector, kidney: Kidney, polar_lines: tuple[float, float], anterior: Vector
) -> Place:
    """Where a tumor lies in its kidney.

    Args:
        tumor_points: (N, 3) mm.
        kidney: the kidney.
        polar_lines: as `polar_lines` gives them.
        anterior: unit vector across the kidney's coronal plane, forward.
    """
    low, high = polar_lines
    along = kidney.along(tumor_points)
    above = float((along > (low + high) / 2).mean())
    return Place(
        between_share=float(((along >= low) & (along <= high)).mean()),
        crosses_midline=_CROSSING_SHARE < above < 1 - _CROSSING_SHARE,
        anterior_share=float(((tumor_points - kidney.center_mm) @ anterior > 0).mean()),
    )


def polar_lines(kidney: Kidney, sinus_points: Vector) -> tuple[float, float]:
    """The polar lines as places along the kidney's axis, 0 its lower and 1 its upper end.

    They are where the sinus ends, by the 2nd and 98th percentile of its voxels; without a sinus
    the middle third.
    """
    if len(sinus_points) == 0:
        return 1 / 3, 2 / 3
    low, high = np.percentile(kidney.along(sinus_points), (2, 98))
    return float(low), float(high)


def anterior_direction(kidney: Kidney, hilum: Vector, posterior: Vector) -> Vector:
    """Unit vector across the kidney's own coronal plane, toward the front.

    The plane holds the kidney's axis and the direction to its hilum, so it is turned with the
    kidney: a kidney's hilum looks forward by a third of a right angle.
    """
    normal = np.cross(kidney.axis, hilum)
    length = float(np.linalg.norm(normal))
    if length < 1e-6:
        return -posterior
    normal = normal / length
    return np.asarray(normal if normal @ posterior < 0 else -normal)


def _exophytic_points(share: float) -> int:
    if share >= 0.5:
        return 1
    return 2 if share > ENDOPHYTIC_SHARE else 3


def _location_points(place: Place) -> int:
    if place.crosses_midline or place.between_share > 0.5:
        return 3
    return 2 if place.between_share > _CROSSING_SHARE else 1


def _face(anterior_share: float) -> Face:
    if anterior_share >= _CLEARLY:
        return "a"
    return "p" if anterior_share <= 1 - _CLEARLY else "x"


def _needs_look(
    diameter_mm: float, exophytic_share: float, anterior_share: float
) -> tuple[str, ...]:
    look = {"N", "L"}
    if min(abs(diameter_mm - limit) for limit in (40, 70)) < _NEAR_MM:
        look.add("R")
    if abs(exophytic_share - 0.5) < _NEAR_SHARE or 0 < exophytic_share < 2 * ENDOPHYTIC_SHARE:
        look.add("E")
    if abs(max(anterior_share, 1 - anterior_share) - _CLEARLY) < _NEAR_SHARE:
        look.add("A")
    return tuple(letter for letter in "RENAL" if letter in look)
