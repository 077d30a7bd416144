from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from small_plans import small_kidney_plan, small_tumor_plan
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kitspipe.networks.device import memory_format, put_on
from kitspipe.networks.losses import KidneyLoss, TumorLoss
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.memory import (
    fitting_batch,
    kidney_kept_values,
    kidney_parameters,
    kidney_training_bytes,
    stage_bytes,
    tumor_kept_values,
    tumor_parameters,
    tumor_training_bytes,
)
from kitspipe.planning.plan import KidneyPlan
from kitspipe.training.schedule import make_optimizer

KIDNEY, TUMOR = small_kidney_plan(), small_tumor_plan()
KIDNEY_PATCH, TUMOR_PATCH = (8, 16, 24), (32, 40)
VALUE_BYTES = 4

KIDNEY_CONFIGS = [
    replace(KIDNEY.network, **edits)
    for edits in (
        {},
        {"norm": "batch", "activation": "prelu"},
        {"norm": "none", "activation": "prelu", "dropout": 0.0},
        {"norm": "none"},
        {"convolutions_per_level": (2, 1, 3), "dropout": 0.0},
        {"channels": (4, 4, 16), "target_refinement": (1, 2, 2)},
        {
            "levels": 4,
            "channels": (4, 8, 16, 16),
            "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
            "convolutions_per_level": (1, 2, 2, 1),
        },
    )
]
TUMOR_CONFIGS = [
    replace(TUMOR.network, **edits)
    for edits in (
        {},
        {"norm": "batch", "classes": 1},
        {"kernel_size": 3},
        {"norm": "none", "multi_scale": False},
        {"squeeze_excitation": False, "channels": (3, 4, 8)},
        {"attention_gates": False},
        {"dilated_bottom": False},
        {
            "multi_scale": False,
            "squeeze_excitation": False,
            "attention_gates": False,
            "dilated_bottom": False,
        },
        {
            "levels": 4,
            "channels": (4, 8, 8, 64),
            "convolutions_per_level": (1, 2, 3, 2),
            "slab_depth": 9,
        },
    )
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def kidney_step(config, batch_size):
    """The kidney network with its loss, as a function, and the network."""
    network, loss = ResUNet3D(config), KidneyLoss(KIDNEY.loss)
    image = torch.randn(batch_size, 1, *KIDNEY_PATCH)
    shape = [n * r for n, r in zip(KIDNEY_PATCH, config.target_refinement, strict=True)]
    target = torch.randint(0, 2, (batch_size, *shape), dtype=torch.uint8)
    return lambda: loss(network(image), target, 0.0), network, image


def tumor_step(config, batch_size):
    network, loss = VNet25D(config), TumorLoss(TUMOR.loss)
    slab = torch.randn(batch_size, config.slab_depth, *TUMOR_PATCH)
    target = torch.randint(0, 3, (batch_size, *TUMOR_PATCH), dtype=torch.uint8)
    return lambda: loss(network(slab), target), network, slab


def kept_bytes(step, network):
    """Bytes of all storages that autograd holds after a forward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def hold(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            # The tensor stays alive here, so that no other one gets its address.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        loss = step()
    assert loss.requires_grad
    return sum(n for n, _ in kept.values())


class LiveBytes(TorchDispatchMode):
    """Counts bytes of all storages made inside that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage):
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key, nbytes):
        self._known.discard(key)
        self.live -= nbytes


@pytest.mark.parametrize("config", KIDNEY_CONFIGS)
def test_parameters_of_the_kidney_network_are_counted_exactly(config):
    real = sum(p.numel() for p in ResUNet3D(config).parameters())
    assert kidney_parameters(config) == real


@pytest.mark.parametrize("config", TUMOR_CONFIGS)
def test_parameters_of_the_tumor_network_are_counted_exactly(config):
    assert tumor_parameters(config) == sum(p.numel() for p in VNet25D(config).parameters())


@pytest.mark.parametrize("config", KIDNEY_CONFIGS)
def test_kept_maps_of_the_kidney_network_are_what_autograd_holds(config):
    batch_size = 2
    step, network, _ = kidney_step(config, batch_size)
    counted = kidney_kept_values(config, KIDNEY_PATCH) * VALUE_BYTES * batch_size
    assert counted == pytest.approx(kept_bytes(step, network), rel=0.02)


@pytest.mark.parametrize("config", TUMOR_CONFIGS)
def test_kept_maps_of_the_tumor_network_are_what_autograd_holds(config):
    batch_size = 2
    step, network, _ = tumor_step(config, batch_size)
    counted = tumor_kept_values(config, TUMOR_PATCH) * VALUE_BYTES * batch_size
    assert counted == pytest.approx(kept_bytes(step, network), rel=0.02)


STEPS = [
    *((kidney_step, kidney_training_bytes, KIDNEY_PATCH, config) for config in KIDNEY_CONFIGS[::2]),
    *((tumor_step, tumor_training_bytes, TUMOR_PATCH, config) for config in TUMOR_CONFIGS[::3]),
]


@pytest.mark.parametrize(("make_step", "bytes_of", "patch", "config"), STEPS)
def test_a_training_step_stays_below_the_bytes_counted_and_not_far(
    make_step, bytes_of, patch, config
):
    step, network, image = make_step(config, 3)
    with LiveBytes() as measured:
        step().backward()
    parameter_bytes = VALUE_BYTES * sum(p.numel() for p in network.parameters())
    peak = measured.peak + image.untyped_storage().nbytes() + parameter_bytes
    # Without SGD's state, as no optimizer takes a step here.
    counted = bytes_of(config, patch, 3, "sgd") - parameter_bytes
    assert 0.98 * peak < counted < 1.25 * peak + parameter_bytes


def kidney_plan(patch_size, batch_size, optimizer="adam", **edits):
    return small_kidney_plan(
        patch_size=patch_size,
        network=replace(KIDNEY.network, channels=(8, 16, 32), **edits),
        schedule=replace(KIDNEY.schedule, batch_size=batch_size, optimizer=optimizer),
    )


def tumor_plan(patch_size, batch_size, optimizer="adam", **edits):
    return small_tumor_plan(
        patch_size=patch_size,
        network=replace(TUMOR.network, **{"channels": (8, 16, 32), **edits}),
        schedule=replace(TUMOR.schedule, batch_size=batch_size, optimizer=optimizer),
    )


PLANS = [
    kidney_plan((32, 64, 64), 2),
    kidney_plan((32, 64, 64), 1, norm="none", activation="prelu", dropout=0.0),
    kidney_plan((16, 64, 64), 2, "sgd", target_refinement=(1, 2, 2)),
    kidney_plan((24, 48, 48), 2, norm="batch", convolutions_per_level=(1, 2, 2)),
    tumor_plan((128, 128), 4),
    tumor_plan((128, 128), 4, "sgd", norm="batch", kernel_size=3),
    tumor_plan((128, 128), 2, channels=(16, 32, 64), multi_scale=False),
    tumor_plan((128, 96), 4, attention_gates=False, dilated_bottom=False),
]


def allocated_bytes(plan):
    """The most that torch's allocator gave a whole training step, optimizer and all."""
    schedule = plan.schedule
    if isinstance(plan, KidneyPlan):
        network, loss = ResUNet3D(plan.network), KidneyLoss(plan.loss)
        image = torch.randn(schedule.batch_size, 1, *plan.patch_size)
        fine = zip(plan.patch_size, plan.network.target_refinement, strict=True)
        shape = [n * refinement for n, refinement in fine]
    else:
        network, loss = VNet25D(plan.network), TumorLoss(plan.loss)
        image = torch.randn(schedule.batch_size, plan.slab_depth, *plan.patch_size)
        shape = [*plan.patch_size]
    target = torch.randint(0, 2, (schedule.batch_size, *shape), dtype=torch.uint8)
    put_on(network, torch.device("cpu"))
    image = image.to(memory_format=memory_format(network))
    optimizer = make_optimizer(network, schedule)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(network(image), target, 0.0).backward()
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    states = [value for state in optimizer.state.values() for value in state.values()]
    kept = [*network.parameters(), *network.buffers(), *states, image, target]
    held = sum(t.untyped_storage().nbytes() for t in kept if isinstance(t, torch.Tensor))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return held + max(accumulate(nbytes for _, nbytes in changes))


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_what_the_planner_expects_is_what_is_allocated_within_15_percent(plan):
    assert stage_bytes(plan) == pytest.approx(allocated_bytes(plan), rel=0.15)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_the_state_of_an_optimizer_is_what_it_holds_after_a_step(name, kind):
    step, network, _ = tumor_step(TUMOR.network, 1)
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    optimizer = kind(network.parameters(), lr=1e-3, **momentum)
    step().backward()
    optimizer.step()
    held = sum(
        value.numel()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim > 0
    )
    without_state = tumor_kept_values(TUMOR.network, TUMOR_PATCH) + 2 * 4 * math.prod(TUMOR_PATCH)
    counted = tumor_training_bytes(TUMOR.network, TUMOR_PATCH, 1, name) // VALUE_BYTES
    assert counted - without_state - 2 * tumor_parameters(TUMOR.network) == held


@given(st.integers(1, 9), st.sampled_from(["adam", "sgd"]))
def test_a_sample_more_costs_as_much_as_any_other(batch_size, optimizer):
    network = KIDNEY.network
    a, b, c = (
        kidney_training_bytes(network, KIDNEY_PATCH, batch_size + more, optimizer)
        for more in range(3)
    )
    assert b - a == c - b > 0


@pytest.mark.parametrize(
    ("budget", "most", "expected"),
    [
        (0, 8, 1),  # not even one fits: someone must train nevertheless
        (129, 8, 1),
        (130, 8, 3),  # 100 + 3 * 10 is the last that fits
        (10**9, 8, 8),
        (10**9, 1, 1),
    ],
)
def test_the_largest_batch_that_fits_is_taken(budget, most, expected):
    assert fitting_batch(lambda n: 100 + 10 * n if n > 2 else 129 + n, budget, most) == expected
