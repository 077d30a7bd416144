import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import AUGMENTATION

from kitspipe.imaging.volume import Box
from kitspipe.training.changes import NOTHING, AugmentationParameters, change_of, draw

PATCH = Box(start=(2, 30, 40), stop=(6, 62, 80))
SCAN = (12, 100, 120)


def test_every_change_is_drawn_as_often_as_its_probability_says():
    drawn = [draw(AUGMENTATION, np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean([p.rotation_degrees != 0 for p in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([p.scale != 1 for p in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([p.equalize for p in drawn]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([p.blur_sigma > 0 for p in drawn]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([p.mirrored == (1,) for p in drawn]) == pytest.approx(0.5, abs=0.04)
    assert max(abs(p.rotation_degrees) for p in drawn) <= 15
    assert all(0.8 <= p.scale <= 1.25 for p in drawn)


@pytest.mark.parametrize("parameters", [NOTHING, AugmentationParameters(mirrored=(3, 2, 1))])
def test_without_a_warp_exactly_the_patch_is_read(parameters):
    for patch in (PATCH, Box(start=(-1, -30, 90), stop=(3, 2, 130))):
        assert change_of(parameters, patch, SCAN).read == patch


def test_a_blur_reads_as_far_as_it_reaches():
    change = change_of(AugmentationParameters(blur_sigma=0.5), PATCH, SCAN)
    assert change.read == Box(start=(2, 28, 38), stop=(6, 64, 82))


def test_a_larger_picture_reads_less():
    change = change_of(AugmentationParameters(scale=2.0), PATCH, SCAN)
    # Half of 32 x 40 and the neighbours that are interpolated.
    assert change.read == Box(start=(2, 37, 49), stop=(6, 55, 71))


def test_a_quarter_turn_reads_the_patch_on_its_side():
    rows, columns = change_of(AugmentationParameters(rotation_degrees=90), PATCH, SCAN).read.shape[
        1:
    ]
    assert 40 <= rows <= 42
    assert 32 <= columns <= 34


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(-180, 180),
    scale=st.floats(0.01, 4.0),
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    start=st.tuples(st.integers(-60, 120), st.integers(-60, 120)),
)
def test_what_is_read_is_bounded_and_never_far_outside_the_scan(angle, scale, shift, start):
    patch = Box(start=(0, *start), stop=(4, start[0] + 32, start[1] + 40))
    parameters = AugmentationParameters(
        rotation_degrees=angle, scale=scale, translation=shift, blur_sigma=1.0
    )
    read = change_of(parameters, patch, SCAN).read
    assert (read.start[0], read.stop[0]) == (0, 4)
    margin = 4
    longest = math.hypot(32, 40) / scale + 3 + 2 * margin
    for axis in (1, 2):
        assert read.start[axis] >= -1 - margin
        assert read.stop[axis] <= SCAN[axis] + 1 + margin
        assert 1 <= read.shape[axis] <= longest
