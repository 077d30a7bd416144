import itertools

import pytest

from kitspipe.evaluation.measurements import t_size
from kitspipe.evaluation.nephrometry import Place, renal_score

# Tables: Kutikov and Uzzo 2009, table 1; limits belong to the side that the table gives them.


def place(**edits):
    given = {"between_share": 0.0, "crosses_midline": False, "anterior_share": 1.0}
    return Place(**{**given, **edits})


def score(**edits):
    given = {"diameter_mm": 30.0, "exophytic_share": 0.8, "sinus_mm": 20.0, "place": place()}
    return renal_score(**{**given, **edits})


@pytest.mark.parametrize(
    ("diameter_mm", "points"), [(5, 1), (40, 1), (40.1, 2), (69.9, 2), (70, 3), (150, 3)]
)
def test_radius(diameter_mm, points):
    assert score(diameter_mm=diameter_mm).radius_points == points


@pytest.mark.parametrize(
    ("share", "points"), [(1, 1), (0.5, 1), (0.49, 2), (0.04, 2), (0.03, 3), (0, 3)]
)
def test_exophytic(share, points):
    assert score(exophytic_share=share).exophytic_points == points


@pytest.mark.parametrize(
    ("sinus_mm", "points"), [(0, 3), (4, 3), (4.1, 2), (6.9, 2), (7, 1), (30, 1), (None, 3)]
)
def test_nearness(sinus_mm, points):
    assert score(sinus_mm=sinus_mm).nearness_points == points


@pytest.mark.parametrize(
    ("given", "points"),
    [
        ({"between_share": 0.0}, 1),
        ({"between_share": 0.3}, 2),
        ({"between_share": 0.5}, 2),
        ({"between_share": 0.6}, 3),
        ({"between_share": 1.0}, 3),
        ({"between_share": 0.3, "crosses_midline": True}, 3),
    ],
)
def test_location(given, points):
    assert score(place=place(**given)).location_points == points


@pytest.mark.parametrize(
    ("share", "face"), [(1, "a"), (0.7, "a"), (0.6, "x"), (0.4, "x"), (0.3, "p"), (0, "p")]
)
def test_face(share, face):
    assert score(place=place(anterior_share=share)).face == face


def test_totals_and_their_complexity_are_those_of_the_table():
    sizes, shares, gaps = (30, 50, 90), (0.8, 0.3, 0.0), (20, 5, 0)
    for r, e, n, between in itertools.product(sizes, shares, gaps, (0, 0.3, 1)):
        found = score(
            diameter_mm=r, exophytic_share=e, sinus_mm=n, place=place(between_share=between)
        )
        total = sum(
            values.index(value) + 1
            for values, value in ((sizes, r), (shares, e), (gaps, n), ((0, 0.3, 1), between))
        )
        assert found.total == total
        assert found.complexity == ("low" if total < 7 else "moderate" if total < 10 else "high")


@pytest.mark.parametrize(
    ("edits", "letters"),
    [
        ({}, "NL"),
        ({"diameter_mm": 41}, "RNL"),
        ({"exophytic_share": 0.45}, "ENL"),
        ({"exophytic_share": 0.05}, "ENL"),
        ({"place": place(anterior_share=0.6)}, "NAL"),
    ],
)
def test_what_is_near_a_limit_needs_a_look_and_n_and_l_always(edits, letters):
    assert "".join(score(**edits).needs_look) == letters


@pytest.mark.parametrize(
    ("diameter_mm", "size"),
    [(1, "T1a"), (40, "T1a"), (40.1, "T1b"), (70, "T1b"), (71, "T2a"), (100, "T2a"), (101, "T2b")],
)
def test_sizes_have_their_bin_of_the_tnm(diameter_mm, size):
    assert t_size(diameter_mm) == size
