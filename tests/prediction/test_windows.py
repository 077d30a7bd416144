import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitspipe.prediction.windows import owned_spans, predict_windows, window_starts


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


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 300),
    blend=st.sampled_from(["center", "gaussian"]),
    refinement=st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 1, 3)]),
)
def test_an_identity_network_returns_its_input(depth, blend, refinement):
    image = np.random.default_rng(depth).normal(size=(depth, 7, 11)).astype(np.float32)

    def repeat(patches):
        for axis, factor in enumerate(refinement, start=1):
            patches = patches.repeat(factor, axis)
        return patches

    found = predict_windows(
        image,
        repeat,
        patch_size=(64, 4, 16),
        stride=(32, 2, 8),
        refinement=refinement,
        blend=blend,
    )
    np.testing.assert_allclose(found, repeat(image[None])[0], atol=1e-5)


def test_one_window_equals_a_direct_pass():
    image = np.random.default_rng(0).normal(size=(64, 8, 8)).astype(np.float32)

    def forward(patches):
        return np.cumsum(patches, axis=1)

    found = predict_windows(image, forward, patch_size=(64, 8, 8), stride=(32, 8, 8))
    np.testing.assert_array_equal(found, forward(image[None])[0])


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
