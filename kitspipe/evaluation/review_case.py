"""One case of a review: what its page shows, in a folder of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from kitspipe import __version__, workspace
from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.evaluation import metrics, pictures, review_tables
from kitspipe.evaluation.findings import Evidence, Finding, find
from kitspipe.evaluation.measure import measure_case
from kitspipe.evaluation.measurements import CaseMeasurement
from kitspipe.evaluation.metrics import KiTS19Scores, KiTS23Scores
from kitspipe.evaluation.review_tables import Table
from kitspipe.evaluation.review_volume import CYST, KIDNEY, TUMOR, ReviewVolume, review_volume
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.imaging.patient import patient_name, without_name
from kitspipe.imaging.volume import Grid, Shape, Volume
from kitspipe.planning.document import Document, encode
from kitspipe.planning.plan import Labels
from kitspipe.prediction.agreement import CaseQuality

RECORD = "record.json"
_GEOMETRY_TOLERANCE_MM = 0.1
_LAYOUT = 2


class Picture(Document, frozen=True, kw_only=True):
    """A plane's picture, its size in pixels, and the same in words."""

    name: str
    alt: str
    width: int
    height: int
    mm_wide: float


class CaseRecord(Document, frozen=True, kw_only=True):
    """All that a page says of a case.

    Args:
        key: hash of what it was made from.
        case_id: the case.
        title: its name on the page and of its folder: the id, or an alias where the id holds the
            patient's name.
        patient_name: only where it was asked for.
        scan: the scan's voxels in words.
        findings: what to check; places are voxels of the page's volume.
        tables: scores and measurements.
        numbers: by column of the cohort's table; None where there is none.
        pictures: a plane each.
        has_reference: whether a reference is shown.
        facts: how the mask was made.
    """

    key: str
    case_id: str
    title: str
    patient_name: str | None
    scan: str
    findings: tuple[Finding, ...]
    tables: tuple[Table, ...]
    numbers: dict[str, float | None]
    pictures: tuple[Picture, ...]
    has_reference: bool
    facts: dict[str, str]

    @property
    def look(self) -> str:
        """The severity of the worst finding, `none` without."""
        return self.findings[0].severity if self.findings else "none"

    @property
    def tumor_quality(self) -> float | None:
        """The tumor's Dice, without a reference its agreement; None where unknown.

        Expected Dice rises with agreement, but is the same for ranges of it.
        """
        value = self.numbers["tumor_dice"]
        return self.numbers["tumor_agreement"] if value is None else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a review is made of, beside its scans and masks.

    Args:
        folder: for a folder per case.
        values: which label is what, in masks and references.
        references: mask file by case id.
        quality: agreement of networks and mirrored passes, by case id.
        facts: how a mask was made, by case id; texts.
        warnings: what prediction warned of, by case id.
        names: whether patients' names are shown.
    """

    folder: Path
    values: Labels
    references: Mapping[str, Path] = field(default_factory=dict)
    quality: Mapping[str, CaseQuality] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warnings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: bool = False


def review_case(case: Case, request: Request) -> CaseRecord:
    """Measure a case and write its folder; one that is there and was made of the same is kept.

    Args:
        case: the scan, and the mask to review.
        request: what goes with it.

    Raises:
        UserError: a file can't be read, or scan and masks lie on different grids.
    """
    name = patient_name(case.image)
    title = _title(case.id, name, request.names)
    key = _key(case, request)
    folder = request.folder / title
    kept = _read_record(folder / RECORD)
    if kept is not None and kept.key == key:
        return kept
    image, labels, reference = _read(case, request)
    shown = review_volume(image, labels, reference, request.values)
    measurement = measure_case(labels, image, request.values, case.id)
    scores = None if reference is None else _scores(labels, reference, request.values)
    quality = request.quality.get(case.id)
    hide = None if request.names else name
    texts = [without_name(text, hide) for text in request.warnings.get(case.id, ())]

    def place(voxel: Shape) -> Shape:
        return _moved(voxel, image.grid, shown.grid)

    findings = find(
        Evidence(
            measurement=measurement,
            score=None if scores is None else scores[0],
            quality=quality,
            warnings=texts,
        )
    )
    record = CaseRecord(
        key=key,
        case_id=title if hide else case.id,
        title=title,
        patient_name=name if request.names else None,
        scan=_in_words(image.grid),
        findings=tuple(
            finding
            if finding.place is None
            else msgspec.structs.replace(finding, place=place(finding.place))
            for finding in findings
        ),
        tables=(
            *([review_tables.score_table(*scores)] if scores else []),
            *([review_tables.quality_table(quality)] if quality else []),
            review_tables.tumor_table(measurement, place),
            review_tables.kidney_table(measurement, place),
        ),
        numbers=_numbers(measurement, None if scores is None else scores[0], quality),
        pictures=tuple(_picture(shown, plane) for plane in pictures.PLANES),
        has_reference=reference is not None,
        facts={
            key: without_name(value, hide) for key, value in request.facts.get(case.id, {}).items()
        },
    )
    _write(folder, shown, record)
    return record


def _read(case: Case, request: Request) -> tuple[Volume, Volume, Volume | None]:
    """Scan, mask and reference on one grid."""
    assert case.labels is not None
    image = read_image(case.image)[0]
    labels = _on_grid(case.labels, image.grid)
    reference = request.references.get(case.id)
    return image, labels, None if reference is None else _on_grid(reference, image.grid)


def _on_grid(path: Path, grid: Grid) -> Volume:
    labels = read_labels(path)[0]
    if not labels.grid.close_to(grid, _GEOMETRY_TOLERANCE_MM):
        raise UserError(
            path,
            found=_in_words(labels.grid),
            expected=f"the scan's grid, to {_GEOMETRY_TOLERANCE_MM} mm: {_in_words(grid)}",
            remedy="give the scan that the mask was made from, with the same origin and axes",
        )
    return labels


def _scores(labels: Volume, reference: Volume, values: Labels) -> tuple[KiTS19Scores, KiTS23Scores]:
    predicted, true = (volume.array.astype(np.uint8, copy=False) for volume in (labels, reference))
    return (
        metrics.kits19_scores(true, predicted, values),
        metrics.kits23_scores(true, predicted, spacing=reference.grid.spacing, labels=values),
    )


def _numbers(
    measurement: CaseMeasurement,
    score: KiTS19Scores | None,
    quality: CaseQuality | None,
) -> dict[str, float | None]:
    by_side = {kidney.side: kidney for kidney in measurement.kidneys}
    tumors = measurement.tumors
    agreed = quality or CaseQuality()

    def parenchyma(side: str) -> float | None:
        return next((k.parenchyma_ml for s, k in by_side.items() if s == side), None)

    return {
        "kidney_dice": _known(None if score is None else score.kidney),
        "tumor_dice": _known(None if score is None else score.tumor),
        "expected_kidney": agreed.expected_kidney_dice,
        "expected_tumor": agreed.expected_tumor_dice,
        "kidney_agreement": agreed.kidney_agreement,
        "tumor_agreement": agreed.tumor_agreement,
        "right_ml": parenchyma("right"),
        "left_ml": parenchyma("left"),
        "tumors": float(len(tumors)),
        "tumor_mm": max((tumor.axial_diameter_mm for tumor in tumors), default=None),
        "tumor_ml": math.fsum(tumor.volume_ml for tumor in tumors) if tumors else None,
    }


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _picture(shown: ReviewVolume, plane: pictures.Plane) -> Picture:
    width, height, mm_wide = pictures.overlay_size(shown, plane)
    z, y, x = shown.focus
    labels = pictures.plane_of(shown.labels, plane, (z, y, x))
    pixel_cm2 = pictures.pixel_mm2(shown, plane) / 100
    areas = [
        f"{name} {np.count_nonzero(labels == value) * pixel_cm2:.1f} cm²"
        for name, value in (("kidney", KIDNEY), ("tumor", TUMOR), ("cyst", CYST))
        if (labels == value).any()
    ]
    what = "most tumor" if (shown.labels == TUMOR).any() else "most to see"
    return Picture(
        name=plane,
        alt=f"{plane.capitalize()} slice with {what}: {', '.join(areas) or 'no mask'}",
        width=width,
        height=height,
        mm_wide=mm_wide,
    )


def _write(folder: Path, shown: ReviewVolume, record: CaseRecord) -> None:
    with workspace.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "volume.js").write_bytes(pictures.volume_script(shown))
        for plane in pictures.PLANES:
            (temporary / f"{plane}.webp").write_bytes(pictures.overlay(shown, plane))
        (temporary / "thumbnail.webp").write_bytes(pictures.thumbnail(shown))
        (temporary / RECORD).write_bytes(encode(record))


def _read_record(file: Path) -> CaseRecord | None:
    """A record that this version wrote; None where there is none."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=CaseRecord)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _title(case_id: str, name: str | None, shows_names: bool) -> str:
    """The id; an alias that stays the same where the id holds the patient's name."""
    if shows_names or without_name(case_id, name) == case_id:
        return case_id
    return f"case_{hashlib.sha256(case_id.encode()).hexdigest()[:8]}"


def _key(case: Case, request: Request) -> str:
    """Hash of everything that the case's folder follows from."""
    files = [case.image, case.labels, request.references.get(case.id)]
    made_of = [
        __version__,
        _LAYOUT,
        case.id,
        [None if file is None else _state(file) for file in files],
        list(request.values.values),
        request.quality.get(case.id),
        list(request.warnings.get(case.id, ())),
        dict(request.facts.get(case.id, {})),
        request.names,
    ]
    return hashlib.sha256(msgspec.json.encode(made_of)).hexdigest()


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of all files of a folder."""
    if not path.exists():  # a series within a folder or zip
        path = path.parent
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _moved(voxel: Shape, source: Grid, target: Grid) -> Shape:
    """The voxel of another grid that holds a voxel's middle, the nearest inside of it."""
    index = np.rint(target.to_index(source.to_world(voxel))).astype(int)
    z, y, x = (int(min(max(i, 0), n - 1)) for i, n in zip(index, target.shape, strict=True))
    return (z, y, x)


def _in_words(grid: Grid) -> str:
    size = " x ".join(map(str, grid.shape))
    spacing = " x ".join(f"{mm:.3g}" for mm in grid.spacing)
    return f"{size} voxels of {spacing} mm (superior, posterior, left)"
