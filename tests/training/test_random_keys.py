import numpy as np
import pytest
from small_plans import AUGMENTATION

from kitspipe.training.changes import draw
from kitspipe.training.random_keys import Purpose, SampleKey


def key(seed=3, stage=1, epoch=4, sample=5):
    return SampleKey(seed=seed, stage=stage, epoch=epoch, sample=sample)


def numbers(of, purpose=Purpose.PLACE, count=4):
    return of.stream(purpose).random(count)


def test_a_key_gives_the_same_numbers_again_and_these_for_good():
    np.testing.assert_array_equal(numbers(key()), numbers(key()))
    # Philox is a published function of key and counter: another version must not draw otherwise.
    philox = np.random.Philox(key=3 + (6 << 64), counter=(5 << 128) + (4 << 192))
    np.testing.assert_array_equal(
        key().stream(Purpose.CHANGE).integers(2**63, size=8),
        np.random.Generator(philox).integers(2**63, size=8),
    )


@pytest.mark.parametrize("part", ["seed", "stage", "epoch", "sample"])
def test_every_part_of_the_key_counts(part):
    assert not np.isin(numbers(key(**{part: 7})), numbers(key())).any()


def test_purposes_and_stages_have_streams_of_their_own():
    drawn = [tuple(numbers(key(stage=stage), purpose)) for stage in (1, 2) for purpose in Purpose]
    assert len(set(drawn)) == 2 * len(Purpose)


def test_a_negative_seed_is_a_seed():
    assert not np.isin(numbers(key(seed=-1)), numbers(key(seed=1))).any()


def test_samples_beside_each_other_draw_independently():
    drawn = np.array([numbers(key(sample=n), Purpose.CHANGE, 3) for n in range(4000)])
    # Of two independent columns of 4000, the correlation's standard deviation is 0.016.
    beside = [np.corrcoef(drawn[:-1, k], drawn[1:, k])[0, 1] for k in range(3)]
    epochs = np.array([numbers(key(sample=n, epoch=9), Purpose.CHANGE, 3) for n in range(4000)])
    across = [np.corrcoef(drawn[:, k], epochs[:, k])[0, 1] for k in range(3)]
    assert np.abs(beside + across).max() < 0.07
    assert drawn.mean(axis=0) == pytest.approx([0.5] * 3, abs=0.03)


def test_changes_of_samples_are_not_in_lockstep():
    angles = [
        draw(AUGMENTATION, key(sample=n).stream(Purpose.CHANGE)).rotation_degrees
        for n in range(400)
    ]
    turned = [angle for angle in angles if angle]
    assert len(set(turned)) == len(turned) > 150
