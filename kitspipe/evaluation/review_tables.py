"""Measurements and scores of a case as rows of text for its page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from kitspipe.evaluation.measurements import (
    CaseMeasurement,
    Intensity,
    KidneyMeasurement,
    TumorMeasurement,
)
from kitspipe.evaluation.metrics import KiTS19Scores, KiTS23Scores
from kitspipe.imaging.volume import Shape
from kitspipe.planning.document import Document
from kitspipe.prediction.agreement import CaseQuality

DASH = "-"
M = TypeVar("M")


class Column(Document, frozen=True, kw_only=True):
    """A column's head, and (Z, Y, X) where on the page's volume it is about, None nowhere."""

    title: str
    place: Shape | None = None


class Row(Document, frozen=True, kw_only=True):
    """A name and a text per column."""

    name: str
    cells: tuple[str, ...]


class Table(Document, frozen=True, kw_only=True):
    """What stands under one heading."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""


def score_table(old: KiTS19Scores, new: KiTS23Scores) -> Table:
    """KiTS19's and KiTS21/23's scores."""
    rows = [
        ("KiTS19 kidney", old.kidney, None),
        ("KiTS19 tumor", old.tumor, None),
        ("KiTS19 composite", old.composite, None),
        ("KiTS23 kidney and mass", new.kidney_and_mass.dice, new.kidney_and_mass.surface_dice),
        ("KiTS23 mass", new.mass.dice, new.mass.surface_dice),
        ("KiTS23 tumor", new.tumor.dice, new.tumor.surface_dice),
    ]
    return Table(
        title="Scores",
        columns=(Column(title="Dice"), Column(title="Surface Dice")),
        rows=tuple(
            Row(name=name, cells=(number(dice, 3), DASH if surface is None else number(surface, 3)))
            for name, dice, surface in rows
        ),
    )


def quality_table(quality: CaseQuality) -> Table:
    """What folds and mirrored passes agree on, and what this lets expect."""
    is_calibrated = (quality.expected_kidney_dice, quality.expected_tumor_dice) != (None, None)
    return Table(
        title="Predicted quality",
        columns=(Column(title="agreement"), Column(title="expected Dice")),
        rows=(
            Row(
                name="kidney",
                cells=(
                    number(quality.kidney_agreement, 2),
                    number(quality.expected_kidney_dice, 2),
                ),
            ),
            Row(
                name="tumor",
                cells=(number(quality.tumor_agreement, 2), number(quality.expected_tumor_dice, 2)),
            ),
        ),
        note="Agreement: Dice of folds and mirrored passes with each other. "
        + (
            "Dice to expect: as on the held-out cases of training."
            if is_calibrated
            else "Without kitspipe_choose nothing says which Dice to expect."
        ),
    )


def kidney_table(measurement: CaseMeasurement, place: Callable[[Shape], Shape]) -> Table:
    """A column per kidney.

    Args:
        measurement: the case's.
        place: from voxels of the scan to those of the page's volume.
    """
    return Table(
        title="Kidneys",
        columns=tuple(
            Column(
                title=kidney.side + ("" if kidney.side_is_certain else " (?)"),
                place=place(kidney.center_voxel),
            )
            for kidney in measurement.kidneys
        ),
        rows=_rows(_KIDNEY_ROWS, measurement.kidneys),
        note="" if measurement.kidneys else "None was found.",
    )


def tumor_table(measurement: CaseMeasurement, place: Callable[[Shape], Shape]) -> Table:
    """A column per tumor, the largest first; as `kidney_table`."""
    notes = []
    if not measurement.tumors:
        notes.append("None was found.")
    if any(tumor.renal for tumor in measurement.tumors):
        notes.append(
            "R.E.N.A.L. points come from masks: letters with ? are approximated or near a limit, "
            "and the suffix h can't be told."
        )
    return Table(
        title="Tumors",
        columns=tuple(
            Column(title=f"tumor {tumor.number}", place=place(tumor.center_voxel))
            for tumor in measurement.tumors
        ),
        rows=_rows(_TUMOR_ROWS, measurement.tumors),
        note=" ".join(notes),
    )


def number(value: float | None, digits: int, unit: str = "") -> str:
    """A number with its unit, or a dash where there is none."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.{digits}f}{f' {unit}' if unit else ''}"


def _rows(
    texts: Sequence[tuple[str, Callable[[M], str]]], measured: Sequence[M]
) -> tuple[Row, ...]:
    return tuple(
        Row(name=name, cells=tuple(text(one) for one in measured)) for name, text in texts
    ) * bool(measured)


def _share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.0f} %"


def _intensity(hu: Intensity | None) -> str:
    return DASH if hu is None else f"{hu.mean_hu:.0f} ± {hu.sd_hu:.0f} HU"


def _range(hu: Intensity | None) -> str:
    return DASH if hu is None else f"{hu.p05_hu:.0f} to {hu.p95_hu:.0f} HU"


def _count_ml(count: int, volume_ml: float) -> str:
    return "none" if count == 0 else f"{count}, {volume_ml:.1f} ml"


def _renal_points(tumor: TumorMeasurement) -> str:
    renal = tumor.renal
    if renal is None:
        return DASH
    points = {
        "R": renal.radius_points,
        "E": renal.exophytic_points,
        "N": renal.nearness_points,
        "L": renal.location_points,
    }
    letters = " ".join(
        f"{letter}{n}{'?' if letter in renal.needs_look else ''}" for letter, n in points.items()
    )
    return f"{letters} {renal.face}"


_KIDNEY_ROWS: tuple[tuple[str, Callable[[KidneyMeasurement], str]], ...] = (
    ("volume with all in it", lambda k: number(k.volume_ml, 0, "ml")),
    ("parenchyma", lambda k: number(k.parenchyma_ml, 0, "ml")),
    ("share of both kidneys'", lambda k: _share(k.parenchyma_share)),
    ("length", lambda k: number(k.length_mm, 0, "mm")),
    ("tumors", lambda k: _count_ml(k.tumor_count, k.tumor_ml)),
    ("cysts", lambda k: _count_ml(k.cyst_count, k.cyst_ml)),
    ("parenchyma's HU", lambda k: _intensity(k.parenchyma)),
    ("cut by the scan", lambda k: "yes" if k.is_cut else "no"),
)

_TUMOR_ROWS: tuple[tuple[str, Callable[[TumorMeasurement], str]], ...] = (
    ("side", lambda t: t.side or DASH),
    ("pole", lambda t: t.pole or DASH),
    ("largest axial diameter", lambda t: number(t.axial_diameter_mm, 0, "mm")),
    ("across it", lambda t: number(t.perpendicular_mm, 0, "mm")),
    ("largest diameter, 3D", lambda t: number(t.diameter_3d_mm, 0, "mm")),
    ("volume", lambda t: number(t.volume_ml, 1, "ml")),
    ("size as in T", lambda t: t.t_size),
    ("R.E.N.A.L.", lambda t: f"{t.renal.total}, {t.renal.complexity}" if t.renal else DASH),
    ("its points", _renal_points),
    ("exophytic", lambda t: _share(t.exophytic_share)),
    (
        "contact with the kidney",
        lambda t: number(
            None if t.contact_area_mm2 is None else t.contact_area_mm2 / 100, 1, "cm²"
        ),
    ),
    ("distance to the sinus", lambda t: number(t.sinus_distance_mm, 0, "mm")),
    ("HU", lambda t: _intensity(t.tissue)),
    ("HU, 5 to 95 %", lambda t: _range(t.tissue)),
    ("cut by the scan", lambda t: "yes" if t.is_cut else "no"),
)
