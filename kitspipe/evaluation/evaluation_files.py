"""What an evaluation writes: evaluation.csv, cases.csv, lesions.csv, summary.json, comparison.*.

docs/evaluation.md says what stands in each. Undefined numbers are empty in tables and null in
JSON; infinite ones are `inf` in tables and null in JSON.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from kitspipe import workspace
from kitspipe.evaluation import intervals, lesions
from kitspipe.evaluation.case_scores import HECS, METRICS, CaseScore
from kitspipe.evaluation.compare import Comparison
from kitspipe.evaluation.evaluate import GEOMETRY_TOLERANCE_MM, Evaluation
from kitspipe.evaluation.intervals import Estimate
from kitspipe.evaluation.lesion_totals import LesionTotals, Share, lesion_totals
from kitspipe.evaluation.metrics import KiTS19Scores, KiTS23Scores
from kitspipe.evaluation.worst import worst_cases

CSV_HEADER = "caseID,Dice_kidney,Dice_masses,Dice_tumor,SD_kidney,SD_masses,SD_tumor"
COUNTS = (
    "tumors",
    "tumors_found",
    "false_tumors_in_cystic_kidneys",
    "cystic_kidneys",
    "kidneys",
    "kidneys_found",
    "false_kidneys",
)
LESION_COLUMNS = (
    "case_id",
    "kind",
    "number",
    "volume_ml",
    "diameter_mm",
    "size_bin",
    "center_x_mm",
    "center_y_mm",
    "center_z_mm",
    "found",
    "covered_share",
    "cyst_share",
    "place",
    "in_cystic_kidney",
)
Cell = str | float | int | bool | None


def write(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Paths of the files written into `folder`.

    evaluation.csv is the one of the official KiTS21/23 code: a line per case and their average.
    """
    rows = {
        "cases.csv": _table(_case_columns(), map(_case_row, evaluation.scores)),
        "lesions.csv": _table(LESION_COLUMNS, _lesion_rows(evaluation.scores)),
    }
    contents = {
        "evaluation.csv": _official_csv(evaluation),
        **rows,
        "summary.json": _json(_summary(evaluation)),
    }
    return _write(contents, folder)


def write_comparison(
    comparison: Comparison, folder: Path, names: tuple[str, str]
) -> tuple[Path, ...]:
    """Paths of comparison.json and comparison.csv, written into `folder`.

    Args:
        comparison: of two sets of predictions.
        folder: where to.
        names: what the first and the other set are called.
    """
    columns = [difference.metric.name for difference in comparison.differences]
    rows: Iterator[list[Cell]] = (
        [case_id, *(values[name] for name in columns)]
        for case_id, values in comparison.cases.items()
    )
    contents = {
        "comparison.csv": _table(["case_id", *columns], rows),
        "comparison.json": _json(_comparison(comparison, names)),
    }
    return _write(contents, folder)


def _write(contents: dict[str, str], folder: Path) -> tuple[Path, ...]:
    for name, content in contents.items():
        workspace.write_bytes(folder / name, content.encode())
    return tuple(folder / name for name in contents)


def _official_csv(evaluation: Evaluation) -> str:
    rows = [(score.case_id, score.kits23) for score in evaluation.scores]
    rows.append(("average", evaluation.kits23))
    return "\n".join([CSV_HEADER, *(_official_row(name, scores) for name, scores in rows), ""])


def _official_row(name: str, scores: KiTS23Scores) -> str:
    classes = (scores.kidney_and_mass, scores.mass, scores.tumor)
    numbers = [hec.dice for hec in classes] + [hec.surface_dice for hec in classes]
    return ",".join([name, *(f"{number:0.8f}" for number in numbers)])


def _case_columns() -> list[str]:
    volumes = [f"{name}_{side}_ml" for name in HECS for side in ("reference", "predicted")]
    return ["case_id", *(metric.name for metric in METRICS), *volumes, *COUNTS, "failure"]


def _case_row(score: CaseScore) -> list[Cell]:
    regions = [getattr(score.regions, name) for name in HECS]
    found = score.findings
    counts = (
        len(found.tumors),
        sum(tumor.is_found for tumor in found.tumors),
        None if found.false_tumors is None else found.false_in_cystic,
        found.cystic_kidneys,
        len(found.kidneys),
        sum(kidney.is_found for kidney in found.kidneys),
        None if found.false_tumors is None else len(found.false_kidneys_ml),
    )
    return [
        score.case_id,
        *(metric.of(score) for metric in METRICS),
        *(ml for region in regions for ml in (region.reference_ml, region.predicted_ml)),
        *counts,
        " ".join((score.failure or "").split()),
    ]


def _lesion_rows(scores: Iterable[CaseScore]) -> Iterator[list[Cell]]:
    for score in scores:
        for number, true in enumerate(score.findings.tumors, 1):
            yield [
                *(score.case_id, "tumor", number),
                *(true.volume_ml, true.diameter_mm, true.size_bin, *true.center_mm),
                *(true.is_found, true.covered_share, true.cyst_share, None, None),
            ]
        for number, false in enumerate(score.findings.false_tumors or (), 1):
            size = lesions.size_bin(false.diameter_mm)
            yield [
                *(score.case_id, "false tumor", number),
                *(false.volume_ml, false.diameter_mm, size, *false.center_mm),
                *(None, None, None, false.place, false.cystic_kidney is not None),
            ]


def _table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _json(content: object) -> str:
    return msgspec.json.format(msgspec.json.encode(content).decode(), indent=2) + "\n"


def _summary(evaluation: Evaluation) -> dict[str, object]:
    estimates = evaluation.estimates
    undefined = sum(math.isnan(score.kits19.composite) for score in evaluation.scores)
    return {
        "kits19": _with_composite(evaluation.kits19),
        "kits23": asdict(evaluation.kits23),
        "metrics": {
            metric.name: {
                "center": metric.center,
                **asdict(estimates[metric.name]),
                "infinite": sum(math.isinf(value) for value in evaluation.values(metric)),
            }
            for metric in METRICS
        },
        "lesions": _lesions(lesion_totals(evaluation.scores)),
        "worst": [asdict(case) for case in worst_cases(evaluation.scores)],
        "counts": {
            "scored": len(evaluation.scores),
            "failed": len(evaluation.failures),
            "undefined_in_kits19": undefined,
            "without_reference": len(evaluation.without_reference),
        },
        "failures": dict(evaluation.failures),
        "without_reference": evaluation.without_reference,
        "rules": {
            "geometry_tolerance_mm": GEOMETRY_TOLERANCE_MM,
            "tumor_seen_ml": lesions.SEEN_ML,
            "tumor_found_share": lesions.FOUND_SHARE,
            "kidney_ml": lesions.KIDNEY_ML,
            "kidney_found_share": lesions.KIDNEY_FOUND_SHARE,
            **_bootstrap_rules(),
        },
        "cases": {
            score.case_id: {
                "kits19": _with_composite(score.kits19),
                "kits23": asdict(score.kits23),
            }
            for score in evaluation.scores
        },
    }


def _lesions(totals: LesionTotals) -> dict[str, object]:
    return {
        "found": _share(totals.found),
        "found_by_size": {size: _share(share) for size, share in totals.found_by_size.items()},
        "false_tumors": totals.false,
        "false_tumors_per_scan": asdict(totals.false_per_scan),
        "false_tumors_by_place": totals.false_by_place,
        "cystic_kidneys_with_false_tumor": _share(totals.cystic_with_false),
        "false_tumors_in_cystic_kidneys": totals.false_in_cystic,
        "kidneys_found": _share(totals.kidneys_found),
        "false_kidneys": totals.false_kidneys,
    }


def _share(share: Share) -> dict[str, object]:
    return {"part": share.part, "whole": share.whole, **_interval(share.share)}


def _interval(found: Estimate) -> dict[str, object]:
    return {"share": found.value, "low": found.low, "high": found.high, "cases": found.cases}


def _comparison(comparison: Comparison, names: tuple[str, str]) -> dict[str, object]:
    return {
        "first": names[0],
        "other": names[1],
        "cases": len(comparison.cases),
        "rules": {"test": "Wilcoxon signed-rank, two-sided", **_bootstrap_rules()},
        "metrics": {
            found.metric.name: {
                "center": found.metric.center,
                "better_is": found.metric.better,
                "cases": found.difference.cases,
                "first": found.first,
                "other": found.other,
                "difference": found.difference.value,
                "low": found.difference.low,
                "high": found.difference.high,
                "better": found.better,
                "worse": found.worse,
                "equal": found.equal,
                "p": found.p,
                "p_holm": found.p_holm,
            }
            for found in comparison.differences
        },
        "differences": comparison.cases,
    }


def _bootstrap_rules() -> dict[str, object]:
    return {
        "interval_level": intervals.LEVEL,
        "bootstrap_resamples": intervals.RESAMPLES,
        "bootstrap_seed": intervals.SEED,
    }


def _with_composite(scores: KiTS19Scores) -> dict[str, float]:
    return {**asdict(scores), "composite": scores.composite}
