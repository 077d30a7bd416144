"""Time and peak memory of a command with all its processes."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a command took.

    Args:
        seconds: wall clock.
        peak_bytes: the largest sum over its processes of the memory that each has to itself, plus
            its share of what several have (PSS).
        output: standard output and error together.
        cpu_seconds: of all processors, by it and the processes that it waited for.
    """

    seconds: float
    peak_bytes: int
    output: str
    cpu_seconds: float = 0.0


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; its output is printed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        # Reading in between keeps the pipe from filling up.
        os.set_blocking(process.stdout.fileno(), False)  # type: ignore[union-attr]
        output = b""
        while process.poll() is None:
            looked = time.perf_counter()
            peak = max(peak, sum(map(_pss_bytes, _tree(process.pid))))
            output += process.stdout.read() or b""  # type: ignore[union-attr]
            # Looking at gigabytes takes a process's own time: at most a fiftieth of it.
            time.sleep(max(_EVERY_S, 50 * (time.perf_counter() - looked)))
        seconds = time.perf_counter() - started
        output += process.stdout.read() or b""  # type: ignore[union-attr]
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{text}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds=seconds, peak_bytes=peak, output=text, cpu_seconds=cpu_seconds)


def _tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
        except (OSError, ValueError):
            continue
    return found


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
