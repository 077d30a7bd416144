"""How much memory a process takes: its peak since the last reset, and another's right now."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

_MIB = 2**20
_RESET_PEAK = "5"  # Source: proc(5), /proc/PID/clear_refs.


def reset_peak() -> None:
    """Let the peak count from now on; without effect where the system can't."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def peak_mib() -> float:
    """Most resident memory of this process since `reset_peak`, or else since its start."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("VmHWM:"))
        return round(int(found.split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (_MIB if sys.platform == "darwin" else 1024), 1)


def resident_mib(process: int) -> float | None:
    """Resident memory of a process now; None where the system does not tell or it is gone."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / _MIB
