"""The method's steps, one after the other, on the same data, budget and seeds.

2D V-Net -> 2.5D -> multi-scale -> squeeze-and-excitation -> attention gates -> dilated bottom
-> focal and weighted Dice -> hard-case resampling. Each rung is trained by kitspipe_train on fold 0
of painted scans, as often as there are seeds, and judged on that fold's validation cases inside the
reference's kidneys: tumor Dice, false tumors a scan, and false-positive volume on scans with cysts.
Intervals are of a bootstrap over cases (seeds averaged); differences are paired.

    python benchmarks/ladder.py --work FOLDER --cases 60 --seeds 3 --steps 600 --parallel 2

What is trained already is kept, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from scores import CaseScore, interval, score_case

from kitspipe.planning.document import write_document
from kitspipe.planning.plan import Plan
from kitspipe.planning.planner import read_fold, read_plan
from kitspipe.workspace import Workspace

EPOCHS = 10
RUNGS = (
    "2D V-Net",
    "+ 2.5D",
    "+ multi-scale",
    "+ squeeze-and-excitation",
    "+ attention gates",
    "+ dilated bottom",
    "+ focal, weighted Dice",
    "+ resampling",
)


def rung_plan(plan: Plan, rung: int, seed: int, steps: int) -> Plan:
    """The planner's plan without what comes above a rung."""
    tumor = plan.tumor
    depth = tumor.slab_depth if rung >= 1 else 1
    network = replace(
        tumor.network,
        slab_depth=depth,
        multi_scale=rung >= 2,
        squeeze_excitation=rung >= 3,
        attention_gates=rung >= 4,
        dilated_bottom=rung >= 5,
    )
    plain = replace(tumor.loss, focal_weight=0.0, background_weight=0.0, prior=0.5)
    loss = tumor.loss if rung >= 6 else plain
    alike = replace(tumor.sampling, hard_share=0.0, hard_case_strength=0.0)
    sampling = tumor.sampling if rung >= 7 else alike
    schedule = replace(tumor.schedule, epochs=EPOCHS, steps_per_epoch=max(1, steps // EPOCHS))
    return replace(
        plan,
        seed=seed,
        tumor=replace(
            tumor,
            slab_depth=depth,
            network=network,
            loss=loss,
            sampling=sampling,
            schedule=schedule,
        ),
    )


def prepare(work: Path, cases: int, masks: Path | None) -> Workspace:
    """Painted scans, checked, planned for a small training and preprocessed."""
    place = Workspace(root=work / "data")
    painting = ["demo", "-o", str(work / "data"), "--cases", str(cases), "--only-data"]
    if masks is not None:
        painting += ["--masks", str(masks), "--spacing", "4", "2", "2"]
    _kitspipe(painting)
    raw = str(work / "data" / "raw")
    _kitspipe(["plan_and_preprocess", "-d", raw, "-w", str(place.root), "--size", "small"])
    return place


def train(data: Workspace, work: Path, plan: Plan, name: str, threads: int) -> Path:
    """Fold 0 of the tumor stage by the command line; its validation masks' folder."""
    place = Workspace(root=work / name)
    place.plan_file.parent.mkdir(parents=True, exist_ok=True)
    for file in (data.fingerprint_file, data.splits_file):
        (place.plan_file.parent / file.name).write_bytes(file.read_bytes())
    write_document(place.plan_file, plan)
    if not (place.root / "preprocessed").exists():
        (place.root / "preprocessed").symlink_to((data.root / "preprocessed").resolve())
    masks = place.fold_folder("tumor", 0) / "validation"
    if not (masks / "summary.json").exists():
        command = ["train", "tumor", "0", "-w", str(place.root), "--workers", "0", "-q"]
        _kitspipe(command, threads)
    return masks


def scores(data: Workspace, masks: Path) -> dict[str, CaseScore]:
    """Every validation case's score."""
    raw = data.root / "raw"
    return {
        case: score_case(raw / case / "segmentation.nii.gz", masks / f"{case}.nii.gz")
        for case in read_fold(data, 0)[1]
    }


def table(found: Sequence[Sequence[dict[str, CaseScore]]]) -> None:
    """A row for each rung; seeds are averaged within a case."""
    cases = sorted(found[0][0])

    def of(rung: int, field: str) -> NDArray[np.float64]:
        return np.mean([[getattr(seed[case], field) for case in cases] for seed in found[rung]], 0)

    cysts = np.array([found[0][0][case].has_cyst for case in cases])
    print(f"{len(cases)} validation cases, {cysts.sum()} with cysts, {len(found[0])} seeds")
    print(f"{'':26}{'tumor Dice':>26}{'to the rung before':>28}{'false tumors a scan':>28}")
    for rung, name in enumerate(RUNGS[: len(found)]):
        dice, false = of(rung, "tumor"), of(rung, "false_tumors")
        step = interval(dice - of(rung - 1, "tumor")) if rung else ""
        each = " ".join(
            f"{np.mean([seed[case].tumor for case in cases]):.3f}" for seed in found[rung]
        )
        print(f"{name:26}{interval(dice):>26}{step:>28}{interval(false):>28}   seeds {each}")
    if len(found) == len(RUNGS) and cysts.any():
        before, after = of(len(RUNGS) - 2, "false_ml")[cysts], of(len(RUNGS) - 1, "false_ml")[cysts]
        print(
            f"false tumor on scans with cysts, ml: {interval(before)} without resampling, "
            f"{interval(after)} with: {100 * (1 - after.sum() / before.sum()):.0f} % less"
        )


def _kitspipe(arguments: list[str], threads: int | None = None) -> None:
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [sys.executable, "-m", "kitspipe.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"kitspipe {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Train what is missing, score all, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where all is written")
    parser.add_argument("--masks", type=Path, help="paint around these instead of invented ones")
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--parallel", type=int, default=2, help="trainings at once, a thread each")
    options = parser.parse_args()
    data = prepare(options.work, options.cases, options.masks)
    plan = read_plan(data)
    # All rungs of a seed first, so that a stopped run has whole ladders.
    jobs = [(rung, seed) for seed in range(options.seeds) for rung in range(len(RUNGS))]

    def one(job: tuple[int, int]) -> dict[str, CaseScore]:
        rung, seed = job
        variant = rung_plan(plan, rung, seed, options.steps)
        masks = train(data, options.work, variant, f"rung_{rung}_seed_{seed}", 1)
        found = scores(data, masks)
        mean = np.mean([score.tumor for score in found.values()])
        print(f"  {RUNGS[rung]}, seed {seed}: {mean:.3f}", flush=True)
        return found

    with ThreadPoolExecutor(options.parallel) as pool:
        results = dict(zip(jobs, pool.map(one, jobs), strict=True))
    table([[results[rung, seed] for seed in range(options.seeds)] for rung in range(len(RUNGS))])
    (options.work / "ladder.json").write_text(
        json.dumps(
            [
                {"rung": RUNGS[rung], "seed": seed, "tumor": {c: s.tumor for c, s in found.items()}}
                for (rung, seed), found in results.items()
            ]
        )
    )


if __name__ == "__main__":
    main()
