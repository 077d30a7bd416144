"""How well the agreement of folds and mirrored passes predicts Dice, on painted scans.

Paints new scans (other seeds than kitspipe_demo's), spoils every second of them (noise, blur,
shifted HU, or less contrast: more in some than in others), predicts them with one fold and its
mirrored passes, and with the workspace's folds, and holds what `run.json` says against the true
Dice. Prints, for kidney and tumor: rank correlation with a bootstrap interval over
cases, the area under the curve for low Dice, how many of the worst fifth are among the first that
would be looked at, and how far the expected Dice is off.

    python benchmarks/predicted_quality.py --workspace DEMO --work FOLDER --single all

Where a fold but "all" is trained in both stages, run kitspipe_choose in the workspace before; else
there is no expected Dice, only agreement. What is predicted already is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu, spearmanr

from kitspipe.dataset.phantom_dataset import PhantomCase, phantom_cases
from kitspipe.dataset.phantoms import write_case
from kitspipe.evaluation.findings import Evidence, find, urgency
from kitspipe.evaluation.measure import measure_case
from kitspipe.evaluation.metrics import KITS_LABELS, kits19_scores
from kitspipe.imaging.formats import read_image, read_labels, write_image
from kitspipe.imaging.volume import Volume
from kitspipe.prediction.agreement import CaseQuality

BIN = Path(sys.executable).parent
SEED = 1
LOW = {"kidney": 0.9, "tumor": 0.7}
RESAMPLES = 2000
KINDS = ("noise", "blur", "shifted HU", "less contrast")
Array = NDArray[np.float64]


def paint(work: Path, cases: int) -> None:
    """New scans, every second spoiled; what is there is kept."""
    todo = [
        (number, case)
        for number, case in enumerate(phantom_cases(cases=cases, seed=SEED))
        if not (work / "scans" / f"{case.case_id}.nii.gz").exists()
    ]
    joblib.Parallel(n_jobs=2)(joblib.delayed(_paint_one)(work, *one) for one in todo)


def _paint_one(work: Path, number: int, case: PhantomCase) -> None:
    write_case(work / "references", case.case_id, case.anatomy(), case.seed)
    image, header = read_image(work / "references" / case.case_id / "imaging.nii.gz")
    hu = image.array.astype(np.float32)
    if number % 2:
        hu = _spoiled(hu, number // 2, np.random.default_rng(number))
    spoiled = Volume(array=np.clip(hu, -1024, 3000).astype(np.int16), grid=image.grid)
    write_image(work / "scans" / f"{case.case_id}.nii.gz", spoiled, header)


def _spoiled(hu: NDArray[np.float32], number: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One of four kinds, each from little to much."""
    much = rng.uniform(0.2, 1.0)
    kinds: tuple[Callable[[], NDArray[np.float32]], ...] = (
        lambda: hu + rng.normal(0, 120 * much, hu.shape).astype(np.float32),
        lambda: gaussian_filter(hu, 2.5 * much),
        lambda: hu + np.float32(rng.choice([-1, 1]) * 100 * much),
        lambda: np.float32(60) + (hu - np.float32(60)) * np.float32(1 - 0.8 * much),
    )
    return kinds[number % len(kinds)]()


def predict(
    work: Path, workspace: Path, name: str, options: Sequence[str]
) -> tuple[dict[str, Array], list[int]]:
    """(cases, 3) by stage: true Dice, agreement, expected Dice; NaN where there is none.

    With them the cases in the order of the review pages, where findings come before agreement.
    """
    output = work / name
    given = ["-i", work / "scans", "-o", output, "-w", workspace, "-q", *options]
    subprocess.run([BIN / "kitspipe_predict", *map(str, given)], check=True)
    records = json.loads((output / "run.json").read_bytes())["cases"]
    rows: dict[str, list[list[float]]] = {"kidney": [], "tumor": []}
    urgencies = []
    for case_id, record in sorted(records.items()):
        masks = (
            work / "references" / case_id / "segmentation.nii.gz",
            output / f"{case_id}.nii.gz",
        )
        true, predicted = (read_labels(mask)[0] for mask in masks)
        scores = kits19_scores(
            true.array.astype(np.uint8), predicted.array.astype(np.uint8), KITS_LABELS
        )
        quality = record["quality"] or {}
        image = read_image(work / "scans" / f"{case_id}.nii.gz")[0]
        evidence = Evidence(
            measurement=measure_case(predicted, image, KITS_LABELS, case_id),
            quality=CaseQuality(**quality),
            warnings=record["warnings"],
        )
        urgencies.append(urgency(find(evidence), quality.get("tumor_agreement")))
        for stage, of_stage in rows.items():
            values = quality.get(f"{stage}_agreement"), quality.get(f"expected_{stage}_dice")
            of_stage.append(
                [getattr(scores, stage), *(math.nan if v is None else v for v in values)]
            )
    order = sorted(range(len(urgencies)), key=urgencies.__getitem__)
    return {stage: np.array(of_stage) for stage, of_stage in rows.items()}, order


def tell(name: str, found: Array) -> None:
    """Print what a stage's agreement tells of its Dice; its name ends with the stage's."""
    low_dice = LOW["kidney" if "kidney" in name else "tumor"]
    found = found[np.isfinite(found[:, 0])]
    unknown = ~np.isfinite(found[:, 1])
    known = found[~unknown]
    dice, agreement, expected = known.T
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(known), (RESAMPLES, len(known)))
    rhos = [spearmanr(dice[draw], agreement[draw]).statistic for draw in draws]
    low, high = np.nanpercentile(rhos, [2.5, 97.5])
    print(f"{name}: {len(found)} cases, {int(unknown.sum())} without agreement")
    print(f"  true Dice {found[:, 0].mean():.3f}, from {found[:, 0].min():.3f}")
    print(f"  Spearman {spearmanr(dice, agreement).statistic:.3f} ({low:.3f} to {high:.3f})")
    bad = dice < low_dice
    if 0 < bad.sum() < len(bad):
        area = mannwhitneyu(agreement[~bad], agreement[bad]).statistic / bad.sum() / (~bad).sum()
        print(f"  area under the curve for Dice < {low_dice}: {area:.3f} ({bad.sum()} cases)")
    # What nothing is known of comes last.
    tell_order(found, np.argsort(np.where(unknown, np.inf, found[:, 1]), kind="stable").tolist())
    calibrated = np.isfinite(expected)
    if calibrated.any():
        off = (expected - dice)[calibrated]
        constant = np.abs(dice - np.median(dice))[calibrated]
        print(f"  expected less true Dice: mean {off.mean():+.3f}, without sign", end=" ")
        print(f"{np.abs(off).mean():.3f} (their median for all: {constant.mean():.3f})")


def tell_order(found: Array, order: Sequence[int]) -> None:
    """Print how many of the fifth with the lowest Dice come first in an order."""
    worst = {*np.argsort(found[:, 0], kind="stable")[: len(found) // 5].tolist()}
    for share in (5, 3, 2):
        first = {*order[: len(found) // share]}
        print(f"  {len(worst & first)} of the {len(worst)} worst are among the first {len(first)}")


def main() -> None:
    """Paint, predict in both ways, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--way", choices=("mirrored", "folds"), help="default: both")
    parser.add_argument("--single", default="0", help="the fold that is mirrored")
    given = parser.parse_args()
    paint(given.work, given.cases)
    ways = {"mirrored": ("-f", given.single, "--mirror"), "folds": ()}
    for name, options in ways.items():
        if given.way not in (name, None):
            continue
        by_stage, order = predict(given.work, given.workspace, name, options)
        for stage, found in by_stage.items():
            tell(f"{name}, {stage}", found)
            tell(f"{name}, not spoiled, {stage}", found[::2])
            for number, kind in enumerate(KINDS):
                some = found[1::2][number :: len(KINDS)]
                dice, agreement = (
                    f"{np.nanmin(some[:, n]):.2f} to {np.nanmax(some[:, n]):.2f}" for n in (0, 1)
                )
                print(f"{name}, {kind}, {stage}: true Dice {dice}, agreement {agreement}")
            print(f"{name}, {stage}, in the order of the review pages")
            tell_order(found, order)


if __name__ == "__main__":
    main()
