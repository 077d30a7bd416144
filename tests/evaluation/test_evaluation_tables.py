from small_evaluations import case, evaluation

from kitspipe.evaluation.compare import compare
from kitspipe.evaluation.evaluation_tables import as_comparison_table, as_tables


def cells(table):
    return {row[:2]: row[2:] for row in table.rows}


def test_means_stand_with_their_interval_and_a_dash_where_undefined():
    scores, *_ = as_tables(evaluation(case("a", tumor=False), case("b", tumor=False)))
    assert scores.header == ("", "class", "Dice", "Surface Dice")
    found = cells(scores)
    assert found["KiTS19", "kidney"] == ("1.0000 (1.0000 to 1.0000)", "")
    assert found["KiTS19", "tumor"] == ("-", "")
    assert found["KiTS21/23", "tumor"] == ("1.0000 (1.0000 to 1.0000)",) * 2


def test_one_case_has_no_interval():
    scores, regions, lesions, worst = as_tables(evaluation(case("a", missed=True)))
    assert scores.title.startswith("scores of 1 case,")
    assert cells(scores)["KiTS21/23", "tumor"] == ("0.0000", "0.0000")
    assert regions.rows[2] == ("tumor", "-2.9", "100.0", "inf")
    assert lesions.rows[0] == ("tumors", "0 of 1", "0.000")
    assert ("cyst-only kidneys with a false tumor", "0 of 1", "0.000") in lesions.rows
    # Kidney 1, mass 2 * 600 / (2200 + 600) voxels, tumor 0.
    assert worst.rows == (("a", "0.476", "tumor of 1.8 cm missed"),)


def test_every_row_is_as_wide_as_its_header():
    first = evaluation(case("a", shift=1), case("b"), case("c", failed=True))
    other = evaluation(case("a"), case("b", false=True), case("c"))
    comparison = as_comparison_table(compare(first, other), "new", "old")
    for table in [*as_tables(first), comparison]:
        assert {len(row) for row in table.rows} == {len(table.header)}
    row = next(row for row in comparison.rows if row[0] == "KiTS21/23 tumor dice")
    assert row[4] == "1/0/2"
    assert "new (first) against old (other), 3 cases" in comparison.title
