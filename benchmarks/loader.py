"""Training samples per second and core, ours beside nnU-Net 2.8.1, at our plan's patch sizes.

Uses what `preprocess.py` wrote into its work folder: the same scans, preprocessed by either. Both
load and augment one sample after the other on one core, taking turns. Also prints what random
access to our store costs: bytes read per patch against bytes in it, warm and cold.

    python benchmarks/loader.py --nnunet-python PYTHON --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from process_tree import run

from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import read_plan
from kitspipe.preprocessing.preprocess import open_cases
from kitspipe.training.loader import PatchReader, batches
from kitspipe.training.stages import TrainingTask, kidney_task, tumor_task
from kitspipe.workspace import STAGES, Stage, Workspace

MIB = 1024**2


def make_task(stage: Stage, plan: Plan, place: Workspace) -> TrainingTask:
    """The stage's task over all cases."""
    ids = sorted(folder.name for folder in place.preprocessed_folder(stage).iterdir())
    cases = open_cases(place, stage, plan, ids)
    if stage == "kidney":
        return kidney_task(plan, cases, cases)
    return tumor_task(plan, cases, cases, predict_region=lambda *_: None)  # type: ignore[arg-type,return-value]


def samples(task: TrainingTask, count: int) -> Iterator[object]:
    """Batches of one sample, augmented."""
    reader = PatchReader(
        task.sampler, task.read, batch_size=1, epoch=0, steps=range(count), workers=0
    )
    return batches(reader, task.augment, workers=0)


def our_seconds(task: TrainingTask, count: int) -> float:
    """Processor time of a sample."""
    cpu = time.process_time()
    for _ in samples(task, count):
        pass
    return (time.process_time() - cpu) / count


def their_seconds(python: Path, work: Path, patch: tuple[int, ...], count: int) -> float:
    """Processor time of a sample of nnU-Net's."""
    script = Path(__file__).with_name("nnunet_loader.py")
    dataset = work / "nnunet_preprocessed" / "Dataset001_Kidneys"
    environment = {
        name: str(work / folder)
        for name, folder in (
            ("nnUNet_raw", "nnunet_raw"),
            ("nnUNet_preprocessed", "nnunet_preprocessed"),
            ("nnUNet_results", "nnunet_results"),
        )
    }
    found = run([python, script, dataset, *map(str, patch), str(count)], environment)
    return float(json.loads(found.output.splitlines()[-1])["cpu"])


def read_access(task: TrainingTask, place: Workspace, count: int) -> None:
    """Bytes that the process asks the kernel for, per byte of a patch, and how long it takes."""
    requests = [task.sampler.request(0, index) for index in range(count)]
    for name, prepare in (("cold", _forget), ("warm", lambda _: None)):
        prepare(place.preprocessed_folder(task.stage))
        before, started, wanted = _bytes_read(), time.perf_counter(), 0
        for request in requests:
            arrays = task.read(task.sampler.cases[request.region], request)
            wanted += arrays["seg"].nbytes + arrays["data"].nbytes // 2  # int16 in the store
        seconds, read = time.perf_counter() - started, _bytes_read() - before
        print(
            f"  {task.stage:6} store, {name}: {read / wanted:5.2f} bytes read per byte of patch, "
            f"{wanted / MIB / seconds:6.0f} MiB of patches/s"
        )


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def _forget(folder: Path) -> None:
    """Ask the kernel to drop a folder's files from its cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main() -> None:
    """Both stages, both programs, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nnunet-python", type=Path, help="none: ours only")
    parser.add_argument("--work", type=Path, required=True, help="that of preprocess.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=40)
    options = parser.parse_args()
    place = Workspace(root=options.work / "ours")
    plan = read_plan(place)
    print(f"processor time of a sample, medians of {options.rounds} rounds of {options.samples}")
    for stage in STAGES:
        task = make_task(stage, plan, place)
        patch = (
            plan.kidney.patch_size
            if stage == "kidney"
            else (plan.tumor.slab_depth, *plan.tumor.patch_size)
        )
        measures: dict[str, Callable[[], float]] = {
            "ours": lambda task=task: our_seconds(task, options.samples)  # type: ignore[misc]
        }
        if options.nnunet_python:
            measures["nnU-Net"] = lambda patch=patch: their_seconds(  # type: ignore[misc]
                options.nnunet_python, options.work, patch, options.samples
            )
        found: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(options.rounds):
            for name, measure in measures.items():
                found[name].append(measure())
        print(f"{stage} stage, patch {patch}")
        ours = statistics.median(found["ours"])
        for name, values in found.items():
            seconds = statistics.median(values)
            print(
                f"  {name:8} {1000 * seconds:7.1f} ms  {math.prod(patch) / seconds / 1e6:6.1f} "
                f"million voxels/s and core  x{seconds / ours:.2f}"
            )
        read_access(task, place, options.samples)


if __name__ == "__main__":
    main()
