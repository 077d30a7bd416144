"""Folders of masks in, tables of measurements out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from kitspipe import workspace
from kitspipe.dataset.cases import Case, find_images, find_masks
from kitspipe.dataset.dataset_json import read_label_values
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.errors import UserError
from kitspipe.evaluation.measure import GRID_TOLERANCE_MM, measure_case
from kitspipe.evaluation.measurements import CaseMeasurement
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.imaging.values import count_labels
from kitspipe.imaging.volume import Volume
from kitspipe.planning.plan import Labels

Cell = str | int | float

_IN_JSON_ONLY = ("axial_line_mm", "perpendicular_line_mm")
_AXES = {"mm": ("x", "y", "z"), "voxel": ("z", "y", "x")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What `kitspipe_measure` has to tell.

    Args:
        cases: what was measured, by id.
        failures: case id and reason.
        rows: name and value, for the summary.
    """

    cases: tuple[CaseMeasurement, ...]
    failures: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, object], ...]


def measure_files(masks: Path, images: Path | None, output: Path, jobs: int | None) -> Done:
    """Measure masks and write OUTPUT.csv and OUTPUT.json.

    Args:
        masks: a mask, or a folder of masks in any layout; where nnU-Net's `dataset.json` lies in
            it, that says which value is what, else KiTS's values hold.
        images: the CTs, by the same ids; None leaves HU out. A mask without its CT is measured
            without HU, with a warning.
        output: the table's path; a `.json` is written beside it.
        jobs: processes; None one per core.

    Raises:
        UserError: no masks, no CT for any of them, a name that does not end in `.csv`, or the files
            can't be written.
    """
    if output.suffix.lower() != ".csv" or output.is_dir():
        raise UserError(
            output,
            found="a folder" if output.is_dir() else f"a name that ends in {output.suffix!r}",
            expected="a name that ends in .csv",
            remedy="give -o measurements.csv; a .json is written beside",
        )
    found = find_masks(masks)
    scans = {} if images is None else _matching(images, found)
    work = partial(measure_file, scans=scans, values=_values(masks), with_hu=images is not None)
    cases = [Case(id=name, image=file, labels=file) for name, file in found.items()]
    results = list(for_each_case(work, cases, jobs=jobs, label="measure"))
    measured = tuple(result for result in results if not isinstance(result, CaseFailure))
    failures = tuple((r.case_id, str(r.error)) for r in results if isinstance(r, CaseFailure))
    beside = output.with_suffix(".json")
    workspace.write_bytes(output, as_csv(measured).encode())
    workspace.write_bytes(beside, as_json(measured))
    return Done(
        cases=measured,
        failures=failures,
        rows=(
            ("cases", len(measured)),
            ("tumors", sum(len(case.tumors) for case in measured)),
            ("to look at", sum(bool(case.warnings) for case in measured)),
            ("table", output),
            ("all numbers", beside),
        ),
    )


def measure_file(
    case: Case, scans: Mapping[str, Path], values: Labels, *, with_hu: bool
) -> CaseMeasurement:
    """One case's measurements, from its files.

    Args:
        case: its mask in `labels`.
        scans: CT by case id.
        values: which label is what.
        with_hu: whether CTs were given at all, so that a missing one is worth a warning.

    Raises:
        UserError: a file can't be read, labels are unknown, or the CT lies on another grid.
    """
    file = case.labels or case.image
    labels, _ = read_labels(file)
    present = np.flatnonzero(count_labels(labels.array)).tolist()
    if strange := sorted(set(present) - {0, *values.values}):
        raise UserError(
            file,
            found=f"label values {strange}",
            expected=f"0 and {list(values.values)}",
            remedy="renumber the mask's labels, or put nnU-Net's dataset.json beside it",
        )
    scan = scans.get(case.id)
    image = None if scan is None else _image(scan, labels)
    measurement = measure_case(labels, image, values, case.id)
    if image is None and with_hu:
        warnings = (*measurement.warnings, "no CT for this mask: no HU")
        measurement = replace(measurement, warnings=warnings)
    return measurement


def as_json(cases: Sequence[CaseMeasurement]) -> bytes:
    """All numbers of all cases; units are in the names, None is null."""
    return msgspec.json.format(msgspec.json.encode({"cases": cases}), indent=2) + b"\n"


def as_csv(cases: Sequence[CaseMeasurement]) -> str:
    """A table with a row per case, per kidney and per tumor, told apart by `object`.

    A cell is empty where a number does not apply. Floats have three decimals, points a column per
    axis. Ends of the diameters are in the JSON only.
    """
    rows = [row for case in cases for row in _rows(case)]
    columns = dict.fromkeys(["case_id", "object", "number", "side"])
    for row in sorted(rows, key=lambda row: ("kidney", "tumor", "case").index(str(row["object"]))):
        columns.update(dict.fromkeys(row))
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _rows(case: CaseMeasurement) -> Iterator[dict[str, Cell]]:
    yield {
        "case_id": case.case_id,
        "object": "case",
        "kidney_count": len(case.kidneys),
        "tumor_count": len(case.tumors),
        "warnings": "; ".join(case.warnings),
    }
    for number, kidney in enumerate(case.kidneys, start=1):
        yield {
            "case_id": case.case_id,
            "object": "kidney",
            "number": number,
            **dict(_cells(kidney)),
        }
    for tumor in case.tumors:
        yield {"case_id": case.case_id, "object": "tumor", **dict(_cells(tumor))}


def _cells(measured: object, prefix: str = "") -> Iterator[tuple[str, Cell]]:
    """Columns and cells of a measurement, what is in it included."""
    assert is_dataclass(measured)
    for field in fields(measured):
        name, value = prefix + field.name, getattr(measured, field.name)
        if name in _IN_JSON_ONLY or value is None:
            continue
        if is_dataclass(value):
            yield from _cells(value, f"{name}_")
        elif name.rpartition("_")[2] in _AXES and isinstance(value, tuple):
            stem, _, unit = name.rpartition("_")
            for axis, place in zip(_AXES[unit], value, strict=True):
                yield f"{stem}_{axis}_{unit}", _cell(place)
        else:
            yield name, _cell(value)


def _cell(value: object) -> Cell:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, tuple):
        return "".join(map(str, value))
    return value if isinstance(value, int) else str(value)


def _values(masks: Path) -> Labels:
    file = masks / "dataset.json"
    return Labels(**read_label_values(file)) if file.is_file() else Labels(cyst=3)


def _matching(images: Path, masks: Mapping[str, Path]) -> dict[str, Path]:
    scans = {case.id: case.image for case in find_images(images)}
    if not scans.keys() & masks.keys():
        raise UserError(
            images,
            found=f"CTs of {', '.join(list(scans)[:3])}",
            expected=f"CTs of the masks' cases: {', '.join(list(masks)[:3])}",
            remedy="give the CTs that the masks belong to with -c, or leave -c out",
        )
    return scans


def _image(scan: Path, labels: Volume) -> Volume:
    image, _ = read_image(scan)
    if not image.grid.close_to(labels.grid, GRID_TOLERANCE_MM):
        raise UserError(
            scan,
            found=f"{image.grid.shape} voxels of {image.grid.spacing} mm at {image.grid.origin}",
            expected=f"the mask's grid, {labels.grid.shape} voxels of {labels.grid.spacing} mm "
            f"at {labels.grid.origin}, to {GRID_TOLERANCE_MM} mm",
            remedy="give the CT that the mask was made on, or leave -c out",
        )
    return image
