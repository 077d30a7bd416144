import math
from itertools import product

import msgspec
import numpy as np
import pytest
import torch

from kitspipe.networks.losses import TumorLoss
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.plan import TumorLossConfig, VNet25DConfig

SWITCHES = ("multi_scale", "squeeze_excitation", "attention_gates", "dilated_bottom")
LOSS = TumorLoss(
    TumorLossConfig(
        focal_weight=1,
        dice_weight=1,
        gamma=2,
        alpha=0.75,
        foreground_weight=1,
        background_weight=0.1,
        prior=0.01,
    )
)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for a busy core make small networks slower, not faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_config(**edits):
    values = {
        "slab_depth": 5,
        "levels": 3,
        "channels": (4, 8, 12),
        "convolutions_per_level": (1, 2, 1),
        "kernel_size": 5,
        "norm": "instance",
        "activation": "prelu",
        "classes": 2,
        "multi_scale": True,
        "squeeze_excitation": True,
        "attention_gates": True,
        "dilated_bottom": True,
        "mask_channel": False,
    }
    return VNet25DConfig(**values | edits)


TINY = make_config(
    slab_depth=3,
    levels=2,
    channels=(2, 4),
    convolutions_per_level=(1, 1),
    norm="none",
    classes=1,
)
# Weights, biases, PReLU slopes.
TINY_PARAMETERS = (
    (25 * 3 * 2 + 2 + 2)  # encoder 1
    + (3 * 2 + 2)  # its projection and activation
    + (4 * 2 * 4 + 4 + 4)  # down
    + (25 * 4 * 4 + 4 + 4 + 4)  # encoder 2
    + (4 * 4 * 2 + 2 + 2)  # up
    + (25 * 4 * 4 + 4 + 4 + 4)  # decoder 1
    + (4 + 1)  # head
)
OF_SWITCH = {
    "multi_scale": (9 * 3 * 4 + 4 + 4) + (8 * 4 + 4 + 4),
    "squeeze_excitation": (4 * 4 + 4) + (4 * 4 + 4),
    "attention_gates": 2 * 1 + (2 * 1 + 1) + (1 + 1),
    "dilated_bottom": 3 * (9 * 4 * 4 + 4 + 4),
}


COUNTS = {"convolutions_per_level": (1, 1)}


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameters_are_as_many_as_counted_by_hand():
    assert TINY_PARAMETERS + sum(OF_SWITCH.values()) == 1726
    assert count(VNet25D(TINY)) == 1726


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_takes_away_its_own_parameters_only(switch):
    off = VNet25D(msgspec.structs.replace(TINY, **{switch: False}))
    assert count(off) == 1726 - OF_SWITCH[switch]
    assert set(off.state_dict()) < set(VNet25D(TINY).state_dict())


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_logits_depend_on_each_switch(switch):
    torch.manual_seed(0)
    config = make_config(norm="none")
    on = VNet25D(config).eval()
    off = VNet25D(msgspec.structs.replace(config, **{switch: False})).eval()
    off.load_state_dict({name: on.state_dict()[name] for name in off.state_dict()})
    own = [p for name, p in on.named_parameters() if name not in dict(off.named_parameters())]
    slab = torch.randn(4, 5, 20, 28)
    logits = on(slab)
    assert (logits - off(slab)).abs().max() > 1e-4
    gradients = torch.autograd.grad(logits.square().sum(), own)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_works_alone(switch):
    alone = make_config(**{other: other == switch for other in SWITCHES})
    assert VNet25D(alone)(torch.randn(2, 5, 8, 12)).shape == (2, 2, 8, 12)


def test_every_level_has_its_shape_when_the_bottom_is_odd():
    network, shapes = VNet25D(make_config()), {}
    for name in ("encoder", "decoder"):
        for index, level in enumerate(getattr(network, name)):
            level.register_forward_hook(
                lambda _module, _inputs, features, key=(name, index): shapes.update(
                    {key: tuple(features.shape)}
                )
            )
    assert network(torch.randn(3, 5, 20, 28)).shape == (3, 2, 20, 28)
    assert shapes == {
        ("encoder", 0): (3, 4, 20, 28),
        ("encoder", 1): (3, 8, 10, 14),
        ("encoder", 2): (3, 12, 5, 7),
        ("decoder", 0): (3, 16, 10, 14),
        ("decoder", 1): (3, 8, 20, 28),
    }


@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
def test_every_parameter_learns(norm):
    torch.manual_seed(3)
    network = VNet25D(make_config(norm=norm))
    target = torch.randint(0, 3, (4, 20, 28), dtype=torch.uint8)
    LOSS(network(torch.randn(4, 5, 20, 28)), target).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_levels_see_the_slab_averaged_to_their_scale():
    network, seen = VNet25D(make_config()), []
    for arrival in network.arrive:
        arrival.of_slab.register_forward_hook(lambda _m, given, _o: seen.append(given[0].numpy()))
    slab = torch.randn(2, 5, 20, 28)
    network(slab)
    for level, scaled in enumerate(seen, start=1):
        f = 2**level
        blocks = slab.numpy().reshape(2, 5, 20 // f, f, 28 // f, f)
        np.testing.assert_allclose(scaled, blocks.mean(axis=(3, 5)), atol=1e-6)
    assert len(seen) == 2


def test_what_passes_an_open_gate_is_the_encoders():
    network, made, joined = VNet25D(make_config()).eval(), [], []
    for gate, level, decoder in zip(
        network.gates, reversed(network.encoder[:-1]), network.decoder, strict=True
    ):
        torch.nn.init.constant_(gate.psi.bias, 100)
        level.register_forward_hook(lambda _m, _i, features: made.insert(0, features))
        decoder.register_forward_hook(lambda _m, given, _o: joined.append(given[0]))
    network(torch.randn(1, 5, 8, 12))
    for skip, both in zip(made, joined, strict=True):
        assert torch.equal(both[:, skip.shape[1] :], skip)


def test_bottom_sees_all_offsets_up_to_ten_but_nine():
    torch.manual_seed(0)
    network, kept = VNet25D(make_config(levels=2, channels=(2, 4), norm="none", **COUNTS)), {}
    network.bottom.register_forward_hook(
        lambda _m, given, features: kept.update(given=given[0], features=features)
    )
    network(torch.randn(1, 5, 54, 58))
    (gradient,) = torch.autograd.grad(kept["features"][0, :, 13, 14].square().sum(), kept["given"])
    seen = gradient[0].abs().amax(dim=0).nonzero() - torch.tensor([13, 14])
    offsets = [offset for offset in range(-10, 11) if abs(offset) != 9]
    assert [tuple(offset) for offset in seen.tolist()] == list(product(offsets, offsets))


def test_all_slices_of_the_slab_count():
    torch.manual_seed(0)
    slab = torch.randn(1, 5, 8, 12, requires_grad=True)
    VNet25D(make_config())(slab).square().sum().backward()
    assert (slab.grad.abs().amax(dim=(0, 2, 3)) > 0).all()


@pytest.mark.parametrize("prior", [0.01, 0.3])
def test_an_untrained_network_says_the_prior(prior):
    network = VNet25D(make_config())
    network.set_prior(prior)
    torch.nn.init.zeros_(network.head.weight)
    probability = torch.sigmoid(network(torch.randn(1, 5, 8, 12)))
    torch.testing.assert_close(probability, torch.full((1, 2, 8, 12), prior))
    assert network.head.bias[0].item() == pytest.approx(-math.log((1 - prior) / prior))


@pytest.mark.parametrize("shape", [(3, 8, 12), (5, 10, 12), (5, 8, 13)])
def test_another_depth_or_an_indivisible_slice_is_refused(shape):
    with pytest.raises(ValueError, match=r"is not \(N, 5, Y, X\) with Y and X divisible by 4"):
        VNet25D(make_config())(torch.zeros(1, *shape))


def test_one_slab_is_learned_by_heart():
    torch.manual_seed(0)
    network = VNet25D(make_config(levels=2, channels=(4, 8), convolutions_per_level=(1, 1)))
    network.set_prior(0.01)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    y, x = np.ogrid[:32, :40]
    tumor = (y - 10) ** 2 + (x - 14) ** 2 < 40
    cyst = (y - 22) ** 2 + (x - 29) ** 2 < 30
    target = torch.from_numpy((tumor + 2 * cyst).astype(np.uint8))[None]
    slab = torch.randn(1, 5, 32, 40) + target[:, None]
    for _ in range(80):
        optimizer.zero_grad()
        LOSS(network(slab), target).backward()
        optimizer.step()
    predicted = network.eval()(slab)[0] > 0
    for found, true in zip(predicted.numpy(), (tumor, cyst), strict=True):
        assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.99
