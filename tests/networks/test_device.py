import platform
from pathlib import Path

import pytest
import torch
from small_plans import small_kidney_plan, small_tumor_plan

from kitspipe.errors import UserError
from kitspipe.networks import device as devices
from kitspipe.networks.device import autocast, memory_format, pick_device, put_on
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D


def kidney_network():
    return ResUNet3D(small_kidney_plan().network).eval()


def tumor_network():
    return VNet25D(small_tumor_plan().network).eval()


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "expected"),
    [
        (False, False, "cpu"),
        (False, True, "mps"),
        (True, False, "cuda"),
        (True, True, "cuda"),
    ],
)
def test_auto_takes_the_fastest_that_is_there(monkeypatch, has_cuda, has_mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert pick_device("auto") == torch.device(expected)


def test_a_named_device_is_taken_whatever_else_is_there():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_is_taken_where_it_is(name):
    assert torch.empty(1, device=pick_device(name)).is_cuda


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpu",
        "CPU",
        "cuda:x",
        "cuda:-1",
        "cuda:99",
        "meta",  # torch makes tensors there, without values
        "mkldnn",  # torch warns
        "hpu",  # torch looks for another package
        "privateuseone",
        "xla:0",
    ],
)
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(UserError) as caught:
        pick_device(name)
    assert caught.value.file == f"--device {name}"
    assert caught.value.found.startswith("no such device: ")
    assert "\n" not in caught.value.found
    assert "cuda:N" in caught.value.expected
    assert "leave --device out" in caught.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_is_refused_where_it_is_not(name):
    with pytest.raises(UserError, match=r"no such device: .*CUDA"):
        pick_device(name)


@pytest.mark.parametrize(
    ("make", "expected"),
    [(kidney_network, torch.channels_last_3d), (tumor_network, torch.channels_last)],
)
def test_kernels_of_a_placed_network_have_channels_last(make, expected):
    network = make()
    assert memory_format(network) is expected
    assert put_on(network, torch.device("cpu")) is network
    kernels = [p for p in network.parameters() if p.dim() >= 4]
    assert len(kernels) > 5
    assert all(kernel.is_contiguous(memory_format=expected) for kernel in kernels)
    assert not all(kernel.is_contiguous() for kernel in kernels)


@pytest.mark.parametrize(
    ("make", "shape"), [(kidney_network, (1, 1, 4, 8, 12)), (tumor_network, (1, 3, 12, 20))]
)
def test_a_placed_network_says_the_same(make, shape):
    torch.manual_seed(0)
    network, image = make(), torch.randn(shape)
    with torch.inference_mode():
        before = network(image)
        after = put_on(network, torch.device("cpu"))(
            image.contiguous(memory_format=memory_format(network))
        )
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize(
    ("features", "vendor", "expected"),
    [
        ({"amx_tile", "avx512_bf16"}, "GenuineIntel", torch.bfloat16),
        ({"avx512_bf16"}, "GenuineIntel", None),
        ({"avx512_bf16"}, "AuthenticAMD", torch.bfloat16),
        ({"avx512_bf16"}, "", None),
        (set(), "AuthenticAMD", None),
    ],
)
def test_bfloat16_where_the_processor_is_faster_with_it(monkeypatch, features, vendor, expected):
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda n=name: n in features)
    monkeypatch.setattr(devices, "_cpu_vendor", lambda: vendor)
    layer, cpu = torch.nn.Conv3d(1, 1, 1), torch.device("cpu")
    image = torch.zeros(1, 1, 1, 1, 1)
    with autocast(cpu):
        assert layer(image).dtype == (expected or torch.float32)
    with autocast(cpu, "float32"):
        assert layer(image).dtype == torch.float32
    with autocast(cpu, "bfloat16"):
        assert layer(image).dtype == torch.bfloat16


def test_torch_that_knows_no_such_feature_computes_in_float32(monkeypatch):
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    with autocast(torch.device("cpu")):
        assert torch.nn.Conv3d(1, 1, 1)(torch.zeros(1, 1, 1, 1, 1)).dtype == torch.float32


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/cpuinfo")
def test_the_vendor_is_the_kernels():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    said = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    assert devices._cpu_vendor() == (said[0] if said else "")
