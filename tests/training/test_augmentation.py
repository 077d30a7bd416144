import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from small_plans import AUGMENTATION

from kitspipe.training.augmentation import (
    Augment,
    AugmentationParameters,
    blurred,
    draw,
    equalized,
    move,
)

NOTHING = msgspec.structs.replace(
    AUGMENTATION,
    mirror_axes=(),
    rotation_probability=0.0,
    scale_probability=0.0,
    equalization_probability=0.0,
    blur_probability=0.0,
)


def ellipse(shape=(3, 60, 80), center=(25, 50)):
    y, x = np.mgrid[: shape[1], : shape[2]]
    inside = ((y - center[0]) / 12) ** 2 + ((x - center[1]) / 20) ** 2 < 1
    return np.broadcast_to(inside, shape).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_nothing_drawn_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 3, 9, 11)).astype(np.float32)
    target = np.arange(2 * 9 * 11, dtype=np.uint8).reshape(2, 9, 11)
    found = Augment(NOTHING, fill=-1)(data=image, seg=target, seeds=[(1,), (2,)], cases=("a", "b"))
    np.testing.assert_array_equal(found["data"], image)
    np.testing.assert_array_equal(found["seg"], target)
    assert found["cases"] == ("a", "b")


def test_a_mirrored_patch_is_flipped_exactly():
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    flipped = move(image, AugmentationParameters(mirrored=(1,)), order=1, fill=0)
    np.testing.assert_array_equal(flipped, image[..., ::-1])


def test_a_quarter_turn_is_rot90():
    image = np.random.default_rng(0).normal(size=(2, 9, 9)).astype(np.float32)
    turned = move(image, AugmentationParameters(rotation_degrees=90), order=1, fill=0)
    matches = [np.allclose(turned, np.rot90(image, k, axes=(1, 2)), atol=1e-5) for k in (1, 3)]
    assert sum(matches) == 1


def test_a_translation_by_whole_voxels_is_a_shift():
    image = np.random.default_rng(0).normal(size=(1, 10, 20)).astype(np.float32)
    moved = move(image, AugmentationParameters(translation=(0.1, 0.05)), order=1, fill=7)
    np.testing.assert_allclose(moved[:, 1:, 1:], image[:, :-1, :-1], atol=1e-5)
    assert (moved[:, 0] == 7).all()


def test_a_scale_of_two_shows_the_middle_twice_as_large():
    mask = ellipse(center=(30, 40))[:1]
    larger = move(mask, AugmentationParameters(scale=2.0), order=0, fill=0)
    assert larger.sum() == pytest.approx(4 * mask.sum(), rel=0.05)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    refinement=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
)
def test_image_and_finer_target_move_together(seed, refinement):
    config = msgspec.structs.replace(
        NOTHING,
        mirror_axes=("z", "y", "x"),
        rotation_probability=1.0,
        rotation_degrees=40.0,
        scale_probability=1.0,
    )
    parameters = draw(config, np.random.default_rng(seed))
    coarse = ellipse()
    fine = coarse.repeat(refinement[0], 1).repeat(refinement[1], 2)
    image = move(coarse.astype(np.float32), parameters, order=1, fill=0)
    voxel = (1 / refinement[0], 1 / refinement[1])
    target = move(fine, parameters, order=0, fill=0, voxel=voxel)
    seen = (image > 0.5).repeat(refinement[0], 1).repeat(refinement[1], 2)
    assert dice(seen, target > 0) > 0.93


def test_a_patch_is_changed_alike_whatever_stands_beside_it():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 5, 32, 40)).astype(np.float32)
    target = rng.integers(0, 3, (3, 32, 40)).astype(np.uint8)
    mask = rng.random((3, 5, 32, 40)) < 0.5
    augment = Augment(AUGMENTATION, fill=-1)
    seeds = [(7, 0, 1), (7, 0, 2), (7, 0, 3)]
    whole = augment(data=image, seg=target, mask=mask, seeds=seeds)
    for index in range(3):
        one = slice(index, index + 1)
        alone = augment(data=image[one], seg=target[one], mask=mask[one], seeds=seeds[one])
        np.testing.assert_array_equal(alone["data"], whole["data"][one])
        np.testing.assert_array_equal(alone["seg"], whole["seg"][one])


def test_every_change_is_drawn_as_often_as_its_probability_says():
    drawn = [draw(AUGMENTATION, np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean([p.rotation_degrees != 0 for p in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([p.scale != 1 for p in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([p.equalize for p in drawn]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([p.blur_sigma > 0 for p in drawn]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([p.mirrored == (1,) for p in drawn]) == pytest.approx(0.5, abs=0.04)
    assert max(abs(p.rotation_degrees) for p in drawn) <= 15
    assert all(0.8 <= p.scale <= 1.25 for p in drawn)


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


def test_equalizing_an_empty_mask_changes_nothing():
    image = np.ones((1, 4, 4), np.float32)
    np.testing.assert_array_equal(equalized(image, np.zeros(image.shape, bool)), image)


def test_blur_is_a_gaussian_in_the_slice():
    image = np.random.default_rng(0).normal(size=(1, 3, 20, 20)).astype(np.float32)
    expected = np.stack([gaussian_filter(plane, 1.5) for plane in image[0]])[None]
    np.testing.assert_allclose(blurred(image, 1.5), expected, atol=1e-5)
