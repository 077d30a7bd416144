import csv
import json
import math

import pytest
from small_evaluations import GRID, case, evaluation

from kitspipe.evaluation.case_scores import METRICS
from kitspipe.evaluation.compare import compare
from kitspipe.evaluation.evaluation_files import write, write_comparison

OFFICIAL = "caseID,Dice_kidney,Dice_masses,Dice_tumor,SD_kidney,SD_masses,SD_tumor"


def written(folder, *scores, **fields):
    return evaluation(*scores, **fields), {
        path.name: path for path in write(evaluation(*scores, **fields), folder)
    }


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_table_is_the_official_one(tmp_path):
    made, files = written(
        tmp_path / "new",
        case("a"),
        case("b", shift=2),
        case("c", failed=True),
        unscored=(("d", "x"),),
    )
    lines = files["evaluation.csv"].read_text().splitlines()
    assert lines[0] == OFFICIAL
    assert lines[1] == "a" + ",1.00000000" * 6
    assert lines[3] == "c" + ",0.00000000" * 6
    table = rows(files["evaluation.csv"])
    assert [row["caseID"] for row in table] == ["a", "b", "c", "average"]
    column = [float(row["Dice_masses"]) for row in table]
    assert column[3] == pytest.approx(sum(column[:3]) / 3, abs=2e-8)
    assert float(table[1]["SD_kidney"]) == pytest.approx(
        made.scores[1].kits23.kidney_and_mass.surface_dice, abs=1e-8
    )


def test_every_metric_of_every_case_is_in_the_table_of_cases(tmp_path):
    made, files = written(
        tmp_path, case("a", shift=1), case("b", tumor=False), case("c", failed=True)
    )
    table = rows(files["cases.csv"])
    for row, score in zip(table, made.scores, strict=True):
        for metric in METRICS:
            value = metric.of(score)
            if math.isnan(value):
                assert row[metric.name] == ""
            else:
                assert float(row[metric.name]) == pytest.approx(value, rel=1e-6)
    assert table[2]["tumor_hausdorff95_mm"] == "inf"
    assert table[2]["failure"] == "c found: no prediction expected: a mask"
    assert table[2]["false_kidneys"] == ""
    assert (table[0]["tumors"], table[0]["tumors_found"], table[0]["kidneys"]) == ("1", "1", "2")


def test_lesions_have_a_row_each(tmp_path):
    _, files = written(tmp_path, case("a", false=True), case("b", missed=True))
    first, made_up, last = rows(files["lesions.csv"])
    assert (first["case_id"], first["kind"], first["found"]) == ("a", "tumor", "yes")
    assert first["size_bin"] == "< 2 cm"
    x, y, z = (float(first[f"center_{axis}_mm"]) for axis in "xyz")
    assert (x, y, z) == pytest.approx(tuple(GRID.to_world((8.5, 12.5, 15.5))), rel=1e-6)
    assert (made_up["kind"], made_up["place"], made_up["in_cystic_kidney"]) == (
        "false tumor",
        "cyst",
        "yes",
    )
    assert (last["case_id"], last["found"], last["covered_share"]) == ("b", "no", "0")


def test_the_summary_has_scores_intervals_counts_and_failures(tmp_path):
    made, files = written(
        tmp_path,
        case("a", shift=1),
        case("b", tumor=False),
        case("c", failed=True),
        unscored=(("d", "torn"),),
        without_reference=("z",),
    )
    summary = json.loads(files["summary.json"].read_text())
    assert summary["kits19"]["composite"] == pytest.approx(made.kits19.composite)
    assert summary["kits23"]["mass"]["dice"] == pytest.approx(made.kits23.mass.dice)
    dice = summary["metrics"]["kits23_tumor_dice"]
    assert dice["value"] == pytest.approx(made.kits23.tumor.dice)
    assert dice["low"] <= dice["value"] <= dice["high"]
    assert summary["metrics"]["tumor_hausdorff95_mm"]["infinite"] == 1
    assert summary["counts"] == {
        "scored": 3,
        "failed": 2,
        "undefined_in_kits19": 1,
        "without_reference": 1,
    }
    assert list(summary["failures"]) == ["c", "d"]
    assert summary["lesions"]["found"]["part"] == 1
    assert summary["worst"][0]["case_id"] == "c"
    assert summary["cases"]["b"]["kits19"]["tumor"] is None
    assert summary["cases"]["b"]["kits23"]["tumor"] == {"dice": 1, "surface_dice": 1}


def test_every_key_of_the_summary_is_explained(tmp_path, request):
    _, files = written(tmp_path, case("a", shift=1), case("b", false=True))
    page = (request.config.rootpath / "docs" / "evaluation.md").read_text(encoding="utf-8")

    def keys(content):
        return set(content) | {k for v in content.values() if isinstance(v, dict) for k in keys(v)}

    summary = json.loads(files["summary.json"].read_text())
    own = {"a", "b"} | {metric.name for metric in METRICS}
    assert {key for key in keys(summary) - own if f"`{key}`" not in page} == set()
    for name in ("cases.csv", "lesions.csv"):
        columns = files[name].read_text().splitlines()[0].split(",")
        explained = {c for c in columns if f"`{c}`" in page or c in own}
        assert set(columns) - explained == set()


def test_a_comparison_has_its_metrics_and_cases(tmp_path):
    first = evaluation(case("a"), case("b"), case("c", tumor=False))
    other = evaluation(case("a", shift=1), case("b", missed=True), case("c", tumor=False))
    files = write_comparison(compare(first, other), tmp_path, ("new", "old"))
    table, content = rows(files[0]), json.loads(files[1].read_text())
    assert (content["first"], content["other"], content["cases"]) == ("new", "old", 3)
    dice = content["metrics"]["kits23_tumor_dice"]
    assert (dice["better"], dice["equal"], dice["worse"]) == (2, 1, 0)
    assert (
        float(table[1]["kits23_tumor_dice"])
        == content["differences"]["b"]["kits23_tumor_dice"]
        == 1
    )
    assert table[1]["tumor_hausdorff95_mm"] == "-inf"
    assert content["differences"]["b"]["tumor_hausdorff95_mm"] is None
