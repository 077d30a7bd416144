"""What a window of the kidney network takes on the CPU, as it was trained and made ready for it.

    python benchmarks/window.py [--rounds 3]

The network of a standard plan with random weights, a window of 64 x 256 x 256. Prints seconds,
processor seconds of user and system, page faults, and the peak memory of a process that does
nothing else, in float32 and, where that is what prediction takes, bfloat16.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

PLAN = {
    "levels": 4,
    "channels": (16, 32, 64, 128),
    "strides": ((2, 2, 2),) * 3,
    "convolutions_per_level": (1, 2, 2, 2),
    "norm": "instance",
    "activation": "leaky_relu",
    "dropout": 0.0,
    "target_refinement": (1, 2, 2),
}
SHAPE = (1, 1, 64, 256, 256)


def measure(how: str, precision: str, rounds: int) -> None:
    """Run windows in this process and print what each took, after one to warm up."""
    import torch

    from kitspipe.networks.device import autocast, put_on
    from kitspipe.networks.inference import for_prediction
    from kitspipe.networks.resunet3d import ResUNet3D
    from kitspipe.planning.plan import ResUNet3DConfig

    torch.manual_seed(0)
    on = torch.device("cpu")
    network = ResUNet3D(ResUNet3DConfig(**PLAN))
    network = for_prediction(network, on) if how == "made ready" else put_on(network, on).eval()
    image = torch.randn(SHAPE)
    for number in range(rounds + 1):
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        with torch.inference_mode(), autocast(on, precision):
            network.forward_finest(image)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
        if number:
            print(
                f"{precision:8} {how:10} {seconds:5.2f} s, user "
                f"{after.ru_utime - before.ru_utime:5.2f} s, system "
                f"{after.ru_stime - before.ru_stime:5.2f} s, "
                f"{(after.ru_minflt - before.ru_minflt) / 1e6:.2f} million page faults, peak "
                f"{after.ru_maxrss / 2**20:.2f} GiB",
                flush=True,
            )


def main() -> None:
    """Each way in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        measure(*options.only, options.rounds)
        return
    for precision in ("float32", "auto"):
        for how in ("as trained", "made ready"):
            command = [sys.executable, __file__, "--rounds", str(options.rounds)]
            subprocess.run([*command, "--only", how, precision], check=True)


if __name__ == "__main__":
    main()
