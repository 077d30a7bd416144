import copy
from itertools import product

import numpy as np
import pytest
import torch

from kitspipe.networks.blocks import (
    AttentionGate,
    Convolutions,
    HybridDilation,
    ResidualBlock,
    SqueezeExcitation,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_of(tensor):
    return tensor.detach().double().numpy()


def test_dilated_bottom_sees_all_offsets_up_to_ten_but_nine():
    block = HybridDilation(1, Convolutions(2, "none", "prelu"))
    for parameter in block.parameters():
        torch.nn.init.ones_(parameter)
    image = torch.ones(1, 1, 31, 31, requires_grad=True)
    block(image)[0, 0, 15, 15].backward()
    rows, columns = np.nonzero(image.grad[0, 0].numpy())
    seen = set(zip((rows - 15).tolist(), (columns - 15).tolist(), strict=True))

    taps = product((-2, 0, 2), (-3, 0, 3), (-5, 0, 5))
    reached = {sum(tap) for tap in taps}
    assert seen == set(product(reached, reached))
    assert reached == set(range(-10, 11)) - {-9, 9}


def test_dilated_bottom_adds_what_came_in():
    block = HybridDilation(3, Convolutions(2, "none", "prelu"))
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.randn(2, 3, 5, 7)
    assert torch.equal(block(image), image)


def test_squeeze_excitation_follows_its_formula():
    torch.manual_seed(0)
    block, x = SqueezeExcitation(6), torch.randn(2, 6, 5, 7)
    w1, b1, w2, b2 = (numpy_of(p) for p in block.parameters())
    mean = numpy_of(x).mean(axis=(2, 3))
    weight = sigmoid(np.maximum(mean @ w1.T + b1, 0) @ w2.T + b2)
    expected = numpy_of(x) * weight[:, :, None, None]
    np.testing.assert_allclose(numpy_of(block(x)), expected, atol=1e-6)


@pytest.mark.parametrize(("channels", "hidden"), [(16, 4), (64, 4), (128, 8), (256, 16)])
def test_squeeze_excitation_keeps_a_sixteenth_but_at_least_four(channels, hidden):
    assert SqueezeExcitation(channels).squeeze.out_features == hidden


def test_attention_gate_follows_its_formula():
    torch.manual_seed(0)
    block = AttentionGate(6)
    skip, gate = torch.randn(2, 6, 5, 7), torch.randn(2, 6, 5, 7)
    wx, wg, b, psi, b_psi = (
        numpy_of(p)
        for p in (
            block.of_skip.weight[:, :, 0, 0],
            block.of_gate.weight[:, :, 0, 0],
            block.of_gate.bias,
            block.psi.weight[:, :, 0, 0],
            block.psi.bias,
        )
    )
    assert wx.shape == (3, 6)
    mixed = np.einsum("hc,ncyx->nhyx", wx, numpy_of(skip))
    mixed += np.einsum("hc,ncyx->nhyx", wg, numpy_of(gate)) + b[:, None, None]
    alpha = sigmoid(np.einsum("oh,nhyx->noyx", psi, np.maximum(mixed, 0)) + b_psi)
    np.testing.assert_allclose(numpy_of(block(skip, gate)), numpy_of(skip) * alpha, atol=1e-6)


def test_residual_block_projects_only_where_channels_differ():
    make = Convolutions(2, "none", "prelu")
    block = ResidualBlock(5, 16, kernel=5, count=2, make=make)
    for parameter in block.convolutions.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 5, 7, 9)
    projected = torch.einsum("oi,niyx->noyx", block.shortcut.weight[:, :, 0, 0], x)
    expected = torch.where(projected > 0, projected, 0.25 * projected)
    torch.testing.assert_close(block(x), expected)
    same = ResidualBlock(6, 6, kernel=5, count=1, make=make)
    assert list(same.shortcut.parameters()) == []


@pytest.mark.parametrize(
    ("norm", "parameters"),
    [
        ("none", 27 * 2 * 3 + 3),  # a bias
        ("instance", 27 * 2 * 3 + 2 * 3),  # scale and shift
        ("batch", 27 * 2 * 3 + 2 * 3),
    ],
)
def test_a_convolution_has_a_bias_or_a_norm(norm, parameters):
    convolution = Convolutions(3, norm, "leaky_relu").same(2, 3, 3)
    assert sum(p.numel() for p in convolution.parameters()) == parameters


def test_down_and_up_by_an_anisotropic_stride_are_inverse_in_size():
    make = Convolutions(3, "instance", "prelu")
    x = torch.randn(1, 2, 3, 10, 14)
    smaller = make.down(2, 4, (1, 2, 2))(x)
    assert smaller.shape == (1, 4, 3, 5, 7)
    assert make.up(4, 2, (1, 2, 2))(smaller).shape == x.shape


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [4, 32])
def test_gradients_in_bfloat16_are_those_of_float64(slices, channels):
    torch.manual_seed(0)
    layer = Convolutions(3, "none", "leaky_relu").same(channels, channels, 3)
    image = torch.randn(2, channels, slices, 8, 8)
    image = image.to(memory_format=torch.channels_last_3d)
    direct = torch.nn.Sequential(*copy.deepcopy(layer)).double()
    direct(image.double()).square().sum().backward()
    # What a kernel reads that is not its own is what was there before.
    before = [torch.full((1 << 22,), 1e30) for _ in range(3)]
    del before
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(image)
    made.float().square().sum().backward()
    for found, expected in zip(layer.parameters(), direct.parameters(), strict=True):
        error = (found.grad.double() - expected.grad).norm() / expected.grad.norm()
        assert error < 0.02
