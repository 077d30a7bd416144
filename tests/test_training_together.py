"""Several processes that train one network, on one host and on two, as `torchrun` starts them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import torch
from forked_command import Limits, run, start
from small_plans import SCHEDULE, small_kidney_plan, small_plan, small_tumor_plan
from trained_folders import copy, fold, prepare

from kitspipe.errors import ALL_DONE, WRONG_REQUEST
from kitspipe.networks.weights import load_checkpoint

pytestmark = pytest.mark.slow

TORCHRUN = Path(sys.executable).with_name("torchrun")
LAST = "last.safetensors"
# In bfloat16, where a machine has it, sums in another order differ by half a percent.
HOW = ("--workers", 0, "--precision", "float32")
# Not Adam, which makes steps of full length from gradients that are nothing but rounding.
BY_SGD = msgspec.structs.replace(
    SCHEDULE, epochs=2, steps_per_epoch=3, batch_size=4, optimizer="sgd", learning_rate=1e-3
)


def make_plan():
    """No dropout: what it draws depends on who draws. Batch norm in one stage."""
    kidney, tumor = small_kidney_plan(), small_tumor_plan()
    return small_plan(
        kidney=small_kidney_plan(
            patch_size=(8, 16, 32),
            window_stride=(4, 8, 16),
            schedule=BY_SGD,
            network=msgspec.structs.replace(kidney.network, dropout=0.0),
        ),
        tumor=small_tumor_plan(
            patch_size=(24, 24),
            schedule=BY_SGD,
            network=msgspec.structs.replace(tumor.network, norm="batch"),
        ),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"), make_plan(), cases=4)


@pytest.fixture
def folder(prepared, tmp_path):
    return copy(prepared, tmp_path)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def as_torchrun_starts(folder, count, *arguments):
    """One process per rank, with the variables that torchrun sets."""
    port = str(free_port())
    return [
        start(
            folder,
            *arguments,
            limits=Limits(
                environment={
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                }
            ),
        )
        for rank in range(count)
    ]


def assert_alike(a, b):
    """Weights alike up to the order of float sums."""
    one, other = (load_checkpoint(folder / LAST).weights for folder in (a, b))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stage", ["kidney", "tumor"])
def test_three_processes_do_what_one_does_with_the_same_batches(prepared, tmp_path, stage):
    alone, together = (copy(prepared, tmp_path / name) for name in ("alone", "together"))
    command = ("train", stage, 0, *HOW)
    assert run(alone, *command).status == ALL_DONE
    # Batches of four: two processes take one patch each and the third two.
    for done in [one.wait() for one in as_torchrun_starts(together, 3, *command)]:
        assert done.status == ALL_DONE, done.said
    assert_alike(fold(alone, stage), fold(together, stage))


def test_one_that_is_lost_ends_the_others_with_a_message_and_one_goes_on(prepared, tmp_path):
    alone, together = (copy(prepared, tmp_path / name) for name in ("alone", "together"))
    command = ("train", "kidney", 0, *HOW)
    assert run(alone, *command, "--epochs", 6).status == ALL_DONE
    first, second = as_torchrun_starts(together, 2, *command, "--epochs", 6)
    until = time.monotonic() + 120
    while not (fold(together) / "previous.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.01)
    second.send(signal.SIGKILL)
    done = first.wait(60)
    assert done.status == WRONG_REQUEST, done.said
    assert "process 0 of 2" in done.said
    assert "another process of this training is gone" in done.said
    assert "Traceback" not in done.said
    assert run(together, *command).status == ALL_DONE
    assert_alike(fold(alone), fold(together))


def test_more_processes_than_patches_in_a_batch_are_refused(folder):
    ended = [one.wait() for one in as_torchrun_starts(folder, 5, "train", "kidney", 0, *HOW)]
    assert {done.status for done in ended} == {WRONG_REQUEST}
    assert "5 processes for batches of 4" in ended[0].said


def lose_host(name):
    """All of its processes at once; those that torchrun starts are in sessions of their own."""
    there = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=True
    )
    for pid in map(int, there.stdout.split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def in_namespace(name, *command, **how):
    return subprocess.Popen(["ip", "netns", "exec", name, *map(str, command)], **how)


@pytest.fixture
def two_hosts():
    """Two network namespaces with a cable between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the command ip for network namespaces")
    names = [f"kitspipe{side}{os.getpid()}" for side in "ab"]
    ends = [f"kp{side}{os.getpid()}" for side in "ab"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)

    try:
        if any(ip("netns", "add", name).returncode for name in names):
            pytest.skip("network namespaces can't be made here")
        cable = ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        if cable.returncode:
            pytest.skip(f"no veth here: {cable.stderr.strip()}")
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, ends, strict=True))
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_hosts_train_together_and_where_one_is_lost_the_other_goes_on_alone(
    prepared, two_hosts, tmp_path
):
    alone, together = (copy(prepared, tmp_path / name) for name in ("alone", "together"))
    command = ("train", "kidney", 0, *HOW, "--epochs", 12)
    running, port = [], free_port()
    for rank, (name, end) in enumerate(two_hosts):
        running.append(
            in_namespace(
                name,
                TORCHRUN,
                *("--nnodes", 2, "--nproc-per-node", 1, "--node-rank", rank),
                *("--master-addr", "10.77.0.1", "--master-port", port),
                *("-m", "kitspipe.cli", *command, "-w", together),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "GLOO_SOCKET_IFNAME": end, "OMP_NUM_THREADS": "1"},
            )
        )
    try:
        until = time.monotonic() + 120
        while not (fold(together) / "previous.safetensors").exists():
            assert time.monotonic() < until
            assert running[0].poll() is None, running[0].communicate()[0]
            time.sleep(0.05)
        lose_host(two_hosts[1][0])
        said, _ = running[0].communicate(timeout=120)
    finally:
        for (name, _), one in zip(two_hosts, running, strict=True):
            lose_host(name)
            one.communicate()
    assert running[0].returncode != 0
    assert "another process of this training is gone" in said
    assert run(together, *command).status == ALL_DONE
    assert run(alone, *command).status == ALL_DONE
    one, other = (load_checkpoint(fold(f) / LAST) for f in (alone, together))
    assert one.state["progress"]["epoch"] == other.state["progress"]["epoch"] == 12
    assert_alike(fold(alone), fold(together))
