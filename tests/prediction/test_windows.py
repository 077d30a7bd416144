from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitspipe.imaging.volume import Box
from kitspipe.prediction.windows import (
    Part,
    axis_weights,
    owned_spans,
    predict_windows,
    spans_of,
    starts_over,
    window_starts,
    windows_that_count,
)

PATCH, STRIDE = (64, 4, 16), (32, 2, 8)
blends = st.sampled_from(["center", "gaussian"])
refinements = st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 1, 3)])


def repeated(patches, refinement):
    """An identity network: each voxel's value in all finer voxels that it becomes."""
    for axis, factor in enumerate(refinement, start=-3):
        patches = patches.repeat(factor, axis)
    return patches


def _around(box, shape):
    """A larger box, within the volume."""
    return Box(
        start=tuple(max(0, a - 2) for a in box.start),
        stop=tuple(min(n, b + 3) for n, b in zip(shape, box.stop, strict=True)),
    )


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_papers_windows_keep_their_middle_32_slices():
    spans = owned_spans(160, 64, 32)
    assert [span.start for span in spans] == [0, 32, 64, 96]
    # Inner windows keep [16:48), the outer ones the scan's ends too.
    assert [(s.first - s.start, s.last - s.start) for s in spans] == [
        (0, 48),
        (16, 48),
        (16, 48),
        (16, 64),
    ]


def test_a_length_of_one_window_is_one_window():
    assert window_starts(64, 64, 32) == (0,)


@pytest.mark.parametrize(
    ("length", "window", "stride"),
    [
        (64, 64, 65),  # slices between windows would be skipped
        (63, 64, 32),  # the caller pads
        (64, 64, 0),
    ],
)
def test_impossible_windows_are_refused(length, window, stride):
    with pytest.raises(ValueError, match="need 1 <= stride"):
        window_starts(length, window, stride)


@given(length=st.integers(1, 300), window=st.integers(1, 80), stride=st.integers(1, 80))
def test_every_slice_is_owned_once_and_seen_by_its_owner(length, window, stride):
    length, stride = max(length, window), min(stride, window)
    spans = owned_spans(length, window, stride)
    owned = [z for span in spans for z in range(span.first, span.last)]
    assert owned == list(range(length))
    assert all(s.start <= s.first and s.last <= s.start + window for s in spans)
    assert spans[-1].start + window == length


@given(length=st.integers(65, 300))
def test_the_owner_of_a_slice_has_its_border_farthest(length):
    spans = owned_spans(length, 64, 32)

    def depth(start, z):
        left = z - start if start > 0 else np.inf
        right = start + 63 - z if start + 64 < length else np.inf
        return min(left, right)

    for span in spans:
        for z in range(span.first, span.last):
            seen_by = [s.start for s in spans if s.start <= z < s.start + 64]
            # A tie between two windows may go to either: half a slice decides.
            assert depth(span.start, z) >= max(depth(start, z) for start in seen_by) - 1


@given(depth=st.integers(1, 300), blend=blends, refinement=refinements)
def test_an_identity_network_returns_its_input(depth, blend, refinement):
    image = noise(depth, depth, 7, 11)
    found = predict_windows(
        image,
        lambda patches: repeated(patches, refinement),
        patch_size=PATCH,
        stride=STRIDE,
        refinement=refinement,
        blend=blend,
    )
    np.testing.assert_allclose(found, repeated(image, refinement), atol=1e-5)


@given(depth=st.integers(1, 64), blend=blends)
def test_where_one_window_suffices_it_is_a_direct_pass_of_the_padded_scan(depth, blend):
    image = noise(depth, depth, 3, 16)
    calls = []

    def forward(patches):
        calls.append(patches)
        return np.cumsum(patches, axis=1)

    found = predict_windows(image, forward, patch_size=PATCH, stride=STRIDE, blend=blend, fill=-2.0)
    before = (64 - depth) // 2
    padded = np.pad(image, ((before, 64 - depth - before), (0, 1), (0, 0)), constant_values=-2.0)
    [seen] = calls
    np.testing.assert_array_equal(seen[0], padded)
    direct = np.cumsum(padded, axis=0)[before : before + depth, :3]
    np.testing.assert_allclose(found, direct, rtol=1e-5, atol=1e-5)


def test_gaussian_blending_weighs_the_middle_of_a_window_most():
    # Two windows that say 0 and 1: in their overlap the value rises from the one to the other.
    calls = iter([0.0, 1.0])

    def forward(patches):
        return np.full_like(patches, next(calls))

    found = predict_windows(
        np.zeros((96, 1, 1), np.float32),
        forward,
        patch_size=(64, 1, 1),
        stride=(32, 1, 1),
        blend="gaussian",
    )[:, 0, 0]
    assert (found[:32] == 0).all()
    assert (found[64:] == 1).all()
    assert (np.diff(found[32:64]) > 0).all()
    assert found[47] + found[48] == pytest.approx(1)


boxes = st.tuples(*[st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in (150, 7, 40)]).map(
    lambda axes: Box(
        start=tuple(min(a, b) for a, b in axes), stop=tuple(max(a + 1, b) for a, b in axes)
    )
)


@given(box=boxes, blend=blends, refinement=refinements)
def test_all_windows_say_of_a_part_what_they_say_of_it_in_the_whole(box, blend, refinement):
    image = noise(0, 150, 7, 40)

    # What a window says depends on what else it sees, as with norms.
    def forward(patch):
        return repeated(patch * patch.std(), refinement)

    whole = predict_windows(
        image,
        lambda patches: forward(patches[0])[None],
        patch_size=PATCH,
        stride=STRIDE,
        refinement=refinement,
        blend=blend,
    )
    spans = [owned_spans(*axis) for axis in zip(image.shape, PATCH, STRIDE, strict=True)]
    part = Part(_around(box, image.shape), patch_size=PATCH, refinement=refinement, blend=blend)
    for window in product(*spans):
        place = tuple(slice(s.start, s.start + n) for s, n in zip(window, PATCH, strict=True))
        part.add(window, forward(image[place]), part.weights(window))
    assert part.seen(box).all()
    found = part.probability(box)
    finer = tuple(
        slice(a * r, b * r) for a, b, r in zip(box.start, box.stop, refinement, strict=True)
    )
    np.testing.assert_allclose(found, whole[finer], rtol=1e-4, atol=1e-5)


def test_where_no_window_was_asked_there_is_nothing():
    [first, *_], rows, columns = (owned_spans(n, n // 2, n // 4) for n in (64, 8, 8))
    whole = Box(start=(0, 0, 0), stop=(64, 8, 8))
    part = Part(whole, patch_size=(32, 4, 4), refinement=(1, 1, 1), blend="gaussian")
    window = (first, rows[0], columns[0])
    part.add(window, np.ones((32, 4, 4), np.float32), part.weights(window))
    expected = np.zeros((64, 8, 8))
    expected[:32, :4, :4] = 1
    np.testing.assert_allclose(part.probability(whole), expected, atol=1e-6)
    np.testing.assert_array_equal(part.seen(whole), expected > 0)


@given(
    length=st.integers(1, 300),
    window=st.integers(1, 80),
    core=st.integers(1, 80),
    ends=st.tuples(st.integers(0, 299), st.integers(1, 300)),
)
def test_fewest_windows_hold_a_part_in_their_middles(length, window, core, ends):
    length, core = max(length, window), min(core, window)
    first = min(ends[0], length - 1)
    last = max(first + 1, min(ends[1], length))
    starts = starts_over((first, last), length, window, core)
    margin = (window - core) // 2
    for place in range(first, last):
        assert any(
            (start + margin <= place or start == 0)
            and (place < start + window - margin or start + window == length)
            for start in starts
        ), (starts, place)
    assert all(0 <= start <= length - window for start in starts)
    # Each window but one covers a whole core: fewer would not do.
    assert (len(starts) - 1) * core < last - first + 2
    owned = [z for span in spans_of(starts, window) for z in range(span.first, span.last)]
    assert owned == list(range(starts[0], starts[-1] + window))


@settings(max_examples=8)
@given(
    corner=st.tuples(st.integers(0, 36), st.integers(0, 7), st.integers(0, 7)),
    least=st.floats(0.01, 0.25),
    blend=blends,
)
def test_windows_that_are_left_out_say_less_than_the_share_at_every_voxel(corner, least, blend):
    scale, patch, stride = (4, 2, 2), (64, 8, 8), (32, 4, 4)
    mask = np.zeros((37, 8, 8), bool)
    mask[tuple(slice(c, c + 2) for c in corner)] = True
    shape = tuple(n * s for n, s in zip(mask.shape, scale, strict=True))
    spans = [owned_spans(*axis) for axis in zip(shape, patch, stride, strict=True)]
    counting = windows_that_count(spans, mask, scale, patch, blend=blend, least_share=least)

    def weight(window, place):
        per_axis = [
            axis_weights(span, size, 1, blend)[at - span.start]
            if span.start <= at < span.start + size
            else 0.0
            for span, size, at in zip(window, patch, place, strict=True)
        ]
        return float(np.prod(per_axis))

    places = [
        tuple(int(i) * s + s // 2 for i, s in zip(v, scale, strict=True)) for v in np.argwhere(mask)
    ]
    everyone = list(product(*spans))
    for window in everyone:
        shares = [weight(window, p) / sum(weight(w, p) for w in everyone) for p in places]
        assert (window in counting) == (max(shares) >= least * (1 - 1e-6)) or max(
            shares
        ) == pytest.approx(least, rel=1e-4)
