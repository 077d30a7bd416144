"""Several processes that train one network together, as `torchrun` starts them.

The plan's batch is split over them, sums and means are theirs together (`networks/across.py`), and
the first one writes and prints. The only module that reads the environment, and only what
`torchrun` sets. What the processes tell each other is numbers and JSON, never pickles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import torch
from torch import distributed

from kitspipe.errors import UserError

T = TypeVar("T")

# Weighing hard cases or drawing keeps the others waiting.
_PATIENCE = timedelta(minutes=60)
_LOST = ("gloo", "nccl", "connection", "socket", "peer", "store")


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One of the processes of a training.

    Args:
        rank: its number, over all hosts.
        count: how many there are.
        local_rank: its number on its host.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it writes and prints."""
        return self.rank == 0

    def share(self, batch_size: int) -> range:
        """Which patches of a batch are its own; shares differ by one at most.

        Raises:
            UserError: there are more processes than patches.
        """
        if self.count > batch_size:
            raise UserError(
                "torchrun",
                found=f"{self.count} processes for batches of {batch_size}",
                expected=f"at most {batch_size} processes: each batch is split over them",
                remedy="start fewer, or raise schedule.batch_size in the plan",
            )
        return range(
            batch_size * self.rank // self.count, batch_size * (self.rank + 1) // self.count
        )

    def one_at_a_time(self, trainings: Sequence[T]) -> Sequence[T]:
        """The trainings, if it is one or this process is alone.

        While the first process validates, the others would wait for the next training in vain.

        Raises:
            UserError: several trainings for several processes.
        """
        if self.count > 1 and len(trainings) > 1:
            raise UserError(
                f"{len(trainings)} trainings",
                found=f"{self.count} processes that train together",
                expected="one training at a time for them",
                remedy="name a stage and a fold, and call torchrun for each",
            )
        return trainings

    def device(self, device: torch.device) -> torch.device:
        """Its own GPU where it asks for any."""
        is_any_gpu = device.type == "cuda" and str(device) == "cuda"
        return torch.device("cuda", self.local_rank) if self.count > 1 and is_any_gpu else device

    def largest(self, *values: float) -> list[float]:
        """Each value's largest over all processes, the same for all."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(together, distributed.ReduceOp.MAX)
        return [float(value) for value in together]

    def sums(self, *values: int) -> list[int]:
        """Each value's sum over all processes."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(together)
        return [int(value) for value in together]

    def from_first(self, value: Any) -> Any:  # noqa: ANN401
        """What the first process has, as it comes back from JSON; for all of them."""
        if self.count == 1:
            return value
        content = msgspec.json.encode(value) if self.is_first else b""
        length = int(self.largest(len(content))[0])
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.is_first:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        distributed.broadcast(buffer, 0)
        return msgspec.json.decode(buffer.numpy().tobytes())


ALONE = Process()


def this_process() -> Process:
    """Which of how many processes this is, by what `torchrun` set."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    return Process(
        rank=int(os.environ["RANK"]),
        count=count,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


@contextmanager
def together(process: Process, device: torch.device) -> Iterator[None]:
    """Connected to the other processes while it lasts.

    Raises:
        UserError: the others do not come, or one was lost.
    """
    if process.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=_PATIENCE)
        yield
        distributed.barrier()
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise UserError(
            f"process {process.rank} of {process.count}",
            found="another process of this training is gone: " + _first_line(error),
            expected="all of them until the end",
            remedy="look for what that one said; the same command, with as many processes as "
            "there are, goes on from the last checkpoint",
        ) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    if isinstance(error, distributed.DistError):
        return True
    return any(word in str(error).lower() for word in _LOST)


def _first_line(error: RuntimeError) -> str:
    return next(iter(str(error).splitlines()), "no reason given")
