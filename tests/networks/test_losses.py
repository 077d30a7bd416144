import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kitspipe.networks.losses import KidneyLoss, TumorLoss
from kitspipe.planning.plan import KidneyLossConfig, TumorLossConfig


def kidney_loss(**edits):
    values = {
        "mu": 0.33,
        "mu_decay": 0.8,
        "mu_every": 0.03,
        "squared_denominator": True,
        "cross_entropy_weight": 0.0,
        "tumor_weight": 1.0,
    }
    return KidneyLoss(KidneyLossConfig(**values | edits))


def tumor_loss(**edits):
    values = {
        "focal_weight": 1,
        "dice_weight": 1,
        "gamma": 2,
        "alpha": 0.75,
        "foreground_weight": 1,
        "background_weight": 0.1,
        "prior": 0.01,
    }
    return TumorLoss(TumorLossConfig(**values | edits))


def logit(probability):
    return torch.tensor(probability, dtype=torch.float64).logit().float()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_dice_of_two_voxels_by_hand():
    # p = (0.5, 0.25), g = (1, 0): 2 sum(pg) = 1, sum(p^2) = 0.3125, sum(p) = 0.75, sum(g) = 1.
    logits = logit([0.5, 0.25]).reshape(1, 1, 1, 1, 2)
    target = torch.tensor([1, 0], dtype=torch.uint8).reshape(1, 1, 1, 2)
    squared = kidney_loss(squared_denominator=True)([logits], target, 0.0)
    plain = kidney_loss(squared_denominator=False)([logits], target, 0.0)
    assert squared.item() == pytest.approx(1 - 1 / (0.3125 + 1 + 1))
    assert plain.item() == pytest.approx(1 - (1 + 1) / (0.75 + 1 + 1))


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 4, 5])
def test_kidney_loss_is_the_papers_sum_over_maps(squared, levels):
    rng = np.random.default_rng(levels)
    logits = rng.normal(scale=3, size=(levels, 2, 1, 3, 5, 7))
    target = (rng.random((2, 3, 5, 7)) < 0.3).astype(np.uint8)
    by_level = []
    for level in logits:
        dice = []
        for p, g in zip(sigmoid(level[:, 0]), target.astype(float), strict=True):
            if squared:
                dice.append(2 * (p * g).sum() / ((p**2).sum() + (g**2).sum() + 1))
            else:
                dice.append((2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1))
        by_level.append(1 - np.mean(dice))
    expected = 0.33 * 0.8**2 * sum(by_level[:-1]) + by_level[-1]
    found = kidney_loss(squared_denominator=squared)(
        [torch.from_numpy(level).float() for level in logits], torch.from_numpy(target), 0.07
    )
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("epochs", "percent"), [(500, 3), (1000, 3), (10, 10), (100, 7)])
def test_mu_falls_with_each_share_of_the_epochs(epochs, percent):
    # Whole numbers for the reference: in floats 3 / 10 / 0.1 is below 3.
    loss = kidney_loss(mu_every=percent / 100)
    found = [loss.mu(epoch / epochs) for epoch in range(epochs)]
    assert found == [0.33 * 0.8 ** (100 * epoch // (percent * epochs)) for epoch in range(epochs)]


def test_mu_of_the_papers_epochs():
    loss = kidney_loss()
    assert [loss.mu(epoch / 500) for epoch in (0, 14, 15)] == [0.33, 0.33, 0.33 * 0.8]
    assert loss.mu(499 / 500) == pytest.approx(2.09e-4, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_whatever_is_above_0_is_kidney(dtype):
    target = torch.zeros(1, 2, 3, 4, dtype=torch.uint8)
    target[0, 0, 1] = 1
    logits = [torch.randn(1, 1, 2, 3, 4)]
    expected = kidney_loss()(logits, target, 0.0)
    assert kidney_loss()(logits, (target * 2).to(dtype), 0.0) == expected


def test_focal_loss_of_one_pixel_by_hand():
    loss = tumor_loss(dice_weight=0)
    # p = 0.25 for a tumor pixel (alpha 0.75, 1 - p_t = 0.75) and for a background pixel.
    logits = logit([[[[0.25]]]])
    tumor = loss(logits, torch.ones(1, 1, 1, dtype=torch.uint8))
    background = loss(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert tumor.item() == pytest.approx(0.75 * 0.75**2 * math.log(4))
    assert background.item() == pytest.approx(0.25 * 0.25**2 * math.log(4 / 3))


def test_focal_loss_without_modulation_is_cross_entropy():
    logits, target = torch.randn(2, 1, 3, 5), torch.randint(0, 2, (2, 3, 5), dtype=torch.uint8)
    found = tumor_loss(dice_weight=0, gamma=0, alpha=0.5)(logits, target)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    torch.testing.assert_close(found, 0.5 * expected)


def test_weighted_dice_of_two_pixels_by_hand():
    # p = (0.5, 0.25), g = (1, 0): foreground (1 + 1) / (0.75 + 1 + 1);
    # background 1 - p = (0.5, 0.75), 1 - g = (0, 1): (1.5 + 1) / (1.25 + 1 + 1).
    logits = logit([0.5, 0.25]).reshape(2, 1, 1, 1)
    target = torch.tensor([1, 0], dtype=torch.uint8).reshape(2, 1, 1)
    found = tumor_loss(focal_weight=0, foreground_weight=2, background_weight=0.5)(logits, target)
    assert found.item() == pytest.approx(2 * (1 - 2 / 2.75) + 0.5 * (1 - 2.5 / 3.25))


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_tumor_loss_is_the_mean_over_classes(classes, gamma):
    rng = np.random.default_rng(7)
    logits = rng.normal(scale=4, size=(3, classes, 5, 7))
    target = rng.integers(0, 3, (3, 5, 7)).astype(np.uint8)
    losses = []
    for k in range(classes):
        p, g = sigmoid(logits[:, k]), target == k + 1
        p_t, alpha_t = np.where(g, p, 1 - p), np.where(g, 0.75, 0.25)
        focal = (-alpha_t * (1 - p_t) ** gamma * np.log(p_t)).mean()
        foreground = 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
        background = 1 - (2 * ((1 - p) * ~g).sum() + 1) / ((1 - p).sum() + (~g).sum() + 1)
        losses.append(0.7 * focal + 1.5 * (foreground + 0.1 * background))
    found = tumor_loss(focal_weight=0.7, dice_weight=1.5, gamma=gamma)(
        torch.from_numpy(logits).float(), torch.from_numpy(target)
    )
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_cyst_is_background_where_cysts_are_not_a_class():
    logits, target = torch.randn(1, 1, 3, 5), torch.full((1, 3, 5), 2, dtype=torch.uint8)
    assert tumor_loss()(logits, target) == tumor_loss()(logits, torch.zeros_like(target))


def test_both_losses_compute_in_float32():
    logits = (torch.randn(2, 2, 1, 9, 7) * 3).to(torch.bfloat16)
    target = torch.randint(0, 2, (2, 1, 9, 7), dtype=torch.uint8)
    kidney, tumor = kidney_loss(), tumor_loss()
    with torch.autocast("cpu", torch.bfloat16):
        found = kidney([logits[:, :1]], target, 0.0), tumor(logits[:, :, 0], target[:, 0])
    exact = logits.float()
    # Sums may differ in their last bit; in bfloat16 they would in the third digit.
    expected = kidney([exact[:, :1]], target, 0.0), tumor(exact[:, :, 0], target[:, 0])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("is_empty", [True, False])
@pytest.mark.parametrize("squared", [True, False])
def test_kidney_loss_and_its_gradient_are_finite(dtype, scale, is_empty, squared):
    logits = [(torch.randn(2, 1, 3, 5, 7) * scale).to(dtype).requires_grad_() for _ in range(2)]
    target = torch.zeros(2, 3, 5, 7, dtype=torch.uint8)
    target[1, 1:] = 0 if is_empty else 1
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = kidney_loss(squared_denominator=squared)(logits, target, 0.5)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(level.grad).all() for level in logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_tumor_loss_and_its_gradient_are_finite(dtype, scale, label, gamma):
    logits = (torch.randn(2, 2, 5, 7) * scale).to(dtype).requires_grad_()
    target = torch.full((2, 5, 7), label, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = tumor_loss(gamma=gamma)(logits, target, 0.5)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("label", [0, 1])
def test_certain_and_right_costs_nothing(label):
    target = torch.full((2, 4, 6, 8), label, dtype=torch.uint8)
    logits = torch.full((2, 1, 4, 6, 8), 1e4 if label else -1e4)
    plain = kidney_loss(squared_denominator=False)([logits] * 3, target, 0.0)
    assert plain.item() == pytest.approx(0, abs=1e-6)
    assert tumor_loss()(logits[:, :, 0], target[:, 0]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("voxels", [1, 7, 96])
def test_certain_and_right_costs_one_voxel_with_squares(voxels):
    # 2 n / (n + n + 1), n voxels of kidney.
    target = torch.zeros(1, 4, 6, 8, dtype=torch.uint8)
    target.view(-1)[:voxels] = 1
    logits = torch.where(target > 0, 1e4, -1e4)[:, None]
    found = kidney_loss(squared_denominator=True)([logits], target, 0.0)
    assert found.item() == pytest.approx(1 / (2 * voxels + 1), rel=1e-4)


# Of 2 samples with 2 classes, 3 x 2 pixels each.
SHAPE = (2, 2, 3, 2)
LOGITS = hnp.arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32))
TARGETS = hnp.arrays(np.uint8, (2, 3, 2), elements=st.integers(0, 2))
PIXELS = st.tuples(*(st.integers(0, size - 1) for size in SHAPE))


@given(LOGITS, TARGETS, PIXELS, st.floats(0.5, 4), st.booleans(), st.integers(0, 1))
def test_a_kidney_logit_that_moves_toward_its_target_costs_less(
    logits, target, pixel, step, squared, level
):
    # Any level of two may move; classes are taken as slices, so g is there for all of them.
    g = np.stack((target > 0, target > 1), axis=1)
    levels = [torch.from_numpy(logits)[:, None].clone() for _ in range(2)]
    loss = kidney_loss(squared_denominator=squared)
    before = loss(levels, torch.from_numpy(g), 0.0)
    levels[level][pixel[0], 0][pixel[1:]] += step if g[pixel] else -step
    after = loss(levels, torch.from_numpy(g), 0.0)
    if squared and not g[pixel[0]].any():
        assert after == before  # an empty sample costs 1, whatever is predicted
    else:
        assert after < before


@given(LOGITS, TARGETS, PIXELS, st.floats(0.5, 4), st.sampled_from([0, 0.5, 2]))
def test_a_tumor_logit_that_moves_toward_its_target_costs_less(logits, target, pixel, step, gamma):
    sample, class_index, y, x = pixel
    moved = logits.copy()
    moved[pixel] += step if target[sample, y, x] == class_index + 1 else -step
    for weights in ({"focal_weight": 0}, {"dice_weight": 0}, {}):
        loss = tumor_loss(gamma=gamma, **weights)
        before = loss(torch.from_numpy(logits), torch.from_numpy(target))
        assert loss(torch.from_numpy(moved), torch.from_numpy(target)) < before


@given(st.permutations(range(4)), st.integers(0, 2**32 - 1), st.booleans())
def test_the_order_of_the_batch_does_not_count(order, seed, squared):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(scale=3, size=(4, 2, 5, 3)).astype(np.float32))
    target = torch.from_numpy(rng.integers(0, 3, (4, 5, 3)).astype(np.uint8))
    kidney, tumor = kidney_loss(squared_denominator=squared), tumor_loss()
    volumes, masks = logits[:, :1, None], target[:, None]
    torch.testing.assert_close(
        kidney([volumes[order]] * 2, masks[order], 0.0), kidney([volumes] * 2, masks, 0.0)
    )
    torch.testing.assert_close(tumor(logits[order], target[order]), tumor(logits, target))


def test_cross_entropy_is_added_to_each_map_with_its_weight():
    rng = np.random.default_rng(0)
    logits = [torch.from_numpy(rng.normal(size=(2, 1, 3, 4, 5))).float() for _ in range(2)]
    target = torch.from_numpy(rng.integers(0, 2, (2, 3, 4, 5)).astype(np.uint8))
    p, g = (1 / (1 + np.exp(-x.numpy().astype(np.float64)[:, 0])) for x in logits), target.numpy()
    coarse, finest = (-np.mean(g * np.log(q) + (1 - g) * np.log(1 - q)) for q in p)
    with_it = kidney_loss(cross_entropy_weight=0.7)(logits, target, 0.0)
    without = kidney_loss()(logits, target, 0.0)
    assert (with_it - without).item() == pytest.approx(0.7 * (0.33 * coarse + finest), abs=1e-6)


@pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
def test_tumor_voxels_count_by_their_weight_in_the_kidneys_cross_entropy(weight):
    rng = np.random.default_rng(1)
    logits = [torch.from_numpy(rng.normal(size=(2, 1, 3, 4, 5))).float() for _ in range(2)]
    target = torch.from_numpy(rng.integers(0, 3, (2, 3, 4, 5)).astype(np.uint8))
    g, w = target.numpy() > 0, np.where(target.numpy() == 2, weight, 1.0)
    p = (sigmoid(x.numpy().astype(np.float64)[:, 0]) for x in logits)
    coarse, finest = (-np.mean(w * np.log(np.where(g, q, 1 - q))) for q in p)
    with_it = kidney_loss(cross_entropy_weight=0.7, tumor_weight=weight)(logits, target, 0.0)
    without = kidney_loss()(logits, (target > 0).byte(), 0.0)
    assert (with_it - without).item() == pytest.approx(0.7 * (0.33 * coarse + finest), abs=1e-6)
