"""The real commands, each in a process of its own that does not wait for Python and torch to start.

A server that has imported everything forks one for each command, so that a test can kill dozens.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch", "kitspipe.cross_validation", "kitspipe.training.picture", "matplotlib.pyplot"]
)
PATIENCE_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """How a command ended: its status, negative where a signal ended it, and what it said."""

    status: int
    said: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A command under way."""

    process: ForkServerProcess
    output: Path

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self.process.pid is not None
        return self.process.pid

    def send(self, number: int) -> None:
        """A signal, to this process alone."""
        if self.process.is_alive():
            os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE_S) -> Done:
        """Its end; one that takes longer is killed and fails the test."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"no end after {seconds} s: {self.output.read_text()}")
        status = self.process.exitcode
        assert status is not None
        return Done(status=status, said=self.output.read_text())


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the system gives a command.

    Args:
        file_bytes: files grow no larger, as on a full disk; None: any size.
        memory_bytes: beyond what it has when it starts; None: any.
        environment: variables.
    """

    file_bytes: int | None = None
    memory_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def start(folder: Path, *arguments: object, limits: Limits | None = None) -> Running:
    """A command, as `train kidney 0`, with this folder as its workspace."""
    output = folder / f"output.{len([*folder.glob('output.*')])}.txt"
    output.touch()
    process = _CONTEXT.Process(
        target=_main, args=([*map(str, arguments)], folder, output, limits or Limits())
    )
    process.start()
    return Running(process=process, output=output)


def run(folder: Path, *arguments: object, limits: Limits | None = None) -> Done:
    """The same to its end."""
    return start(folder, *arguments, limits=limits).wait()


def _main(arguments: list[str], folder: Path, output: Path, limits: Limits) -> None:
    stream = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.chdir(folder)
    os.environ.update(limits.environment)
    import torch

    from kitspipe import cli

    torch.set_num_threads(1)
    # As where Python starts by itself, not the way of the server.
    multiprocessing.set_start_method(None, force=True)
    if limits.memory_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if limits.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    status = 1
    try:
        status = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    # What Python does at the end of a program, it does not at the end of such a process.
    os._exit(status)
