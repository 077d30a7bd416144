import numpy as np
import pytest
import torch
from small_plans import resunet3d_config

from kitspipe.networks.losses import KidneyLoss
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.planning.plan import KidneyLossConfig

LOSS = KidneyLoss(
    KidneyLossConfig(
        mu=0.33,
        mu_decay=0.8,
        mu_every=0.03,
        squared_denominator=True,
        cross_entropy_weight=0.0,
        tumor_weight=1.0,
    )
)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for a busy core make small networks slower, not faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_paper_network_is_as_large_as_its_lineage():
    # assassint2017/MICCAI-LITS2017, net/ResUNet.py: "9498260" trainable parameters.
    config = resunet3d_config(
        channels=(16, 32, 64, 128),
        strides=((2, 2, 2),) * 3,
        convolutions_per_level=(2, 3, 3, 3),
        norm="none",
        activation="prelu",
    )
    assert sum(p.numel() for p in ResUNet3D(config).parameters()) == 9_498_260


def test_parameters_are_as_many_as_counted_by_hand():
    config = resunet3d_config(
        levels=2, channels=(2, 3), strides=((1, 2, 2),), convolutions_per_level=(1, 2)
    )
    by_hand = (
        # kernel * inputs * outputs, then scale and shift of the norm
        (27 * 1 * 2 + 4)  # encoder 1
        + (4 * 2 * 3 + 6)  # down
        + 2 * (27 * 3 * 3 + 6)  # encoder 2
        + (27 * 3 * 6 + 12)  # widen
        + (27 * 3 * 6 + 12 + 27 * 6 * 6 + 12)  # decoder 1
        + (4 * 6 * 4 + 8)  # up
        + (27 * (4 + 2) * 4 + 8)  # decoder 2
        + (6 + 1 + 4 + 1)  # maps
    )
    assert by_hand == 3338
    assert sum(p.numel() for p in ResUNet3D(config).parameters()) == by_hand


def test_every_level_has_its_shape_when_the_bottom_is_odd():
    network, shapes = ResUNet3D(resunet3d_config()), {}
    for name in ("encoder", "decoder"):
        for index, level in enumerate(getattr(network, name)):
            level.register_forward_hook(
                lambda _module, _inputs, features, key=(name, index): shapes.update(
                    {key: tuple(features.shape)}
                )
            )
    network(torch.randn(2, 1, 12, 40, 56))
    assert shapes == {
        ("encoder", 0): (2, 2, 12, 40, 56),
        ("encoder", 1): (2, 4, 12, 20, 28),
        ("encoder", 2): (2, 6, 6, 10, 14),
        ("encoder", 3): (2, 8, 3, 5, 7),
        ("decoder", 0): (2, 16, 3, 5, 7),
        ("decoder", 1): (2, 12, 6, 10, 14),
        ("decoder", 2): (2, 8, 12, 20, 28),
        ("decoder", 3): (2, 4, 12, 40, 56),
    }


@pytest.mark.parametrize("refinement", [(1, 1, 1), (1, 2, 2), (3, 1, 2)])
def test_every_decoder_level_has_a_map_of_the_targets_shape(refinement):
    network = ResUNet3D(resunet3d_config(target_refinement=refinement))
    logits = network(torch.randn(1, 1, 4, 24, 40))
    expected = (1, 1, 4 * refinement[0], 24 * refinement[1], 40 * refinement[2])
    assert [tuple(level.shape) for level in logits] == [expected] * 4


def test_maps_are_upsampled_linearly_between_voxel_centers():
    network, found = ResUNet3D(resunet3d_config()), {}
    network.maps[1].register_forward_hook(lambda _m, _i, features: found.update(low=features))
    logits = network(torch.randn(1, 1, 4, 8, 16))[1][0, 0].detach().numpy()
    expected = found["low"][0, 0].detach().double().numpy()
    for axis, size in enumerate(logits.shape):
        length = expected.shape[axis]
        centers = (np.arange(size) + 0.5) * length / size - 0.5
        expected = np.apply_along_axis(
            lambda line, x=centers: np.interp(x, np.arange(line.size), line), axis, expected
        )
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_maps_go_from_coarse_to_fine():
    network = ResUNet3D(resunet3d_config())
    network(torch.randn(1, 1, 4, 16, 24))[1].sum().backward()
    has_gradient = [any(p.grad is not None for p in level.parameters()) for level in network.maps]
    assert has_gradient == [False, True, False, False]
    reached = [any(p.grad is not None for p in d.parameters()) for d in network.decoder]
    assert reached == [True, True, False, False]


@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
@pytest.mark.parametrize("activation", ["prelu", "leaky_relu"])
def test_every_parameter_learns(norm, activation):
    torch.manual_seed(0)
    network = ResUNet3D(resunet3d_config(norm=norm, activation=activation, dropout=0.3))
    target = torch.zeros(2, 8, 32, 48, dtype=torch.uint8)
    target[:, 2:6, 10:20, 7:31] = 1
    LOSS(network(torch.randn(2, 1, 8, 16, 24)), target, 0.0).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_encoder_levels_add_what_came_in():
    network = ResUNet3D(resunet3d_config(norm="none", activation="prelu")).eval()
    for parameter in network.encoder.parameters():
        torch.nn.init.zeros_(parameter)
    entered = []
    for down in network.down:
        down.register_forward_hook(lambda _m, given, made: entered.append((given[0], made)))
    image = torch.randn(1, 1, 4, 8, 16)
    network(image)
    # A level that makes nothing hands on what it got; the image's one channel goes to all.
    assert torch.equal(entered[0][0], image.expand(1, 2, 4, 8, 16))
    assert torch.equal(entered[1][0], entered[0][1])
    assert torch.equal(entered[2][0], entered[1][1])


def test_decoder_levels_add_what_came_up():
    network = ResUNet3D(resunet3d_config(norm="none", activation="prelu")).eval()
    for parameter in network.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    made, mapped = [], []
    for step in (network.widen, *network.up):
        step.register_forward_hook(lambda _m, _i, features: made.append(features))
    for head in network.maps:
        head.register_forward_hook(lambda _m, given, _o: mapped.append(given[0]))
    network(torch.randn(1, 1, 4, 8, 16))
    assert len(made) == len(mapped) == 4
    for came_up, features in zip(made, mapped, strict=True):
        assert torch.equal(features, came_up)


def test_finest_logits_alone_are_the_last_ones():
    network, image = ResUNet3D(resunet3d_config(dropout=0.5)).eval(), torch.randn(1, 1, 8, 16, 24)
    with torch.inference_mode():
        assert torch.equal(network.forward_finest(image), network(image)[-1])


def test_dropout_acts_in_training_only():
    network, image = ResUNet3D(resunet3d_config(dropout=0.5)), torch.randn(1, 1, 4, 8, 16)
    first, second = network.train()(image), network(image)
    assert not torch.equal(first[-1], second[-1])
    network.eval()
    assert torch.equal(network(image)[-1], network(image)[-1])


def test_dropout_takes_half_of_all_levels_but_the_finest():
    network, dropped = ResUNet3D(resunet3d_config(dropout=0.5)).train(), {}
    for name in ("down", "maps"):
        for index, step in enumerate(getattr(network, name)):
            step.register_forward_hook(
                lambda _m, given, _o, key=(name, index): dropped.update(
                    {key: round((given[0] == 0).double().mean().item(), 1)}
                )
            )
    network(torch.randn(2, 1, 8, 32, 32))
    assert [dropped["down", k] for k in range(3)] == [0.0, 0.5, 0.5]
    assert [dropped["maps", k] for k in range(4)] == [0.5, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("shape", [(6, 8, 8), (4, 12, 8), (4, 8, 20)])
def test_a_shape_that_the_strides_do_not_divide_is_refused(shape):
    with pytest.raises(ValueError, match=r"not divisible by .* \(4, 8, 8\)"):
        ResUNet3D(resunet3d_config())(torch.zeros(1, 1, *shape))


def test_one_patch_is_learned_by_heart():
    torch.manual_seed(0)
    config = resunet3d_config(
        levels=2, channels=(4, 8), strides=((2, 2, 2),), convolutions_per_level=(1, 1)
    )
    network = ResUNet3D(config)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    image = torch.randn(1, 1, 8, 16, 24)
    z, y, x = np.ogrid[:8, :32, :48]
    ellipsoid = ((z - 4) / 3) ** 2 + ((y - 13) / 9) ** 2 + ((x - 20) / 12) ** 2 < 1
    target = torch.from_numpy(ellipsoid[None].astype(np.uint8))
    image += torch.from_numpy(ellipsoid[None, None, :, ::2, ::2].astype(np.float32))
    for step in range(60):
        optimizer.zero_grad()
        LOSS(network(image), target, step / 60).backward()
        optimizer.step()
    predicted = network.eval().forward_finest(image)[:, 0] > 0
    overlap = 2 * (predicted & (target > 0)).sum() / (predicted.sum() + target.sum())
    assert overlap > 0.99
