import msgspec
import pytest
from small_plans import SCHEDULE

from kitspipe.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("decay", "fraction", "expected"),
    [
        ("steps", 0.0, 1.0),
        ("steps", 0.5, 0.1),
        ("steps", 0.75, 0.01),
        ("poly", 0.0, 1.0),
        ("poly", 0.5, 0.5**0.9),
        ("cosine", 0.5, 0.5),
        ("cosine", 0.0, 0.05),  # 0.001 of a start over 2 % of the training
    ],
)
def test_the_learning_rate_is_a_function_of_the_share_done(decay, fraction, expected):
    schedule = msgspec.structs.replace(SCHEDULE, decay=decay, learning_rate=1.0)
    assert learning_rate(schedule, fraction) == pytest.approx(expected)
