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
from kitspipe.dataset.cases import Case, find_images, find_masks
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.errors import UserError
from kitspipe.evaluation import pictures, review_cohort, runs
from kitspipe.evaluation.findings import urgency
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

    @property
    def rows(self) -> list[tuple[str, object]]:
        """For a summary."""
        first = sum(record.look == "high" for record in self.records)
        rows: list[tuple[str, object]] = [("cases", len(self.records)), ("to look at first", first)]
        if self.unmasked:
            rows.append(("scans without a mask", len(self.unmasked)))
        return [*rows, ("open in a browser", self.index)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where scans, masks and, None without, references lie; `series` as `find_images` has it."""

    images: Path
    masks: Path
    references: Path | None = None
    series: str | None = None


def report_folders(sources: Sources, output: Path, *, names: bool, jobs: int | None) -> Review:
    """`write_report` of what folders hold."""
    return write_report(
        find_images(sources.images, sources.series),
        find_masks(sources.masks),
        {} if sources.references is None else find_masks(sources.references),
        output,
        names=names,
        jobs=jobs,
    )


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
    made = runs.read_made(folder, known)
    request = Request(
        folder=output / "cases",
        values=KITS_LABELS,
        references={case_id: file for case_id, file in references.items() if case_id in scans},
        quality=made.quality,
        facts=made.facts,
        warnings=made.warnings,
        names=names,
    )
    workspace.sweep(request.folder)
    results = list(
        for_each_case(partial(review_case, request=request), cases, jobs=jobs, label="report")
    )
    records = sorted(
        (result for result in results if not isinstance(result, CaseFailure)),
        key=lambda record: (*urgency(record.findings, record.tumor_quality), record.title),
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
        columns=review_cohort.columns_of(records),
        charts=review_cohort.charts_of(records),
        tiles=review_cohort.tiles_of(records),
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
    for record in folder.glob(f"*/{RECORD}"):
        if record.parent.name not in titles:
            shutil.rmtree(record.parent)


def _some(ids: Mapping[str, object], most: int = 3) -> str:
    names = sorted(ids)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no case") + more
