import math

import pytest

from kitspipe.planning.calibration import Calibration


def test_between_points_the_line_is_straight_and_beyond_them_it_ends():
    made = Calibration(agreement=(0.4, 0.8), dice=(0.6, 0.9), cases=20)
    assert made.predict(0.6) == pytest.approx(0.75)
    assert made.predict(0.95) == pytest.approx(0.9)
    assert made.predict(0.2) == pytest.approx(0.3)  # towards nothing shared, nothing right
    assert made.predict(0.0) == 0
    assert math.isnan(made.predict(math.nan))


def test_a_point_without_agreement_keeps_its_dice():
    assert Calibration(agreement=(0.0, 1.0), dice=(0.1, 0.9), cases=20).predict(0.0) == 0.1


@pytest.mark.parametrize("points", [((0.5, 0.4), (0.1, 0.2)), ((0.1, 0.2), (0.5, 0.4)), ((), ())])
def test_a_calibration_that_falls_is_refused(points):
    with pytest.raises(ValueError, match=r"rise|falls|empty"):
        Calibration(agreement=points[0], dice=points[1], cases=20)
