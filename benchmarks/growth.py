"""plan_and_preprocess on 5, 20 and 80 small cases: time must grow as they do, memory must not.

Paints five scans of 64 slices of 160 x 160 and repeats them under other names.

    python benchmarks/growth.py --work FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
from pathlib import Path

from process_tree import Run, run

BIN = Path(sys.executable).parent
SIZES = (5, 20, 80)
PAINTED = 5
MIB = 1024**2


def paint(folder: Path) -> None:
    """Small scans of invented anatomy; what is there is kept."""
    from kitspipe.dataset.anatomy import invent_anatomy
    from kitspipe.dataset.phantoms import MASK_NAME, write_case
    from kitspipe.imaging.volume import Grid

    grid = Grid(shape=(64, 160, 160), spacing=(4.0, 2.2, 2.2))
    for number in range(PAINTED):
        name = f"case_{number:05d}"
        if not (folder / name / MASK_NAME).exists():
            write_case(folder, name, invent_anatomy(grid, number), number)


def repeated(painted: Path, folder: Path, cases: int) -> Path:
    """A data set of so many cases."""
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(cases):
        source = painted / f"case_{number % PAINTED:05d}"
        shutil.copytree(source, folder / f"case_{number:05d}")
    return folder


def measure(raw: Path, workspace: Path, jobs: int) -> Run:
    """Our one command from nothing."""
    shutil.rmtree(workspace, ignore_errors=True)
    command = [BIN / "kitspipe_plan_and_preprocess", "-d", raw, "-w", workspace, "-j", str(jobs)]
    return run([*command, "--size", "small"])


def main() -> None:
    """Measure the sizes in turns, print a row each and the cost of a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where all is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    paint(options.work / "painted")
    raws = {n: repeated(options.work / "painted", options.work / f"raw_{n}", n) for n in SIZES}
    runs: dict[int, list[Run]] = {n: [] for n in SIZES}
    for _ in range(options.rounds):
        for n, raw in raws.items():
            runs[n].append(measure(raw, options.work / "workspace", options.jobs))
    print(f"{options.jobs} process(es), medians of {options.rounds} rounds")
    seconds = {n: statistics.median(one.seconds for one in found) for n, found in runs.items()}
    for n, found in runs.items():
        peak = statistics.median(one.peak_bytes for one in found) / MIB
        print(f"  {n:3} cases {seconds[n]:7.2f} s   peak {peak:5.0f} MiB")
    for fewer, more in itertools.pairwise(SIZES):
        each = (seconds[more] - seconds[fewer]) / (more - fewer)
        print(f"  from {fewer} to {more} cases: {each * 1000:.0f} ms a case")


if __name__ == "__main__":
    main()
