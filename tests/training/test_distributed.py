import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kitspipe.errors import UserError
from kitspipe.training.distributed import ALONE, Process, this_process, together


@given(st.integers(1, 9), st.integers(0, 40))
def test_shares_of_a_batch_cover_it_once_and_differ_by_one_at_most(count, more):
    batch_size = count + more
    shares = [Process(rank=rank, count=count).share(batch_size) for rank in range(count)]
    assert [index for share in shares for index in share] == [*range(batch_size)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_patches_are_refused():
    with pytest.raises(UserError, match="3 processes for batches of 2"):
        Process(rank=0, count=3).share(2)


def test_several_trainings_are_no_work_for_several_processes():
    assert ALONE.one_at_a_time(["a", "b"]) == ["a", "b"]
    pair = Process(rank=1, count=2)
    assert pair.one_at_a_time(["a"]) == ["a"]
    with pytest.raises(UserError, match="call torchrun for each"):
        pair.one_at_a_time(["a", "b"])


def test_each_process_of_a_host_takes_its_own_gpu_unless_one_is_named():
    second = Process(rank=3, count=4, local_rank=1)
    assert second.device(torch.device("cuda")) == torch.device("cuda", 1)
    assert second.device(torch.device("cuda", 0)) == torch.device("cuda", 0)
    assert second.device(torch.device("cpu")) == torch.device("cpu")
    assert ALONE.device(torch.device("cuda")) == torch.device("cuda")


def test_what_torchrun_sets_says_which_process_this_is(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == ALONE
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert this_process() == Process(rank=2, count=4, local_rank=0)
    assert not this_process().is_first


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("[gloo/transport/tcp/pair.cc] Connection closed by peer [10.0.0.2]:4711", True),
        ("Socket Timeout", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_lost_process_is_told_from_other_errors(text, is_lost, monkeypatch):
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "init_process_group", lambda *_, **__: None)
    with (
        pytest.raises(UserError if is_lost else RuntimeError) as caught,
        together(Process(rank=1, count=2), torch.device("cpu")),
    ):
        raise RuntimeError(text)
    if is_lost:
        assert caught.value.file == "process 1 of 2"
        assert text in caught.value.found
