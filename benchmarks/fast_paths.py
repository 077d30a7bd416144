"""What prediction's short cuts cost in Dice: the fast paths against the plain one.

Paints cases that no network has seen, predicts each with a trained cascade by every window of the
plan ("plain"), as `kitspipe_predict` does by itself, and with `--fast`, and prints the Dice of each
against the painted labels, the differences, and the Dice of each path against the plain one.

    kitspipe_demo -o DEMO
    python benchmarks/fast_paths.py --workspace DEMO --cases 24 [--masks KITS]

Without `--masks` anatomy is invented, as the demo's is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kitspipe.dataset.phantom_dataset import phantom_cases
from kitspipe.dataset.phantoms import paint
from kitspipe.imaging.volume import Box, Grid
from kitspipe.prediction.cascade import Cascade, find_kidneys, segment
from kitspipe.prediction.effort import DEFAULT, FAST, PLAIN
from kitspipe.prediction.job import trained_folds
from kitspipe.prediction.run import load_cascade
from kitspipe.workspace import Workspace

EFFORTS = {"plain": PLAIN, "default": DEFAULT, "fast": FAST}
SEED = 77  # The demo paints with seed 0.


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2 * int((a & b).sum()) / total


def scores(labels: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Dice of the whole kidney and of tumor."""
    return {
        "kidney": dice(labels > 0, reference > 0),
        "tumor": dice(labels == 2, reference == 2),
    }


def with_effort(cascade: Cascade, name: str) -> Cascade:
    """The cascade asked otherwise; `--fast` asks one network of each stage."""
    effort = EFFORTS[name]
    last = 1 if effort.one_network else None
    return replace(cascade, effort=effort, kidney=cascade.kidney[:last], tumor=cascade.tumor[:last])


def middle_of(grid: Grid, width_mm: float) -> Box:
    """The middle of all slices."""
    start, stop = [0], [grid.shape[0]]
    for length, mm in zip(grid.shape[1:], grid.spacing[1:], strict=True):
        size = min(length, round(width_mm / mm))
        start.append((length - size) // 2)
        stop.append((length - size) // 2 + size)
    return Box(start=tuple(start), stop=tuple(stop))


def main() -> None:
    """Paint, predict three times, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, help="with a trained cascade")
    parser.add_argument("--masks", type=Path, help="paint around these masks")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--width-mm", type=float, help="of each slice, only the middle")
    parser.add_argument("--kidney-only", action="store_true")
    options = parser.parse_args()
    place = Workspace(root=options.workspace)
    stages = ("kidney",) if options.kidney_only else ("kidney", "tumor")
    cascade = load_cascade(place, trained_folds(place, "kidney")[-1:], "cpu", stages)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in EFFORTS}
    agreement: dict[str, list[dict[str, float]]] = {name: [] for name in EFFORTS}
    seconds = dict.fromkeys(EFFORTS, 0.0)
    cases = phantom_cases(cases=options.cases, seed=options.seed, masks=options.masks)
    for case in cases:
        anatomy = case.anatomy()
        image, reference = paint(anatomy, case.seed), anatomy.labels
        if options.width_mm is not None:
            middle = middle_of(image.grid, options.width_mm)
            image, reference = image.crop(middle), reference.crop(middle)
        plain = None
        for name in EFFORTS:
            asked = with_effort(cascade, name)
            if options.kidney_only:
                asked = replace(asked, tumor=[])
            started = time.process_time()
            labels = predict(image, asked, kidney_only=options.kidney_only)
            seconds[name] += time.process_time() - started
            plain = labels if plain is None else plain
            rows[name].append(scores(labels, reference.array))
            agreement[name].append(scores(labels, plain))
        found = {n: {k: round(v, 4) for k, v in rows[n][-1].items()} for n in EFFORTS}
        print(f"{case.case_id} {image.array.shape} {found}", flush=True)
    print(f"\n{len(cases)} painted cases; Dice against the painted labels, mean")
    for name in EFFORTS:
        line = f"  {name:8}"
        for what in ("kidney", "tumor"):
            means = [row[what] for row in rows[name]]
            lost = [p[what] - row[what] for p, row in zip(rows["plain"], rows[name], strict=True)]
            same = [row[what] for row in agreement[name]]
            line += (
                f"  {what} {statistics.mean(means):.4f} (lost {statistics.mean(lost):+.4f}, "
                f"at worst {max(lost):+.4f}; with plain {statistics.mean(same):.4f})"
            )
        print(f"{line}  processor {seconds[name]:.1f} s")


def predict(image, cascade: Cascade, *, kidney_only: bool) -> np.ndarray:  # noqa: ANN001
    """Labels of a scan."""
    if kidney_only:
        return find_kidneys(image, cascade).mask.astype(np.uint8)
    return segment(image, cascade).labels.array


if __name__ == "__main__":
    main()
