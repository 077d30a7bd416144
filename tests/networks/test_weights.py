import random
import resource

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kitspipe.errors import UserError
from kitspipe.networks.weights import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.99, nesterov=True),
    "sgd without momentum": lambda p: torch.optim.SGD(p, 1e-2),
}
STATE = {
    "progress": {"epoch": 3, "step": 17, "loss_sum": 0.1 + 0.2, "dice_ema": None, "best": 1e-300},
    "sampler": {"weights": {"case_00003": 1.5}, "false_points": {"a": [[1, 2, 3]]}, "none": []},
    "by number": {2: (1, "b"), 3: [True, -0.0]},
    "tensor": {"tuple": 1, "dict": 2},
}


def make_network():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.PReLU(3), nn.Dropout(0.5), nn.Conv2d(3, 1, 1)
    )


def train(network, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(2, 2, 7, 9)).square().mean().backward()
        optimizer.step()


def make_checkpoint(network, optimizer, **edits):
    values = {
        "stage": "tumor",
        "plan_sha256": "ab" * 32,
        "weights": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": STATE,
    }
    return Checkpoint(**values | edits)


def identical(one, other):
    """Same types, same values, same bits."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one, other)
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return repr(one) == repr(other)


@pytest.fixture
def saved(tmp_path):
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters())
    train(network, optimizer, 1)
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, make_checkpoint(network, optimizer))
    return path


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_checkpoint_comes_back_as_it_was(kind, tmp_path):
    network = make_network()
    optimizer = OPTIMIZERS[kind](network.parameters())
    train(network, optimizer, 2)
    checkpoint = make_checkpoint(network, optimizer)
    save_checkpoint(tmp_path / "new" / "last.safetensors", checkpoint)
    loaded = load_checkpoint(tmp_path / "new" / "last.safetensors")
    assert (loaded.stage, loaded.plan_sha256) == ("tumor", "ab" * 32)
    assert identical(loaded.optimizer, optimizer.state_dict())
    assert identical(loaded.state, STATE)
    assert identical(dict(sorted(loaded.weights.items())), dict(sorted(checkpoint.weights.items())))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_stopped_and_gone_on_equals_never_stopped(kind, tmp_path):
    torch.manual_seed(5)
    network = make_network()
    optimizer = OPTIMIZERS[kind](network.parameters())
    train(network, optimizer, 3)
    save_checkpoint(tmp_path / "last.safetensors", make_checkpoint(network, optimizer))
    torch.manual_seed(6)
    train(network, optimizer, 4)

    torch.manual_seed(99)
    resumed = make_network()
    its_optimizer = OPTIMIZERS[kind](resumed.parameters())
    checkpoint = load_checkpoint(tmp_path / "last.safetensors")
    resumed.load_state_dict(checkpoint.weights)
    its_optimizer.load_state_dict(checkpoint.optimizer)
    torch.manual_seed(6)
    train(resumed, its_optimizer, 4)
    assert identical(dict(resumed.state_dict()), dict(network.state_dict()))
    assert identical(its_optimizer.state_dict(), optimizer.state_dict())


def test_channels_last_bf16_and_scalar_weights_are_kept(tmp_path):
    network = make_network().to(torch.bfloat16, memory_format=torch.channels_last)
    path = tmp_path / "final.safetensors"
    save_weights(path, network, plan_sha256="cd", stage="kidney")
    loaded = load_weights(make_network().to(torch.bfloat16), path)
    assert identical(dict(loaded.state_dict()), dict(network.state_dict()))


def test_weights_can_be_taken_from_a_checkpoint(saved):
    network = make_network()
    assert load_weights(network, saved, "ab" * 32) is network
    assert identical(
        dict(sorted(network.state_dict().items())),
        dict(sorted(load_checkpoint(saved).weights.items())),
    )


def test_weights_of_another_plan_are_refused(saved):
    with pytest.raises(UserError) as caught:
        load_weights(make_network(), saved, "00" * 32)
    assert caught.value.file == str(saved)
    assert "another plan" in caught.value.found
    assert "--restart" in caught.value.remedy


def test_weights_of_another_network_are_refused(saved):
    with pytest.raises(UserError) as caught:
        load_weights(nn.Linear(2, 3), saved)
    assert caught.value.found.startswith("weights of another network: ")
    assert "weight" in caught.value.found.split(": ", 1)[1]


def test_weights_alone_are_no_checkpoint(tmp_path):
    path = tmp_path / "final.safetensors"
    save_weights(path, make_network(), plan_sha256="cd", stage="kidney")
    with pytest.raises(UserError, match="weights alone"):
        load_checkpoint(path)


def test_a_file_cut_anywhere_is_refused(saved):
    whole = saved.read_bytes()
    for length in [*range(64), *range(64, len(whole), 211), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            load_checkpoint(saved)
        assert caught.value.file == str(saved)
        assert caught.value.expected == "checkpoint written by kitspipe_train"


def test_a_byte_changed_anywhere_is_noticed(saved):
    whole, rng = saved.read_bytes(), random.Random(3)
    for position in [*range(8), *rng.sample(range(8, len(whole)), 300)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(UserError):
            load_checkpoint(saved)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_is_not_opened(tmp_path, is_zip):
    path = tmp_path / "last.safetensors"
    torch.save({"weights": torch.zeros(3)}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match="a pickle, which is never opened"):
        load_checkpoint(path)


def test_a_strangers_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    save_file({"weights/a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="kitspipe didn't write"):
        load_weights(make_network(), path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(UserError) as caught:
        load_checkpoint(tmp_path)
    assert caught.value.file == str(tmp_path)


def test_what_can_not_be_saved_leaves_the_last_checkpoint(saved):
    before = saved.read_bytes()
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters())
    with pytest.raises(TypeError):
        save_checkpoint(saved, make_checkpoint(network, optimizer, state={"a": object()}))
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("name", ["last.safetensors", "new.safetensors"])
def test_a_full_disk_leaves_what_was_there(saved, name):
    before, path = saved.read_bytes(), saved.with_name(name)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writing fails after these bytes, as it does where a disk is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match="File too large") as caught:
            save_weights(path, nn.Linear(100, 100), plan_sha256="cd", stage="kidney")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.file == str(path)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]
