"""Training samples per second and core, ours beside nnU-Net 2.8.1, at our plan's patch sizes.

Uses what `preprocess.py` wrote into its work folder: the same scans, preprocessed by either. Both
load and augment one sample after the other on one core, taking turns. Also prints what random
access to our store costs, cold and warm; where the time of a sample goes; what it costs to send one
from a worker; and what a GPU that takes 30 kidney patches a second needs of all that.

    python benchmarks/loader.py --nnunet-python PYTHON --work FOLDER
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import multiprocessing
import os
import pickle
import pstats
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from preprocess import nnunet_environment
from process_tree import run

from kitspipe.imaging.volume import Box
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import read_plan
from kitspipe.preprocessing.preprocess import open_cases
from kitspipe.training.changes import draw
from kitspipe.training.loader import PatchReader, Reporting, batches
from kitspipe.training.random_keys import Purpose
from kitspipe.training.sampling import PatchRequest
from kitspipe.training.stages import TrainingTask, kidney_task, tumor_task
from kitspipe.workspace import STAGES, Stage, Workspace

MB = 1e6
PATCHES_PER_S = 30
PARTS = {
    "read": ("read_image", "read_target", "read_distance_mm"),
    "normalize": ("normalize", "normalize_masked"),
    "equalize": ("equalized",),
    "blur": ("blurred",),
    "warp image": ("moved_image",),
    "warp target": ("moved_target",),
    "stack": ("stack",),
    "pack": ("_packed",),
    "unpack": ("_batch",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Transport:
    """A sample on its way from a worker: bytes, and seconds of both processes and of the wall."""

    size: int
    worker: float
    parent: float
    wall: float


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
        task.sampler,
        task.read,
        batch_size=1,
        epoch=0,
        steps=range(count),
        workers=0,
        augmentation=task.augment.config,
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
    command = [python, script, dataset, *map(str, patch), str(count)]
    found = run(command, nnunet_environment(work))
    return float(json.loads(found.output.splitlines()[-1])["cpu"])


def requests_of(task: TrainingTask, count: int) -> list[PatchRequest]:
    """The first requests of an epoch, their changes drawn."""
    found = []
    for sample in range(count):
        request = task.sampler.request(0, sample)
        stream = request.key.stream(Purpose.CHANGE)
        found.append(replace(request, parameters=draw(task.augment.config, stream)))
    return found


def read_access(task: TrainingTask, count: int) -> float:
    """Bytes and time of random patches; returns the compressed bytes of a patch.

    Patch: bytes of the image and target that are asked for. Read: of the files, compressed. Opened:
    of the blocks that hold them, decompressed.
    """
    compressed = 0.0
    for name, prepare in (("cold", _forget), ("warm", lambda _: None)):
        asked = read = opened = 0
        seconds = 0.0
        for request in requests_of(task, count):
            case = task.sampler.cases[request.region]
            prepare(case.folder)
            before, started = _bytes_read(), time.perf_counter()
            arrays = task.read(case, request)
            seconds += time.perf_counter() - started
            read += _bytes_read() - before
            box = arrays["change"].read
            asked += 2 * math.prod(request.box.shape)
            asked += arrays["seg"].nbytes * math.prod(request.box.shape) // math.prod(box.shape)
            opened += sum(
                _opened(path, box, case.grid.shape) for path in case.folder.glob("*.b2nd")
            )
        compressed = read / count
        print(
            f"  store, {name}: patch {asked / count / MB:.2f} MB, read {compressed / MB:.2f} MB "
            f"(x{read / asked:.2f}), opened {opened / count / MB:.2f} MB (x{opened / asked:.2f}), "
            f"{1000 * seconds / count:.1f} ms with normalizing"
        )
    return compressed


def _opened(path: Path, box: Box, shape: tuple[int, int, int]) -> int:
    """Bytes of an array's blocks that a box touches; a tumor target is of the middle slice."""
    stored = blosc2.open(str(path), mode="r")
    fine = [n // length for n, length in zip(stored.shape, shape, strict=True)]
    start, stop = list(box.start), list(box.stop)
    if path.stem == "target" and (path.parent / "distance.b2nd").exists():
        start[0] += box.shape[0] // 2
        stop[0] = start[0] + 1
    blocks = 1
    for a, b, r, n, chunk, block in zip(
        start, stop, fine, stored.shape, stored.chunks, stored.blocks, strict=True
    ):
        # Blocks start anew with each chunk.
        edges = {(i // chunk, i % chunk // block) for i in range(max(0, a * r), min(n, b * r))}
        blocks *= len(edges)
    return int(blocks * math.prod(stored.blocks) * stored.dtype.itemsize)


def profile(task: TrainingTask, count: int) -> None:
    """Milliseconds of processor time of a sample, by part."""
    watch = cProfile.Profile(time.process_time)
    watch.enable()
    for _ in samples(task, count):
        pass
    watch.disable()
    stats = pstats.Stats(watch)
    spent = dict.fromkeys(PARTS, 0.0)
    for (file, _, function), (_, _, _, cumulative, callers) in stats.stats.items():  # type: ignore[attr-defined]
        for part, names in PARTS.items():
            # normalize_masked calls normalize: counted once.
            within = sum(c[3] for who, c in callers.items() if who[2] in names)
            if function in names and ("kitspipe" in file or function == "stack"):
                spent[part] += cumulative - within
    whole = stats.total_tt  # type: ignore[attr-defined]
    spent["rest"] = whole - sum(spent.values())
    parts = ", ".join(
        f"{part} {1000 * s / count:.1f}" for part, s in spent.items() if s / whole > 0.002
    )
    print(f"  profile, ms a sample: {parts}; all {1000 * whole / count:.1f}")


def transports(task: TrainingTask, count: int) -> dict[str, Transport]:
    """A sample through the pipe of a worker: as floats and bytes, and as it goes."""
    [request] = requests_of(task, 1)
    arrays = {k: [v] for k, v in task.read(task.sampler.cases[request.region], request).items()}
    plain = {k: np.stack(v) for k, v in task.augment(**arrays, cases=("a",)).items()}
    packed = Reporting(task.augment)(**arrays, cases=("a",))
    found = {name: sent(a, count) for name, a in (("floats", plain), ("packed", packed))}
    for name, cost in found.items():
        print(
            f"  pipe, {name}: {cost.size / MB:.2f} MB, {1000 * cost.wall:.1f} ms "
            f"(worker {1000 * cost.worker:.1f}, parent {1000 * cost.parent:.1f} ms of processor "
            "time)"
        )
    return found


def sent(arrays: dict[str, Any], count: int) -> Transport:
    """What it costs to send arrays from another process, as the workers do."""
    queue: multiprocessing.Queue[Any] = multiprocessing.Queue(2)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    worker = multiprocessing.Process(target=_send, args=(queue, arrays, count))
    worker.start()
    queue.get()
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        queue.get()
    wall, parent = time.perf_counter() - started, time.process_time() - cpu
    worker.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return Transport(
        size=len(pickle.dumps(arrays)),
        worker=spent / (count + 1),
        parent=parent / count,
        wall=wall / count,
    )


def _send(queue: multiprocessing.Queue[Any], arrays: dict[str, Any], count: int) -> None:
    for _ in range(count + 1):
        queue.put(arrays)


def print_needs(seconds: float, read: float, pipe: Transport) -> None:
    """What a GPU needs that takes 30 patches a second."""
    cores = PATCHES_PER_S * (seconds + pipe.worker)
    print(
        f"  a GPU that takes {PATCHES_PER_S} a second needs {math.ceil(cores)} cores for workers "
        f"({cores:.1f} busy), {PATCHES_PER_S * pipe.parent:.2f} of the trainer's core, "
        f"{PATCHES_PER_S * read / MB:.0f} MB/s from disk, "
        f"{PATCHES_PER_S * pipe.size / MB:.0f} MB/s through pipes"
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
    torch.set_num_threads(1)
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
        read = read_access(task, options.samples)
        profile(task, options.samples)
        pipe = transports(task, options.samples)["packed"]
        if stage == "kidney":
            print_needs(ours, read, pipe)


if __name__ == "__main__":
    main()
