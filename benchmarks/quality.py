"""The planner's plan, the paper's choices and nnU-Net 2.8.1, each trained for the same wall time.

All see the same CTs, painted around masks of KiTS on a coarse grid, on the same machine, one after
the other; the same held-out cases are scored with the official metrics, by lesion and by size.
Intervals are of a bootstrap over cases; differences are paired.

    python benchmarks/quality.py --masks KITS --nnunet PYTHON --work FOLDER --minutes 12

"planner" is `kitspipe_plan --size small`, each stage trained once, on all cases. "two folds" is the
same, each stage trained on either half of the cases: the tumor stage sees kidneys that networks
predicted which had not seen the case, and prediction averages both. "paper" has the paper's choices
on the planner's grids and sizes of networks: no normalization in the kidney network, Dice alone, HU
inside the mask multiplied in, kernels of 5, five slices, PReLU, its windows, changes and sampling,
the largest tumor only. "nothing left out" are the planner's networks with `minimal_healthy_ml` 0.
The learning rate of "paper" is ten times the paper's, as there are a hundredth of its steps. Half
of the time goes to each stage.

nnU-Net plans its 3d_fullres for `--gpu-memory` GiB, so that its patches suit the machine, and runs
in bfloat16 where ours does on a CPU, which its own trainer would not. PYTHON is that of its
environment. Planning and preprocessing are not counted, prediction is printed. What is there
already is kept, so that a stopped run goes on. `--only` makes and prints some of them, so that two
commands, each pinned to a core, can work on one folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace
from preprocess import link_for_nnunet, nnunet_environment
from process_tree import run
from scores import CaseScore, interval, score_case

from kitspipe.evaluation.lesions import SIZE_BINS, size_bin
from kitspipe.networks.device import in_bfloat16
from kitspipe.planning.document import write_document
from kitspipe.planning.plan import HUWindow, Plan
from kitspipe.planning.planner import read_plan
from kitspipe.training.log import FoldLog
from kitspipe.workspace import STAGES, Workspace

BIN, HERE = Path(sys.executable).parent, Path(__file__).parent
MANY = 100_000


def paint(work: Path, masks: Path, cases: int, held_out: int, spacing: Sequence[float]) -> None:
    """`raw/` to learn from and `held_out/`; what is there is kept."""
    if (work / "raw").exists():
        return
    painted = work / "painted"
    command = [BIN / "kitspipe_demo", "--only-data", "--masks", masks, "--cases", str(cases)]
    run([*command, "-o", painted, "--spacing", *map(str, spacing)])
    folders = sorted((painted / "raw").iterdir()) + sorted((painted / "held_out").iterdir())
    # Every third or fourth: numbers of KiTS are in no order of size.
    chosen = {folders[round(at)] for at in np.linspace(0, len(folders) - 1, held_out)}
    (work / "held_out").mkdir(parents=True, exist_ok=True)
    for folder in chosen:
        folder.rename(work / "held_out" / folder.name)
    for folder in (painted / "held_out").iterdir():
        folder.rename(painted / "raw" / folder.name)
    (painted / "raw").rename(work / "raw")


def nothing_left_out(plan: Plan) -> Plan:
    """Kidneys that are lesion all through stay."""
    return replace(plan, tumor=replace(plan.tumor, minimal_healthy_ml=0.0))


def in_halves(plan: Plan) -> Plan:
    """Two folds."""
    return replace(plan, folds=2)


def paper_choices(plan: Plan) -> Plan:
    """The paper's, on the planner's grids, patches, channels and batches."""
    kidney, tumor = plan.kidney, plan.tumor
    optimizer = {"optimizer": "adam", "learning_rate": 1e-3, "decay": "steps", "weight_decay": 0.0}
    still = replace(
        kidney.augmentation, rotation_probability=0.0, scale_probability=0.0, blur_probability=0.0
    )
    return replace(
        plan,
        kidney=replace(
            kidney,
            hu_window=HUWindow(low_hu=-200, high_hu=200, center_hu=0, scale_hu=200),
            network=replace(kidney.network, norm="none", activation="prelu", dropout=0.3),
            loss=replace(kidney.loss, squared_denominator=True, cross_entropy_weight=0.0),
            sampling=replace(kidney.sampling, margin_mm=100.0, foreground_share=0.0),
            augmentation=replace(still, translation_share=0.0),
            schedule=replace(kidney.schedule, gradient_clip=None, **optimizer),
            window_blend="center",
        ),
        tumor=replace(
            tumor,
            slab_depth=5,
            mask_dilation_mm=5.0,
            hu_window=HUWindow(low_hu=-155, high_hu=245, center_hu=-155, scale_hu=400),
            network=replace(
                tumor.network,
                slab_depth=5,
                kernel_size=5,
                norm="instance",
                activation="prelu",
                mask_channel=False,
            ),
            sampling=replace(
                tumor.sampling, positive_share=0.5, hard_case_every=0.05, mask_jitter_mm=5.0
            ),
            augmentation=replace(
                tumor.augmentation,
                mirror_axes=(),
                rotation_probability=0.5,
                rotation_degrees=15.0,
                scale_probability=0.5,
                scale=(0.8, 1.25),
                blur_sigma=(0.5, 1.5),
            ),
            schedule=replace(tumor.schedule, gradient_clip=None, **optimizer),
            components="largest",
            minimal_tumor_ml=0.0,
            minimal_healthy_ml=0.0,
        ),
    )


def ours(
    work: Path, name: str, change: Callable[[Plan], Plan], folds: Sequence[str], minutes: float
) -> Path:
    """Both stages in these folds, then the held-out cases; the masks' folder."""
    place, raw = Workspace(root=work / name), work / "raw"
    masks = place.root / "predictions"
    if (masks / "run.json").exists():
        return masks
    common = ["-w", place.root, "-q"]
    if not place.plan_file.exists():
        run([BIN / "kitspipe_fingerprint", "-d", raw, *common])
        run([BIN / "kitspipe_plan", "--size", "small", *common])
        write_document(place.plan_file, change(read_plan(place)))
        run([BIN / "kitspipe_plan", *common])  # its folds
    run([BIN / "kitspipe_preprocess", "-d", raw, *common])
    limits = ["--epochs", str(MANY), "--max-time", f"{round(30 * minutes / len(folds))}s"]
    for stage in STAGES:
        for fold in folds:
            run([BIN / "kitspipe_train", stage, fold, *common, *limits])
    seconds = predict(work, place, masks)
    steps = {
        stage: sum(
            record["steps"]
            for log in (place.results_folder / stage).glob("fold_*/log.jsonl")
            for record in FoldLog(log).read()
        )
        for stage in STAGES
    }
    note = {"steps": steps, "predict_seconds": round(seconds, 1)}
    (place.root / "quality.json").write_text(json.dumps(note))
    return masks


def predict(work: Path, place: Workspace, masks: Path) -> float:
    """The held-out cases by a workspace's plan; seconds."""
    common = ["-w", place.root, "-q"]
    return run([BIN / "kitspipe_predict", "-i", work / "held_out", "-o", masks, *common]).seconds


def predict_anew(work: Path, name: str, change: Callable[[Plan], Plan]) -> Path:
    """The held-out cases by trained networks, with another plan for prediction; the masks."""
    place = Workspace(root=work / name)
    masks = place.root / f"predictions_{change.__name__}"
    if not (masks / "run.json").exists():
        plan = read_plan(place)
        write_document(place.plan_file, change(plan))
        try:
            predict(work, place, masks)
        finally:
            write_document(place.plan_file, plan)
    return masks


def nnunet(work: Path, python: Path, minutes: float, memory_gib: float, device: str) -> Path:
    """nnU-Net's 3d_fullres on all training cases, then the held-out ones; the masks' folder."""
    place = work / "nnunet"
    masks, name = place / "predictions", "Dataset001_Kidneys"
    if (place / "quality.json").exists():
        return masks
    link_for_nnunet(work / "raw", place / "nnunet_raw" / name)
    environment = nnunet_environment(place)
    if not (place / "nnunet_preprocessed" / name / "nnUNetPlans_3d_fullres").exists():
        commands = python.parent
        run([commands / "nnUNetv2_extract_fingerprint", "-d", "1", "-np", "1"], environment)
        run(
            [
                commands / "nnUNetv2_plan_experiment",
                "-d",
                "1",
                "-gpu_memory_target",
                str(memory_gib),
            ],
            environment,
        )
        run(
            [commands / "nnUNetv2_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "2"],
            environment,
        )
    shutil.rmtree(masks, ignore_errors=True)
    masks.mkdir(parents=True)
    command = [python, HERE / "nnunet_quality.py", place / "nnunet_preprocessed" / name, place]
    precision = "bfloat16" if in_bfloat16(torch.device(device)) else "float32"
    run(
        [*command, work / "held_out", masks, str(60 * minutes), device, precision],
        {**environment, "nnUNet_n_proc_DA": "2"},
    )
    return masks


def scores_of(work: Path, masks: Path) -> dict[str, CaseScore]:
    """What masks of the held-out cases are worth, by case."""
    return {
        case.name: score_case(case / "segmentation.nii.gz", masks / f"{case.name}.nii.gz")
        for case in sorted((work / "held_out").glob("case_*"))
    }


def table(scores: dict[str, dict[str, CaseScore]]) -> None:
    """A column for each training, a row for each number."""
    names = list(scores)
    cases = sorted(scores[names[0]])

    def row(title: str, cells: Sequence[str]) -> None:
        print(f"{title:34}" + "".join(f"{cell:>26}" for cell in cells))

    def values(name: str, field: str) -> np.ndarray:
        return np.array([getattr(scores[name][case], field) for case in cases], float)

    row(f"{len(cases)} held-out cases", names)
    for title, field in (("kidney Dice", "kidney"), ("tumor Dice", "tumor")):
        row(title, [interval(values(name, field)) for name in names])
        first = values(names[0], field)
        row(
            "  the first is ahead by",
            ["", *(interval(first - values(n, field)) for n in names[1:])],
        )
    for size in SIZE_BINS:
        found = [
            [
                is_found
                for of in scores[name].values()
                for mm, is_found in of.tumors_mm
                if size_bin(mm) == size
            ]
            for name in names
        ]
        row(f"tumors found, {size}", [f"{sum(each)} of {len(each)}" for each in found])
    row("false tumors a scan", [interval(values(name, "false_tumors")) for name in names])
    row(
        "in kidneys with cysts, no tumor",
        [f"{values(name, 'false_in_cystic_kidneys').sum():.0f}" for name in names],
    )
    covered = {name: values(name, "tumor_covered") for name in names}
    row(
        "true tumor with any label",
        [interval(each[~np.isnan(each)]) for each in covered.values()],
    )


def main() -> None:
    """Paint, train what is missing, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, required=True, help="KiTS folder with masks")
    parser.add_argument("--nnunet", type=Path, help="Python of nnU-Net's environment; none: ours")
    parser.add_argument("--work", type=Path, required=True, help="where all is written")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=12)
    parser.add_argument("--spacing", type=float, nargs=3, default=(4.0, 2.0, 2.0), help="mm, Z Y X")
    parser.add_argument("--minutes", type=float, default=12.0, help="that each one trains")
    parser.add_argument("--gpu-memory", type=float, default=1.0, help="that nnU-Net plans for, GiB")
    parser.add_argument("--device", default="cpu", help="nnU-Net's")
    parser.add_argument("--only", nargs="+", help="columns of the table to make now")
    options = parser.parse_args()
    work = options.work.resolve()
    paint(work, options.masks, options.cases, options.held_out, options.spacing)
    minutes = options.minutes
    ways: dict[str, Callable[[], Path]] = {
        "planner": lambda: ours(work, "planner", lambda plan: plan, ["all"], minutes),
        "nothing left out": lambda: predict_anew(work, "planner", nothing_left_out),
        "two folds": lambda: ours(work, "two folds", in_halves, ["0", "1"], minutes),
        "paper": lambda: ours(work, "paper", paper_choices, ["all"], minutes),
    }
    if options.nnunet:
        ways["nnunet"] = lambda: nnunet(
            work, options.nnunet, minutes, options.gpu_memory, options.device
        )
    folders = {name: make() for name, make in ways.items() if name in (options.only or ways)}
    scores = {name: scores_of(work, masks) for name, masks in folders.items()}
    for name in folders:
        if (work / name / "quality.json").exists():
            print(f"{name}: {(work / name / 'quality.json').read_text()}")
    table(scores)
    found = {
        name: {case: asdict(score) for case, score in of_cases.items()}
        for name, of_cases in scores.items()
    }
    (work / "quality.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
