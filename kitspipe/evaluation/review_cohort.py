"""What the page of all cases shows beside its rows: columns, distributions, numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kitspipe.evaluation import charts
from kitspipe.evaluation.charts import Chart
from kitspipe.evaluation.findings import KIDNEY_LIMITS, TUMOR_LIMITS
from kitspipe.evaluation.review_case import CaseRecord

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


def columns_of(records: Sequence[CaseRecord]) -> list[Column]:
    """Those that any case has a number for."""
    up = ("ascending", "descending")
    low_first = ("lowest first", "highest first")
    numbers = [
        ("kidney Dice", "kidney_dice", 3, KIDNEY_LIMITS[0]),
        ("tumor Dice", "tumor_dice", 3, TUMOR_LIMITS[0]),
        ("expected kidney Dice", "expected_kidney", 2, KIDNEY_LIMITS[0]),
        ("expected tumor Dice", "expected_tumor", 2, TUMOR_LIMITS[0]),
        ("kidney agreement", "kidney_agreement", 2, KIDNEY_LIMITS[0]),
        ("tumor agreement", "tumor_agreement", 2, TUMOR_LIMITS[0]),
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


def charts_of(records: Sequence[CaseRecord]) -> list[Chart]:
    """Distributions of what there are numbers for."""

    def values(*keys: str) -> list[float]:
        return [v for record in records for key in keys if (v := record.numbers[key]) is not None]

    made = (
        charts.histogram("Tumor Dice", values("tumor_dice"), limits=(0, 1)),
        charts.histogram("Kidney Dice", values("kidney_dice"), limits=(0, 1)),
        charts.histogram("Expected tumor Dice", values("expected_tumor"), limits=(0, 1)),
        charts.histogram("Tumor agreement", values("tumor_agreement"), limits=(0, 1)),
        charts.histogram("Largest tumor, axial diameter", values("tumor_mm"), "mm"),
        charts.histogram("Tissue of a kidney", values("right_ml", "left_ml"), "ml"),
    )
    return [chart for chart in made if chart is not None]


def tiles_of(records: Sequence[CaseRecord]) -> list[dict[str, object]]:
    """Names and values that sum the cases up."""
    looks = Counter(record.look for record in records)

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
        ("mean expected tumor Dice", mean("expected_tumor")),
    ]
    return [{"name": name, "value": value} for name, value in tiles if value is not None]
