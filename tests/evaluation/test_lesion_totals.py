import math

import pytest
from small_evaluations import case

from kitspipe.evaluation.lesion_totals import lesion_totals


def test_totals_are_sums_over_cases():
    totals = lesion_totals(
        [
            case("a"),
            case("b", missed=True),
            case("c", false=True),
            case("d", kidneys=1),
            case("e", failed=True),
            case("f", tumor=False),
        ]
    )
    assert (totals.found.part, totals.found.whole) == (3, 5)
    assert totals.found.share.value == 0.6
    assert totals.found_by_size["< 2 cm"] == totals.found
    assert totals.found_by_size["2-4 cm"].whole == 0
    assert math.isnan(totals.found_by_size["> 7 cm"].share.value)
    # The failed case has no prediction that could hold a false one.
    assert totals.false_per_scan.value == pytest.approx(1 / 5)
    assert totals.false_per_scan.cases == 5
    assert totals.false_by_place == {"cyst": 1, "kidney": 0, "background": 0}
    # In f the other kidney has no cyst and no tumor.
    assert (totals.cystic_with_false.part, totals.cystic_with_false.whole) == (1, 5)
    assert totals.false_in_cystic == 1
    assert (totals.kidneys_found.part, totals.kidneys_found.whole) == (9, 12)
    assert totals.false_kidneys == 0


def test_no_cases_are_no_totals():
    totals = lesion_totals([])
    assert (totals.found.part, totals.found.whole) == (0, 0)
    assert math.isnan(totals.false_per_scan.value)
