import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from small_plans import AUGMENTATION

from kitspipe.imaging.volume import Box
from kitspipe.training.augmentation import Augment, blurred, equalized
from kitspipe.training.changes import NOTHING, AugmentationParameters, change_of, draw

SCAN = (5, 60, 80)
PATCH = Box(start=(0, 10, 20), stop=(5, 42, 60))
MOVES = msgspec.structs.replace(
    AUGMENTATION,
    mirror_axes=("z", "y", "x"),
    rotation_probability=1.0,
    rotation_degrees=40.0,
    scale_probability=1.0,
    equalization_probability=0.0,
    blur_probability=0.0,
)


def read(array, box, refinement=1):
    """What the store gives; 0 outside."""
    far = 100 * refinement
    padded = np.pad(array, [(0, 0), (far, far), (far, far)])
    rows, columns = (
        slice(a * refinement + far, b * refinement + far)
        for a, b in zip(box.start[1:], box.stop[1:], strict=True)
    )
    return padded[:, rows, columns]


def augmented(image, target, drawn, mask=None, refinement=1):
    changes = [change_of(parameters, PATCH, SCAN) for parameters in drawn]
    found = Augment(AUGMENTATION)(
        data=[read(image, change.read)[None] for change in changes],
        seg=[read(target, change.read, refinement) for change in changes],
        mask=[None if mask is None else read(mask, change.read)[None] for change in changes],
        change=changes,
        cases=tuple("abc"[: len(changes)]),
    )
    return {**found, "data": np.stack(found["data"]), "seg": np.stack(found["seg"])}


def noise():
    return np.random.default_rng(0).beta(2, 8, SCAN).astype(np.float32)


def sloping_ellipse():
    z, y, x = np.indices(SCAN)
    return (((y - 22 - 2 * z) / 9) ** 2 + ((x - 44 + 3 * z) / 14) ** 2 < 1).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_nothing_drawn_changes_nothing():
    target = sloping_ellipse()
    found = augmented(noise(), target, [NOTHING, NOTHING])
    np.testing.assert_array_equal(found["data"], [read(noise(), PATCH)[None]] * 2)
    np.testing.assert_array_equal(found["seg"], [read(target, PATCH)] * 2)
    assert found["cases"] == ("a", "b")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), refinement=st.sampled_from([1, 2]))
def test_image_and_finer_target_move_together(seed, refinement):
    shape = sloping_ellipse()
    fine = shape.repeat(refinement, 1).repeat(refinement, 2)
    drawn = draw(MOVES, np.random.default_rng(seed))
    found = augmented(shape.astype(np.float32), fine, [drawn], refinement=refinement)
    seen = (found["data"][0, 0] > 0.5).repeat(refinement, 1).repeat(refinement, 2)
    assert found["seg"][0].shape == (5, 32 * refinement, 40 * refinement)
    assert dice(seen, found["seg"][0] > 0) > 0.93


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(3)), number=st.integers(1, 3))
def test_a_patch_is_changed_alike_whatever_stands_beside_it(order, number):
    drawn = [draw(AUGMENTATION, np.random.default_rng(seed)) for seed in (1, 2, 3)]
    whole = augmented(noise(), sloping_ellipse(), drawn)
    some = list(order)[:number]
    beside = augmented(noise(), sloping_ellipse(), [drawn[index] for index in some])
    for name in ("data", "seg"):
        np.testing.assert_array_equal(beside[name], whole[name][some])


def test_a_blur_takes_its_border_from_the_scan():
    found = augmented(noise(), sloping_ellipse(), [AugmentationParameters(blur_sigma=1.0)])
    whole = np.stack([gaussian_filter(plane, 1.0) for plane in noise()])
    np.testing.assert_allclose(found["data"][0, 0], read(whole, PATCH), atol=1e-5)


@pytest.mark.parametrize("warp", [{}, {"rotation_degrees": 10.0}])
def test_only_the_inside_of_the_mask_is_equalized(warp):
    mask = sloping_ellipse() > 0
    plain, flat = (
        augmented(np.where(mask, noise(), 0), mask.astype(np.uint8), [parameters], mask=mask)[
            "data"
        ][0, 0]
        for parameters in (
            AugmentationParameters(**warp),
            AugmentationParameters(**warp, equalize=True),
        )
    )
    outside = plain == 0
    np.testing.assert_array_equal(flat[outside], 0)
    # Of a beta distribution that leans to 0, half lies below a fifth.
    assert np.median(plain[~outside]) < 0.25
    assert np.median(flat[~outside]) > 0.3


def test_an_equalized_histogram_is_flat_and_keeps_its_range():
    rng = np.random.default_rng(0)
    image = rng.beta(2, 8, size=(2, 80, 80)).astype(np.float32)
    inside = rng.random(image.shape) < 0.5
    flat = equalized(image, inside)
    counts, _ = np.histogram(flat[inside], 8)
    # Eight equal bins of about 800 values each; before, most are below a third.
    assert counts.max() < 1.5 * counts.min()
    assert flat[inside].min() == pytest.approx(image[inside].min(), abs=0.1)
    assert flat[inside].max() == pytest.approx(image[inside].max(), abs=0.1)
    np.testing.assert_array_equal(flat[~inside], image[~inside])


@pytest.mark.parametrize("value", [-1.0, 0.0, 3.0])
def test_equalizing_a_single_value_changes_nothing(value):
    image = np.full((1, 4, 4), value, np.float32)
    np.testing.assert_array_equal(equalized(image, np.ones(image.shape, bool)), image)


def test_equalizing_an_empty_mask_changes_nothing():
    image = np.ones((1, 4, 4), np.float32)
    np.testing.assert_array_equal(equalized(image, np.zeros(image.shape, bool)), image)


def test_blur_is_a_gaussian_in_the_slice():
    image = np.random.default_rng(0).normal(size=(1, 3, 20, 20)).astype(np.float32)
    expected = np.stack([gaussian_filter(plane, 1.5) for plane in image[0]])[None]
    np.testing.assert_allclose(blurred(image, 1.5, radius=6), expected, atol=1e-5)
