"""Steps per second of both stages' trainings, waiting for data, memory; nnU-Net 2.8.1 beside.

Paints CTs around masks of KiTS, preprocesses them for the planner's plan, the small one and the
paper's, and for nnU-Net's 3d_fullres; what is there is kept. Then each training makes a few steps
through the trainer's own loop of loading, augmenting and updating, in a process of its own, so that
its peak of memory is its own. The first of `--plans` also with each precision, and compiled.
Nothing is written but arrays.

    python benchmarks/training.py --masks KITS --nnunet-python PYTHON --work FOLDER

`--shrink 2` halves each axis of all patches but the small plan's, for machines where whole ones
take minutes a step: voxels per second stay comparable, steps don't.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import torch
from preprocess import link_for_nnunet, nnunet, nnunet_environment, paint
from process_tree import run

from kitspipe.cli import ENVIRONMENT
from kitspipe.networks.device import Precision, in_bfloat16, peak_bytes, pick_device
from kitspipe.planning.memory import stage_bytes
from kitspipe.planning.plan import KidneyPlan, Plan
from kitspipe.planning.planner import read_plan, training_key
from kitspipe.preprocessing.preprocess import open_cases
from kitspipe.training.loader import Batch
from kitspipe.training.options import FoldOptions
from kitspipe.training.settings import Settings
from kitspipe.training.stages import TrainingTask, kidney_task, tumor_task
from kitspipe.training.trainer import Trainer
from kitspipe.workspace import STAGES, Stage, Workspace

GIB = 1024**3
SMALL, PLANNER, PAPER = "small", "default", "kits19_paper"
BIN = Path(sys.executable).parent
CASES = (10, 7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What is measured, in words that a command line can hold.

    Args:
        stage: kidney or tumor.
        plan_name: of the plan in the work folder.
        shrink: what each axis of its patches is divided by.
        precision: of the network's passes.
        compiled: whether torch compiles.
    """

    stage: Stage
    plan_name: str
    shrink: int = 1
    precision: Precision = "auto"
    compiled: bool = False


def prepare(options: argparse.Namespace) -> None:
    """Scans and arrays of all plans; what is there is kept."""
    work: Path = options.work
    paint(options.masks, work / "raw", options.cases)
    for name in options.plans:
        size = ["--size", "small"] if name == SMALL else []
        command = [BIN / "kitspipe_plan_and_preprocess", "-d", work / "raw", "-w", work / "ours"]
        run([*command, "-p", name, *size, "-q"])
    if options.nnunet_python:
        link_for_nnunet(work / "raw", work / "nnunet_raw" / "Dataset001_Kidneys")
        if not (their_folder(work) / "nnUNetPlans_3d_fullres").exists():
            nnunet(options.nnunet_python.parent, work, jobs=1)


def their_folder(work: Path) -> Path:
    """Where nnU-Net's arrays lie."""
    return work / "nnunet_preprocessed" / "Dataset001_Kidneys"


def measured(plan: Plan, what: Run, steps: int) -> Plan:
    """The plan with patches as small as asked for, such that the network can still halve them.

    Its epoch is as long as the measurement: the paper's shows each case once, two here.
    """
    part = plan.stage(what.stage)
    divisor = part.network.divisor
    each = [divisor] * len(part.patch_size) if isinstance(divisor, int) else divisor
    sizes = zip(part.patch_size, each, strict=True)
    patch = tuple(max(d, n // what.shrink // d * d) for n, d in sizes)
    changes: dict[str, object] = {"patch_size": patch}
    if isinstance(part, KidneyPlan):
        changes["window_stride"] = tuple(map(min, part.window_stride, patch))
    changes["schedule"] = msgspec.structs.replace(part.schedule, steps_per_epoch=steps + 1)
    return msgspec.structs.replace(plan, **{what.stage: msgspec.structs.replace(part, **changes)})


def make_task(stage: Stage, whole: Plan, plan: Plan, place: Workspace) -> TrainingTask:
    """The stage's task over all cases, whose arrays were made for the whole patches."""
    ids = sorted(folder.name for folder in place.preprocessed_folder(stage).iterdir())
    cases = open_cases(place, stage, whole, ids)
    if stage == "kidney":
        return kidney_task(plan, cases, cases)
    return tumor_task(plan, cases, cases, predict_region=lambda *_: None)  # type: ignore[arg-type,return-value]


def measure(what: Run, options: argparse.Namespace) -> None:
    """A few steps of ours, in this process; prints numbers as JSON."""
    place = Workspace(root=options.work / "ours", plan_name=what.plan_name)
    whole = read_plan(place)
    plan = measured(whole, what, options.steps)
    task = make_task(what.stage, whole, plan, place)
    part, device = plan.stage(what.stage), pick_device(options.device)
    given = FoldOptions(
        device=device,
        workers=options.workers,
        settings=Settings(precision=what.precision, compiled=what.compiled or None),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, Path(folder) / "none", training_key(plan, what.stage), given)
        trainer.learner.network.train()
        with closing(trainer.training_batches()) as stream:
            found = timed(lambda: next(stream), trainer.update, options.steps)
    depth = (part.slab_depth,) if what.stage == "tumor" else ()
    patch = (*depth, *part.patch_size)
    print(
        json.dumps(
            {
                **found,
                "patch": patch,
                "batch": part.schedule.batch_size,
                "peak_gib": peak_bytes(device) / GIB,
                "estimate_gib": stage_bytes(part) / GIB,
                "bfloat16": in_bfloat16(device, what.precision),
            }
        )
    )


def timed(
    load: Callable[[], Batch], update: Callable[[Batch], None], steps: int
) -> dict[str, float]:
    """Seconds of a step, on the wall and of this process's processor, and of waiting for a batch.

    The first step warms up; of the others the median counts.
    """
    walls, waits, cpus = [], [], []
    for _ in range(steps + 1):
        started, cpu = time.perf_counter(), time.process_time()
        batch = load()
        waits.append(time.perf_counter() - started)
        update(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - cpu)
    return {
        "first_s": walls[0],
        "wall_s": statistics.median(walls[1:]),
        "cpu_s": statistics.median(cpus[1:]),
        "waiting": sum(waits[1:]) / sum(walls[1:]),
    }


def ours(what: Run, options: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own, in the environment that the commands make."""
    command = [sys.executable, __file__, "--work", options.work, "--device", options.device]
    command += ["--steps", options.steps, "--workers", options.workers]
    command += ["--one", json.dumps(asdict(what))]
    return _last_json(command, ENVIRONMENT)


def theirs(options: argparse.Namespace) -> dict[str, float]:
    """nnU-Net's trainer with its planned network."""
    script = Path(__file__).with_name("nnunet_training.py")
    command = [options.nnunet_python, script, their_folder(options.work), options.steps]
    command += [options.shrink, str(pick_device(options.device))]
    folders = nnunet_environment(options.work)
    return _last_json(command, {**folders, "nnUNet_n_proc_DA": str(options.workers)})


def _last_json(command: Sequence[object], environment: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"failed": done.returncode, "said": done.stderr[-500:]}  # type: ignore[dict-item]
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def show(label: str, found: dict[str, float]) -> None:
    """One line of the table."""
    if "failed" in found:
        print(f"{label:34} failed: {found['said']}", flush=True)
        return
    patch = tuple(found["patch"])  # type: ignore[arg-type]
    voxels = math.prod(patch) * found["batch"] / found["cpu_s"] / 1e6
    kind = "bf16" if found.get("bfloat16") else "f32"
    shape = f"{found['batch']} x {'x'.join(map(str, patch))}"
    planned = f", planned {found['estimate_gib']:.2f}" if "estimate_gib" in found else ""
    print(
        f"{label:34} {shape:18} {kind:4} {1 / found['wall_s']:7.3f} steps/s  waiting "
        f"{found['waiting']:4.0%}  processor {found['cpu_s']:6.2f} s/step {voxels:6.2f} Mvoxel/s  "
        f"first {found['first_s']:5.1f} s  peak {found['peak_gib']:.2f} GiB{planned}",
        flush=True,
    )


def compare(options: argparse.Namespace) -> None:
    """All trainings, one after the other."""
    print(
        f"{options.steps} steps after one to warm up, medians; {options.workers} loading "
        f"processes; patches of all but the small plan divided by {options.shrink} along each axis",
        flush=True,
    )
    for name in options.plans:
        for stage in STAGES:
            show(f"{name} {stage}", ours(make_run(stage, name, options), options))
    if options.nnunet_python:
        show("nnU-Net 3d_fullres", theirs(options))
    if not options.variants:
        return
    first = options.plans[0]
    for stage in STAGES:
        for compiled in (False, True):
            for precision in ("float32", "bfloat16"):
                what = replace(
                    make_run(stage, first, options), precision=precision, compiled=compiled
                )
                show(f"{first} {stage}{' compiled' if compiled else ''}", ours(what, options))


def make_run(stage: Stage, plan_name: str, options: argparse.Namespace) -> Run:
    """As a training does it by itself, with patches as small as asked for."""
    return Run(stage=stage, plan_name=plan_name, shrink=1 if plan_name == SMALL else options.shrink)


def main() -> None:
    """Prepare and compare; with --one, measure one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, help="KiTS folder with masks")
    parser.add_argument("--nnunet-python", type=Path, help="of its environment; none: ours only")
    parser.add_argument("--work", type=Path, required=True, help="where all is written")
    parser.add_argument("--cases", type=int, nargs="+", default=CASES, help="of the masks")
    parser.add_argument("--plans", nargs="+", default=[SMALL, PLANNER, PAPER])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--variants", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one", help="for the processes that this script starts")
    options = parser.parse_args()
    if options.one:
        measure(Run(**json.loads(options.one)), options)
        return
    if options.masks:
        prepare(options)
    compare(options)


if __name__ == "__main__":
    main()
