"""plan_and_preprocess on this machine and on Dask clusters of one and two workers on it.

Starts a scheduler and workers of one thread on localhost for each run, so the figures hold the
cluster's own cost and not that of a network or a shared file system. Prints seconds and whether
every run wrote the same bytes.

    python benchmarks/cluster.py --data RAW --work FOLDER
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[Path]:
    """A scheduler's file."""
    from distributed import Client

    folder.mkdir(parents=True)
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    commands = [["scheduler", "--port", "0"], *[["worker", "--nthreads", "1"]] * workers]
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen(
                [BIN / "dask", *command, *common],
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in commands
        ]
    try:
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(workers, timeout=60)
        yield file
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def seconds_of(data: Path, workspace: Path, *where: str) -> float:
    """plan_and_preprocess into a new workspace."""
    command = [BIN / "kitspipe_plan_and_preprocess", "-q", "--size", "small"]
    started = time.perf_counter()
    subprocess.run([*command, "-d", data, "-w", workspace, *where], check=True)
    return time.perf_counter() - started


def files_of(workspace: Path) -> dict[Path, bytes]:
    """Relative name -> bytes of all that was written."""
    files = (path for path in workspace.rglob("*") if path.is_file())
    return {path.relative_to(workspace): path.read_bytes() for path in files}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="training scans with masks")
    parser.add_argument("--work", type=Path, required=True, help="folder for workspaces")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    seconds = {}
    for processes in (1, 2):
        name = f"{processes} processes here"
        seconds[name] = seconds_of(given.data, given.work / name, "-j", str(processes))
    for workers in (1, 2):
        name = f"{workers} workers"
        with dask_cluster(given.work / "dask" / name, workers) as file:
            seconds[name] = seconds_of(given.data, given.work / name, "--cluster", str(file))
    first = files_of(given.work / next(iter(seconds)))
    for name, taken in seconds.items():
        same = "same" if files_of(given.work / name) == first else "OTHER"
        print(f"{name:<18} {taken:7.1f} s   {same} bytes")


if __name__ == "__main__":
    main()
