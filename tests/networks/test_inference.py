"""Networks made ready for prediction give what the networks that were trained give."""

import copy

import msgspec
import pytest
import torch
from small_plans import resunet3d_config, small_tumor_plan
from torch import nn

from kitspipe.networks import inference
from kitspipe.networks.device import autocast
from kitspipe.networks.inference import for_prediction
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D

CPU = torch.device("cpu")
SHAPES = {
    "slabs with a rest": (1, 1, 20, 16, 24),
    "one thin slab": (1, 1, 4, 16, 16),
    "whole slabs, two samples": (2, 1, 16, 16, 16),
}


def trained(network):
    """Norms and slopes as a training leaves them, none at its start."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.InstanceNorm3d | nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                if module.running_mean is not None:
                    nn.init.uniform_(module.running_mean, -0.5, 0.5)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
            if isinstance(module, nn.PReLU):
                nn.init.uniform_(module.weight, 0.0, 0.5)
    return network.eval()


@torch.inference_mode()
def outputs(network, image):
    return [network.forward_finest(image), *(network.forward_coarse(image, n) for n in (1, 2))]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("norm", "activation"),
    [("instance", "leaky_relu"), ("batch", "prelu"), ("none", "prelu")],
)
def test_the_kidney_network_says_the_same(norm, activation, shape):
    config = resunet3d_config(norm=norm, activation=activation, dropout=0.3)
    plain = trained(ResUNet3D(config))
    ready = for_prediction(copy.deepcopy(plain), CPU)
    image = torch.randn(shape)
    before = image.clone()
    for expected, found in zip(outputs(plain, image), outputs(ready, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(image, before, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_tumor_network_says_the_same(norm):
    plan = small_tumor_plan()
    config = msgspec.structs.replace(plan.network, norm=norm)
    plain = trained(VNet25D(config))
    ready = for_prediction(copy.deepcopy(plain), CPU)
    slabs = torch.randn(3, 3, 32, 40)
    with torch.inference_mode():
        torch.testing.assert_close(ready(slabs), plain(slabs), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_near_as_it_is_for_the_network_as_trained():
    plain = trained(ResUNet3D(resunet3d_config()))
    ready = for_prediction(copy.deepcopy(plain), CPU)
    image = torch.randn(1, 1, 16, 32, 32)
    with torch.inference_mode():
        exact = torch.sigmoid(plain.forward_finest(image))
        with autocast(CPU, "bfloat16"):
            expected = torch.sigmoid(plain.forward_finest(image).float())
            found = torch.sigmoid(ready.forward_finest(image).float())
    allowed = max(0.02, 1.5 * float((expected - exact).abs().max()))
    assert float((found - exact).abs().max()) < allowed


def test_made_ready_twice_is_made_ready_once():
    plain = trained(ResUNet3D(resunet3d_config(norm="batch")))
    twice = for_prediction(for_prediction(copy.deepcopy(plain), CPU), CPU)
    image = torch.randn(1, 1, 8, 16, 16)
    for expected, found in zip(outputs(plain, image), outputs(twice, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_onednn_convolutions_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = trained(ResUNet3D(resunet3d_config()))
    ready = for_prediction(copy.deepcopy(plain), CPU)
    assert not any(isinstance(m, inference._Convolution) for m in ready.modules())
    image = torch.randn(1, 1, 8, 16, 16)
    for expected, found in zip(outputs(plain, image), outputs(ready, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mean", [1, 30])
def test_an_instance_norm_of_a_large_map_is_exact(mean):
    # Far more voxels than float32 can add up one after the other, and no multiple of a slab.
    x = (2 * torch.randn(1, 2, 37, 192, 192) + mean).to(memory_format=torch.channels_last_3d)
    norm = nn.InstanceNorm3d(2, affine=True)
    exact = x.double()
    exact -= exact.mean((2, 3, 4), keepdim=True)
    exact /= (exact.square().mean((2, 3, 4), keepdim=True) + norm.eps).sqrt()
    with torch.inference_mode():
        found = inference._InstanceNorm(norm)(x)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-4)
