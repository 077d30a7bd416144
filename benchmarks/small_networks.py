"""What a step of the planner's small networks takes on a CPU, by how threads wait and by kernel.

Each figure is the median of steps in a process of its own (threads read their waiting policy at
their start); the variants take turns, so that what else the machine does hits all of them.

    python benchmarks/small_networks.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import msgspec
import torch

from kitspipe.networks.device import memory_format, put_on
from kitspipe.networks.losses import KidneyLoss, TumorLoss
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning import recipes, rules

WAITING = {"sleep at once": "0", "spin 4000 (ours)": "4000", "spin 300000 (GNU's)": "300000"}
KIDNEY_PATCH, TUMOR_PATCH, TUMOR_BATCH = (24, 64, 64), (44, 48), 12
STEPS = 7


def measure(what: str, number: int) -> float:
    """Median seconds of a step.

    Args:
        what: "kidney" trains on `number` patches, "windows" predicts as many, "tumor" trains with
            kernels of `number`.
        number: see there.
    """
    if what == "tumor":
        config = rules.tumor_network(3, 2, "small").value
        network = VNet25D(msgspec.structs.replace(config, kernel_size=number))
        loss = TumorLoss(recipes.tumor_loss().value)
        image = torch.randn(TUMOR_BATCH, 3, *TUMOR_PATCH)
        target = torch.rand(TUMOR_BATCH, *TUMOR_PATCH) > 0.95
    else:
        network = ResUNet3D(rules.kidney_network((4.0, 3.4, 3.4), (1, 1, 1), "small").value)
        loss = KidneyLoss(recipes.kidney_loss().value)
        image = torch.randn(number, 1, *KIDNEY_PATCH)
        target = torch.rand(number, *KIDNEY_PATCH) > 0.95
    put_on(network, torch.device("cpu"))
    image = image.to(memory_format=memory_format(network))
    seconds = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        if what == "windows":
            with torch.inference_mode():
                network.forward_finest(image)
        else:
            loss(network(image), target.to(torch.uint8), 0.0).backward()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def in_process(what: str, number: int, spin_count: str) -> float:
    """The same in a new process whose OpenMP threads wait as told."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": spin_count}
    command = [sys.executable, __file__, "--measure", what, str(number)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


def compare(title: str, variants: dict[str, tuple[str, int, str]], rounds: int) -> None:
    """Measure the variants in turns; print medians and the ratio to the first."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            found[name].append(in_process(*variant))
    print(f"\n{title}")
    first = statistics.median(next(iter(found.values())))
    for name, seconds in found.items():
        median = statistics.median(seconds)
        print(f"  {name:32} {1000 * median:7.0f} ms  x{median / first:.2f}", flush=True)


def main() -> None:
    """All comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure[0], int(options.measure[1])))
        return
    steps = {name: ("kidney", 2, count) for name, count in WAITING.items()}
    compare("kidney step, 2 patches, by how threads wait", steps, options.rounds)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        compare("the same beside a process that fills a core", steps, options.rounds)
        busy.kill()
    windows = {f"{n} window(s)": ("windows", n, "4000") for n in (1, 2)}
    compare("kidney forward pass", windows, options.rounds)
    kernels = {f"kernels of {n}": ("tumor", n, "4000") for n in (3, 5)}
    compare(f"tumor step, {TUMOR_BATCH} slabs", kernels, options.rounds)


if __name__ == "__main__":
    main()
