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

EVERY_MOVE = msgspec.structs.replace(
    NOTHING,
    mirror_axes=("z", "y", "x"),
    rotation_probability=1.0,
    rotation_degrees=40.0,
    scale_probability=1.0,
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
    # rot90 turns Y to X: counter-clockwise where Y runs down, as seen from the feet.
    np.testing.assert_allclose(turned, np.rot90(image, -1, axes=(1, 2)), atol=1e-5)


@given(axes=st.sets(st.sampled_from([1, 2, 3])))
def test_mirroring_twice_gives_the_patch_back(axes):
    patch = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    mirror = AugmentationParameters(mirrored=tuple(axes))
    once = move(patch, mirror, order=1, fill=0)
    np.testing.assert_array_equal(move(once, mirror, order=1, fill=0), patch)


def test_a_disc_in_mm_stays_a_disc_where_pixels_are_oblong():
    y, x = np.mgrid[:101, :51]
    # 0.7 mm x 1.4 mm pixels, an ellipse of 20 mm x 10 mm that a quarter turn lays on its side.
    upright = ((y - 50) * 0.7 / 20) ** 2 + ((x - 25) * 1.4 / 10) ** 2 < 1
    lying = ((y - 50) * 0.7 / 10) ** 2 + ((x - 25) * 1.4 / 20) ** 2 < 1
    quarter = AugmentationParameters(rotation_degrees=90)
    turned = move(upright.astype(np.uint8), quarter, order=0, fill=0, voxel=(0.7, 1.4))
    # Turned in voxels instead of mm: 0.60. The rest to 1 are the border's voxels.
    assert dice(turned > 0, lying) > 0.95


def test_a_replay_is_identical_and_leaves_what_it_got():
    image = np.random.default_rng(0).normal(size=(2, 3, 32, 40)).astype(np.float32)
    given_image = image.copy()
    target = np.zeros((2, 32, 40), np.uint8)
    augment = Augment(AUGMENTATION, fill=-1)
    first, second = (augment(data=image, seg=target, seeds=[(1, 2), (3, 4)]) for _ in range(2))
    np.testing.assert_array_equal(first["data"], second["data"])
    np.testing.assert_array_equal(image, given_image)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_whole_scan_patch_and_its_finer_target_stay_aligned(seed):
    slope = np.stack([ellipse((1, 60, 80), (22 + 3 * z, 50 - 4 * z))[0] for z in range(5)])
    found = Augment(EVERY_MOVE, fill=0)(
        data=slope[None, None].astype(np.float32),
        seg=slope.repeat(2, 1).repeat(2, 2)[None],
        seeds=[(seed,)],
    )
    seen = (found["data"][0, 0] > 0.5).repeat(2, 1).repeat(2, 2)
    for plane, target in zip(seen, found["seg"][0], strict=True):
        assert dice(plane, target > 0) > 0.9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), dtype=st.sampled_from([np.bool_, np.uint8]))
def test_a_slabs_mask_moves_with_its_image_and_target(seed, dtype):
    mask = np.stack([ellipse((1, 60, 80), (22 + z, 50 - z))[0] for z in range(3)]).astype(dtype)
    found = Augment(msgspec.structs.replace(EVERY_MOVE, mirror_axes=("y", "x")), fill=0)(
        data=mask[None].astype(np.float32),
        seg=mask[1][None].astype(np.uint8),
        mask=mask[None],
        seeds=[(seed,)],
    )
    assert found["mask"].dtype == dtype
    assert dice(found["data"][0] > 0.5, found["mask"][0] > 0) > 0.93
    np.testing.assert_array_equal(found["mask"][0, 1] > 0, found["seg"][0] > 0)


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
    parameters = draw(EVERY_MOVE, np.random.default_rng(seed))
    coarse = ellipse()
    fine = coarse.repeat(refinement[0], 1).repeat(refinement[1], 2)
    image = move(coarse.astype(np.float32), parameters, order=1, fill=0)
    voxel = (1 / refinement[0], 1 / refinement[1])
    target = move(fine, parameters, order=0, fill=0, voxel=voxel)
    seen = (image > 0.5).repeat(refinement[0], 1).repeat(refinement[1], 2)
    assert dice(seen, target > 0) > 0.93


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(3)), number=st.integers(1, 3))
def test_a_patch_is_changed_alike_whatever_stands_beside_it(order, number):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 5, 32, 40)).astype(np.float32)
    target = rng.integers(0, 3, (3, 32, 40)).astype(np.uint8)
    mask = rng.random((3, 5, 32, 40)) < 0.5
    augment = Augment(AUGMENTATION, fill=-1)
    seeds = [(7, 0, 1), (7, 0, 2), (7, 0, 3)]
    whole = augment(data=image, seg=target, mask=mask, seeds=seeds)
    some = list(order)[:number]
    chosen = [seeds[index] for index in some]
    beside = augment(data=image[some], seg=target[some], mask=mask[some], seeds=chosen)
    for key in ("data", "seg", "mask"):
        np.testing.assert_array_equal(beside[key], whole[key][some])


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


@pytest.mark.parametrize("value", [-1.0, 0.0, 3.0])
def test_equalizing_a_single_value_changes_nothing(value):
    image = np.full((1, 4, 4), value, np.float32)
    np.testing.assert_array_equal(equalized(image, np.ones(image.shape, bool)), image)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_only_the_inside_of_the_mask_is_equalized(dtype):
    config = msgspec.structs.replace(NOTHING, equalization_probability=1.0)
    image = np.random.default_rng(0).beta(2, 8, size=(1, 3, 20, 30)).astype(np.float32)
    mask = np.zeros(image.shape, dtype)
    mask[..., 5:15, 10:25] = 1
    target = np.zeros((1, 20, 30), np.uint8)
    found = Augment(config, fill=0)(data=image, seg=target, mask=mask, seeds=[(1,)])["data"]
    inside = mask > 0
    np.testing.assert_array_equal(found[~inside], image[~inside])
    np.testing.assert_array_equal(found[inside], equalized(image, inside)[inside])


def test_equalizing_an_empty_mask_changes_nothing():
    image = np.ones((1, 4, 4), np.float32)
    np.testing.assert_array_equal(equalized(image, np.zeros(image.shape, bool)), image)


def test_blur_is_a_gaussian_in_the_slice():
    image = np.random.default_rng(0).normal(size=(1, 3, 20, 20)).astype(np.float32)
    expected = np.stack([gaussian_filter(plane, 1.5) for plane in image[0]])[None]
    np.testing.assert_allclose(blurred(image, 1.5), expected, atol=1e-5)
