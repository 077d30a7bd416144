import pytest

from kitspipe.training.settings import Settings


@pytest.mark.parametrize(
    ("settings", "epochs_done", "seconds", "expected"),
    [
        ({}, 5, 1e9, 0.5),
        ({"epochs": 20}, 5, 0, 0.25),
        ({"max_seconds": 100}, 5, 10, 0.5),  # nearer its end by epochs
        ({"max_seconds": 100}, 5, 70, 0.7),  # by time
        ({"max_seconds": 100}, 5, 70.0999, 0.7),  # in thousandths
        ({"epochs": 20, "max_seconds": 100}, 18, 70, 0.9),
        ({"epochs": 4}, 5, 0, 1.0),  # gone on with fewer than are done
        ({"max_seconds": 100}, 0, 500, 1.0),
    ],
)
def test_of_two_limits_the_one_nearer_its_end_counts(settings, epochs_done, seconds, expected):
    share = Settings(**settings).share_done(epochs_done, 10, seconds)
    assert share == pytest.approx(expected, abs=1e-12)


def test_what_is_given_anew_replaces_what_was_kept_and_the_rest_stays():
    kept = Settings(epochs=5, patience=3, precision="float32")
    now = Settings(patience=7, compiled=True).over(kept)
    assert now == Settings(epochs=5, patience=7, precision="float32", compiled=True)
    assert now.changes(kept) == ["patience 3 -> 7", "compiled as planned -> True"]
    assert kept.over(kept).changes(kept) == []
