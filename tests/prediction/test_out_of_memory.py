import dataclasses

import numpy as np
import pytest
import torch
from small_data import painted
from small_model import write_model
from torch import nn

from kitspipe import console
from kitspipe.networks import inference
from kitspipe.prediction.out_of_memory import is_out_of_memory
from kitspipe.prediction.run import load_cascade, segment_anyhow
from kitspipe.workspace import Workspace


class OnlyOnCpu(nn.Module):
    """A network that its GPU has no room for."""

    def __init__(self, network):
        super().__init__()
        self.network, self.device = network, Gpu()

    def to(self, device=None, **options):
        self.device = self.device if device is None else device
        self.network.to(**options)
        return self

    def _network(self):
        if str(self.device) != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network

    def forward_finest(self, image):
        return self._network().forward_finest(image)

    def forward_coarse(self, image, below):
        return self._network().forward_coarse(image, below)

    def forward(self, slab):
        return self._network()(slab)


class Gpu:
    """Looks like a GPU to the code that decides."""

    type = "cuda"


@pytest.fixture
def cascade(tmp_path):
    return load_cascade(write_model(tmp_path, seed=2), None, "cpu")


def test_a_scan_too_large_for_the_gpu_is_segmented_on_the_cpu_and_that_is_said(cascade, tmp_path):
    image, _ = painted(0)
    # On a GPU, layers are torch's own; on the CPU they are replaced.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "_replace", lambda network: None)
        plain = load_cascade(Workspace(root=tmp_path), None, "cpu")
    kidney, tumor = OnlyOnCpu(plain.kidney[0]), OnlyOnCpu(plain.tumor[0])
    full = dataclasses.replace(cascade, kidney=[kidney], tumor=[tumor], device=Gpu())
    maps = []
    with console.collected_warnings() as warnings, pytest.MonkeyPatch.context() as patch:
        # The only thing that this machine can't do: move a tensor to a GPU.
        to = torch.Tensor.to
        patch.setattr(
            torch.Tensor, "to", lambda t, d, *a, **k: t if isinstance(d, Gpu) else to(t, d, *a, **k)
        )
        found = segment_anyhow(image, full, maps)
    assert warnings[-1] == "out of GPU memory with a single patch: segmented on the CPU"
    np.testing.assert_array_equal(found.labels.array, segment_anyhow(image, cascade).labels.array)
    assert [m.name for m in maps].count("kidney") == 1
    # The next scan is tried on the GPU again.
    assert kidney.device is full.device


def test_on_the_cpu_it_is_not_tried_again(cascade):
    full = dataclasses.replace(cascade, kidney=[OnlyOnCpu(cascade.kidney[0])])
    with pytest.raises(torch.OutOfMemoryError):
        segment_anyhow(painted(0)[0], full)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_what_counts_as_too_little_memory(error, expected):
    assert is_out_of_memory(error) == expected


def test_torchs_own_message_on_the_cpu_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_out_of_memory(error.value)
