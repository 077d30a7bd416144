"""An evaluation and a comparison as text for a terminal; undefined is a dash."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kitspipe.evaluation.case_scores import HECS
from kitspipe.evaluation.compare import Comparison, Difference
from kitspipe.evaluation.evaluate import Evaluation
from kitspipe.evaluation.intervals import Estimate
from kitspipe.evaluation.lesion_totals import LesionTotals, Share, lesion_totals
from kitspipe.evaluation.worst import worst_cases

Row = tuple[str, ...]
_WORDS = {"hausdorff95": "95 % Hausdorff", "kits19": "KiTS19", "kits23": "KiTS21/23"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with a title.

    Args:
        title: a line above.
        header: names of the columns.
        rows: text, as many cells as names.
    """

    title: str
    header: Row
    rows: tuple[Row, ...]


def as_tables(evaluation: Evaluation) -> list[Table]:
    """Scores, tumors and kidneys, worst cases."""
    found = evaluation.estimates
    cases = len(evaluation.scores)
    return [
        Table(
            title=f"scores of {cases} case{'s' if cases != 1 else ''}, 95 % intervals over cases",
            header=("", "class", "Dice", "Surface Dice"),
            rows=tuple(_official_rows(found)),
        ),
        Table(
            title="volumes and borders",
            header=("class", "volume error, ml", "without sign, %", "95 % Hausdorff, mm, median"),
            rows=tuple(_region_row(name, found) for name in HECS),
        ),
        Table(
            title="tumors and kidneys",
            header=("", "found", "share"),
            rows=tuple(_lesion_rows(lesion_totals(evaluation.scores))),
        ),
        Table(
            title="worst cases",
            header=("case", "mean Dice", "why"),
            rows=tuple(
                (case.case_id, f"{case.mean_dice:.3f}", "; ".join(case.reasons))
                for case in worst_cases(evaluation.scores)
            ),
        ),
    ]


def as_comparison_table(comparison: Comparison, first: str, other: str) -> Table:
    """A row per metric: both sets, their difference, in how many cases which is better, p."""
    return Table(
        title=f"{first} (first) against {other} (other), {len(comparison.cases)} cases in both",
        header=(
            "metric",
            "first",
            "other",
            "first less other",
            "better/equal/worse",
            "p",
            "Holm",
        ),
        rows=tuple(map(_difference_row, comparison.differences)),
    )


def _official_rows(found: Mapping[str, Estimate]) -> Iterator[Row]:
    for name in ("kidney", "tumor", "composite"):
        yield "KiTS19", name, _with_interval(found[f"kits19_{name}_dice"], 4), ""
    for name in HECS:
        dice, surface = found[f"kits23_{name}_dice"], found[f"kits23_{name}_surface_dice"]
        yield "KiTS21/23", _spoken(name), _with_interval(dice, 4), _with_interval(surface, 4)


def _region_row(name: str, found: Mapping[str, Estimate]) -> Row:
    return (
        _spoken(name),
        _with_interval(found[f"{name}_volume_error_ml"], 1, signed=True),
        _with_interval(found[f"{name}_absolute_volume_error_percent"], 1),
        _with_interval(found[f"{name}_hausdorff95_mm"], 2),
    )


def _lesion_rows(totals: LesionTotals) -> Iterator[Row]:
    yield _share_row("tumors", totals.found)
    for size, share in totals.found_by_size.items():
        yield _share_row(f"  {size}", share)
    yield "false tumors", str(totals.false), f"{_with_interval(totals.false_per_scan, 2)} a scan"
    for place, count in totals.false_by_place.items():
        yield f"  on {place}", str(count), ""
    yield _share_row("cyst-only kidneys with a false tumor", totals.cystic_with_false)
    yield _share_row("kidneys", totals.kidneys_found)
    yield "false kidneys", str(totals.false_kidneys), ""


def _share_row(name: str, share: Share) -> Row:
    return name, f"{share.part} of {share.whole}", _with_interval(share.share, 3)


def _difference_row(found: Difference) -> Row:
    digits = 4 if found.metric.better == "higher" else 2
    return (
        _title(found.metric.name),
        _text(found.first, digits),
        _text(found.other, digits),
        _with_interval(found.difference, digits, signed=True),
        f"{found.better}/{found.equal}/{found.worse}",
        _p(found.p),
        _p(found.p_holm),
    )


def _title(name: str) -> str:
    words = [_WORDS.get(word, word) for word in name.split("_")]
    return " ".join(words)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _with_interval(found: Estimate, digits: int, *, signed: bool = False) -> str:
    if math.isnan(found.value):
        return "-"
    value = _text(found.value, digits, signed=signed)
    if math.isnan(found.low):
        return value
    low, high = (_text(end, digits, signed=signed) for end in (found.low, found.high))
    return f"{value} ({low} to {high})"


def _text(value: float, digits: int, *, signed: bool = False) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
