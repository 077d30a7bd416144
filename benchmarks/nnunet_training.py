"""A few steps of nnU-Net's own trainer with its planned network, for `training.py`.

Runs with the Python of nnU-Net's environment; prints numbers as JSON in its last line.

    python nnunet_training.py PREPROCESSED STEPS SHRINK DEVICE
"""

import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main() -> None:
    """Train for some steps; the first warms up, of the others the median counts."""
    preprocessed, steps, shrink = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    device = torch.device(sys.argv[4])
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    divisor = [math.prod(axis) for axis in zip(*strides, strict=True)]
    patch = [
        max(d, n // shrink // d * d)
        for n, d in zip(configuration["patch_size"], divisor, strict=True)
    ]
    configuration["patch_size"] = patch
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, "3d_fullres", "all", dataset, device=device)
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    walls, waits, cpus = [], [], []
    for _ in range(steps + 1):
        started, cpu = time.perf_counter(), time.process_time()
        batch = next(trainer.dataloader_train)
        waits.append(time.perf_counter() - started)
        trainer.train_step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    print()
    print(
        json.dumps(
            {
                "first_s": walls[0],
                "wall_s": statistics.median(walls[1:]),
                "cpu_s": statistics.median(cpus[1:]),
                "waiting": sum(waits[1:]) / sum(walls[1:]),
                "patch": patch,
                "batch": configuration["batch_size"],
                "peak_gib": peak / 1024**3,
                "bfloat16": device.type == "cuda",
            }
        ),
        flush=True,
    )
    # Its loading processes would be waited for, here and by whoever reads what they could print.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
