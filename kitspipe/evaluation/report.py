"""The review page: a folder that a browser opens, a page for all cases and one for each.

Templates, styles and scripts lie beside this module; NiiVue (niivue.js, its licence beside it) is
the volume viewer. Needs `kitspipe[report]`.
"""

from __future__ import annotations

import importlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from kitspipe import __version__, workspace
from kitspipe.dataset.cases import Case
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.errors import UserError
from kitspipe.evaluation import charts, pictures, quality, runs
from kitspipe.evaluation.charts import Chart
from kitspipe.evaluation.findings import KIDNEY_LIMITS, TUMOR_LIMITS, urgency
from kitspipe.evaluation.metrics import KITS_LABELS
from kitspipe.evaluation.review_case import RECORD, CaseRecord, Request, review_case
from kitspipe.evaluation.review_volume import CYST, KIDNEY, TUMOR

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
INDEX = "index.html"
ASSETS = (
    "report.css",
    "report.js",
    "report_case.js",
    "report_viewer.js",
    "niivue.js",
    "niivue.licences.txt",
)
WORDS = {"high": "look first", "medium": "look", "low": "note", "none": "nothing found"}
COLOR_NAMES = {"kidney": KIDNEY, "tumor": TUMOR, "cyst": CYST}
_MADE_BY = "kitspipe_report"

# Columns of the cohort's table after slice, case and what to check.
_CASE, _LOOK, _FIRST_NUMBER = 1, 2, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the cohort's table.

    Args:
        number: its place among the cells.
        title: its head.
        key: in a record's numbers; empty where it is none.
        words: for the first direction of sorting and the other one.
        orders: these directions.
        digits: behind the point.
        low: numbers below it are marked.
    """

    number: int
    title: str
    key: str = ""
    words: tuple[str, str] = ("highest first", "lowest first")
    orders: tuple[str, str] = ("descending", "ascending")
    digits: int = 0
    low: float | None = None

    @property
    def is_number(self) -> bool:
        """Whether its cells hold numbers."""
        return bool(self.key)

    def text(self, value: float) -> str:
        """A cell."""
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """What was made.

    Args:
        index: the page to open.
        records: the cases, in the order of review.
        failures: case id and reason.
        unmasked: scans that there is no mask for.
    """

    index: Path
    records: tuple[CaseRecord, ...]
    failures: tuple[tuple[str, str], ...]
    unmasked: tuple[str, ...]


def write_report(
    images: Sequence[Case],
    masks: Mapping[str, Path],
    references: Mapping[str, Path],
    output: Path,
    *,
    names: bool = False,
    jobs: int | None = 1,
) -> Review:
    """Write the pages of all masks; cases that are there and did not change are kept.

    Args:
        images: the scans.
        masks: predicted mask by case id.
        references: reference mask by case id; may be empty, or hold other cases too.
        output: the folder to write.
        names: whether patients' names are shown.
        jobs: processes; None one per core.

    Raises:
        UserError: `kitspipe[report]` is not installed, no mask belongs to a scan, or the folder
            holds another page.
    """
    _require_packages()
    _refuse_foreign(output)
    scans = {case.id: case.image for case in images}
    known = [case_id for case_id in masks if case_id in scans]
    if not known:
        raise UserError(
            "-s",
            found=f"masks of {_some(masks)}",
            expected=f"masks of the scans: {_some(scans)}",
            remedy="give the folder that kitspipe_predict wrote for these scans",
        )
    cases = [Case(id=case_id, image=scans[case_id], labels=masks[case_id]) for case_id in known]
    folder = next(iter(masks.values())).parent
    run = runs.read_run(folder, known)
    request = Request(
        folder=output / "cases",
        values=KITS_LABELS,
        references={case_id: file for case_id, file in references.items() if case_id in scans},
        predicted_dice=quality.read_predicted(folder),
        facts=run.facts,
        warnings=run.warnings,
        names=names,
    )
    workspace.sweep(request.folder)
    results = list(
        for_each_case(partial(review_case, request=request), cases, jobs=jobs, label="report")
    )
    records = sorted(
        (result for result in results if not isinstance(result, CaseFailure)),
        key=lambda record: (*urgency(record.findings, record.quality), record.title),
    )
    failures = [(r.case_id, str(r.error)) for r in results if isinstance(r, CaseFailure)]
    failures += [(case_id, "there is no scan for this mask") for case_id in masks.keys() - scans]
    failures += [
        (case_id, "there is a reference, but no mask")
        for case_id in references.keys() & scans.keys() - masks.keys()
    ]
    _write_pages(output, records, sorted(failures))
    return Review(
        index=output / INDEX,
        records=tuple(records),
        failures=tuple(sorted(failures)),
        unmasked=tuple(sorted(scans.keys() - masks.keys() - references.keys())),
    )


def _write_pages(
    output: Path, records: Sequence[CaseRecord], failures: Sequence[tuple[str, str]]
) -> None:
    environment = _environment()
    for name in ASSETS:
        workspace.write_bytes(output / name, (_HERE / name).read_bytes())
    _remove_stale(output / "cases", {record.title for record in records})
    for number, record in enumerate(records):
        page = environment.get_template("report_case.html").render(
            case=record,
            previous=records[number - 1] if number else None,
            next=records[number + 1] if number + 1 < len(records) else None,
            place=number + 1,
            count=len(records),
            run=record.facts.items(),
        )
        workspace.write_bytes(output / "cases" / record.title / INDEX, page.encode())
    kinds = Counter(kind for record in records for kind in {f.kind for f in record.findings})
    looks = Counter(record.look for record in records)
    page = environment.get_template("report.html").render(
        cases=records,
        failures=failures,
        columns=_columns(records),
        charts=_charts(records),
        tiles=_tiles(records, looks),
        kinds=sorted(kinds.items()),
        counts={look: looks[look] for look in WORDS},
        has_references=any(record.has_reference for record in records),
    )
    workspace.write_bytes(output / INDEX, page.encode())


def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        colors={name: pictures.COLORS[value] for name, value in COLOR_NAMES.items()},
        words=WORDS,
        version=__version__,
        made_by=_MADE_BY,
    )
    environment.filters["address"] = lambda title: quote(title, safe="")
    return environment


def _columns(records: Sequence[CaseRecord]) -> list[Column]:
    """Those that any case has a number for."""
    up = ("ascending", "descending")
    low_first = ("lowest first", "highest first")
    numbers = [
        ("kidney Dice", "kidney_dice", 3, KIDNEY_LIMITS[0]),
        ("tumor Dice", "tumor_dice", 3, TUMOR_LIMITS[0]),
        ("expected kidney Dice", "predicted_kidney", 2, KIDNEY_LIMITS[0]),
        ("expected tumor Dice", "predicted_tumor", 2, TUMOR_LIMITS[0]),
        ("right kidney, ml", "right_ml", 0, None),
        ("left kidney, ml", "left_ml", 0, None),
        ("tumors", "tumors", 0, None),
        ("largest tumor, mm", "tumor_mm", 0, None),
        ("tumor, ml", "tumor_ml", 1, None),
    ]
    used = [n for n in numbers if any(record.numbers[n[1]] is not None for record in records)]
    return [
        Column(number=_CASE, title="case", words=("A to Z", "Z to A"), orders=up),
        Column(
            number=_LOOK,
            title="what to check",
            words=("most urgent first", "most urgent last"),
            orders=up,
        ),
        *(
            Column(
                number=_FIRST_NUMBER + place,
                title=title,
                key=key,
                digits=digits,
                low=low,
                orders=("descending", "ascending") if low is None else up,
                words=("highest first", "lowest first") if low is None else low_first,
            )
            for place, (title, key, digits, low) in enumerate(used)
        ),
    ]


def _charts(records: Sequence[CaseRecord]) -> list[Chart]:
    def values(*keys: str) -> list[float]:
        return [v for record in records for key in keys if (v := record.numbers[key]) is not None]

    made = (
        charts.histogram("Tumor Dice", values("tumor_dice"), limits=(0, 1)),
        charts.histogram("Kidney Dice", values("kidney_dice"), limits=(0, 1)),
        charts.histogram("Expected tumor Dice", values("predicted_tumor"), limits=(0, 1)),
        charts.histogram("Largest tumor, axial diameter", values("tumor_mm"), "mm"),
        charts.histogram("Tissue of a kidney", values("right_ml", "left_ml"), "ml"),
    )
    return [chart for chart in made if chart is not None]


def _tiles(records: Sequence[CaseRecord], looks: Counter[str]) -> list[dict[str, object]]:
    def mean(key: str) -> str | None:
        known = [v for record in records if (v := record.numbers[key]) is not None]
        return f"{sum(known) / len(known):.3f}" if known else None

    tumors = sum(1 for record in records if record.numbers["tumors"])
    tiles: list[tuple[str, object]] = [
        ("cases", len(records)),
        ("to look at first", looks["high"]),
        ("to look at", looks["medium"]),
        ("with tumor", tumors),
        ("mean kidney Dice", mean("kidney_dice")),
        ("mean tumor Dice", mean("tumor_dice")),
        ("mean expected tumor Dice", mean("predicted_tumor")),
    ]
    return [{"name": name, "value": value} for name, value in tiles if value is not None]


def _require_packages() -> None:
    missing = []
    for module, package in (("jinja2", "jinja2"), ("PIL.Image", "pillow")):
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(
            "kitspipe_report",
            found=f"{' and '.join(missing)} can't be imported",
            expected="the packages that make pages and pictures",
            remedy='install them: pip install "kitspipe[report]"',
        )


def _refuse_foreign(output: Path) -> None:
    index = output / INDEX
    if index.exists() and _MADE_BY.encode() not in index.read_bytes()[:2000]:
        raise UserError(
            index,
            found="a page that kitspipe_report did not write",
            expected="a new folder, or an earlier report",
            remedy="name another folder with -o",
        )


def _remove_stale(folder: Path, titles: set[str]) -> None:
    """Cases of an earlier report that are not in this one."""
    for case in folder.iterdir():
        if case.name not in titles and (case / RECORD).is_file():
            shutil.rmtree(case)


def _some(ids: Mapping[str, object], most: int = 3) -> str:
    names = sorted(ids)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no case") + more
