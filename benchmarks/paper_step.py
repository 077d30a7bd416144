"""One training step of both networks of plans/kits19_paper.json at their full patch size.

Prints parameters, shapes of levels, seconds and peak memory of the process. Each stage runs in a
process of its own, so that its peak is its own.

    python benchmarks/paper_step.py
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from kitspipe.networks.describe import describe
from kitspipe.networks.device import memory_format, pick_device, put_on
from kitspipe.networks.losses import KidneyLoss, TumorLoss
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.memory import kidney_training_bytes, tumor_training_bytes
from kitspipe.planning.planner import read_plan
from kitspipe.training.schedule import make_optimizer
from kitspipe.workspace import STAGES, Workspace

GIB = 1024**3


def step(stage: str, device_name: str) -> None:
    """Build, run one update, print what it took."""
    device = pick_device(device_name)
    plan = read_plan(Workspace(root=Path("nowhere"), plan_name="kits19_paper"))
    description = describe(plan)[STAGES.index(stage)]
    print(f"\n{description.title}")
    for name, value in description.facts:
        print(f"  {name}: {value}")
    for level in description.levels:
        print("  " + "  ".join(level))
    part = plan.kidney if stage == "kidney" else plan.tumor
    batch = part.schedule.batch_size
    if stage == "kidney":
        network, loss = ResUNet3D(part.network), KidneyLoss(part.loss)
        image = torch.randn(batch, 1, *part.patch_size)
        refined = [
            n * r for n, r in zip(part.patch_size, part.network.target_refinement, strict=True)
        ]
        target = torch.rand(batch, *refined) > 0.9
        estimate = kidney_training_bytes(part.network, part.patch_size, batch, "adam")
    else:
        network, loss = VNet25D(part.network), TumorLoss(part.loss)
        image = torch.randn(batch, part.slab_depth, *part.patch_size)
        target = torch.rand(batch, *part.patch_size) > 0.99
        estimate = tumor_training_bytes(part.network, part.patch_size, batch, "adam")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    put_on(network, device)
    optimizer = make_optimizer(network, part.schedule)
    image = image.to(device, memory_format=memory_format(network))
    started = time.perf_counter()
    value = loss(network(image), target.to(device, torch.uint8), 0.0)
    value.backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  one step, batch of {batch}, on {device}: {seconds:.1f} s, loss {value.item():.3f}")
    print(f"  peak memory of the process: {peak / GIB:.2f} GiB, {before / GIB:.2f} before the step")
    print(f"  planner's estimate for training: {estimate / GIB:.2f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stage", choices=STAGES)
    options = parser.parse_args()
    if options.stage:
        step(options.stage, options.device)
    else:
        for each in STAGES:
            subprocess.run(
                [sys.executable, __file__, "--stage", each, "--device", options.device], check=True
            )
