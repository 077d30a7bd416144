"""kitspipe_evaluate on a set of KiTS's size, beside the official code's formulas.

Pairs of 512 x 512 x 100 are made of real masks: slices drawn to 100, the prediction moved by a
voxel, some tumors dropped, some made up, some cases empty. kitspipe_evaluate scores all of them,
with every metric, files and intervals. The official scoring code is not on PyPI; its formulas
(tests/official_kits.py: Dice and Surface Dice by the package surface-distance, files by SimpleITK)
score the first of them in one process, which is how it runs. Prints seconds, processor seconds a
case, peak memory of all processes, and the largest difference between the two.

    python benchmarks/evaluate.py --masks KITS --work FOLDER --cases 210 --official 15 --jobs 2
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from process_tree import Run, run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import official_kits

MIB = 1024**2
SIDE = 512
BIN = Path(sys.executable).parent


def make(masks: Path, work: Path, cases: int, slices: int) -> None:
    """Pairs of masks with slices on the first file axis; what is there is kept."""
    files = sorted(masks.glob("case_*/segmentation.nii.gz"))
    for folder in ("references", "predictions"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        reference = work / "references" / f"case_{number:05d}.nii.gz"
        prediction = work / "predictions" / f"prediction_{number:05d}.nii.gz"
        if prediction.exists():
            continue
        image = nibabel.load(files[number % len(files)])
        labels, affine = _of_size(np.asarray(image.dataobj, np.uint8), image.affine, slices)
        predicted = _spoiled(labels, np.random.default_rng(number))
        for file, array in ((reference, labels), (prediction, predicted)):
            nibabel.save(nibabel.Nifti1Image(array, affine), file)


def official(work: Path, cases: int) -> None:
    """Score the first cases by the official formulas; a row each on standard output."""
    for reference in sorted((work / "references").glob("*.nii.gz"))[:cases]:
        name = reference.name.removesuffix(".nii.gz")
        prediction = work / "predictions" / f"prediction_{name.removeprefix('case_')}.nii.gz"
        images = [sitk.ReadImage(str(file)) for file in (reference, prediction)]
        spacing = images[1].GetSpacing()[::-1]
        row = official_kits.kits23_row(*map(sitk.GetArrayFromImage, images), spacing)
        print(name, *row)


def differences(output: str, table: Path) -> list[float]:
    """Between rows of the official formulas and our evaluation.csv."""
    with table.open(encoding="utf-8") as file:
        ours = {row.pop("caseID"): [*map(float, row.values())] for row in csv.DictReader(file)}
    rows = [line.split() for line in output.splitlines() if line.startswith("case_")]
    return [abs(float(a) - b) for name, *row in rows for a, b in zip(row, ours[name], strict=True)]


def _of_size(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], slices: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """So many slices over the same extent, 512 x 512 pixels."""
    factor = len(labels) / slices
    chosen = np.minimum((np.arange(slices) + 0.5) * factor, len(labels) - 1).astype(int)
    sized = np.zeros((slices, SIDE, SIDE), np.uint8)
    rows, columns = (min(SIDE, n) for n in labels.shape[1:])
    sized[:, :rows, :columns] = labels[chosen, :rows, :columns]
    scaled = affine.copy()
    scaled[:, 0] *= factor
    return sized, scaled


def _spoiled(labels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    predicted = np.roll(labels, rng.integers(-1, 2, 3), (0, 1, 2))
    fate = rng.random()
    if fate < 0.02:
        predicted[:] = 0
    elif fate < 0.12:
        predicted[predicted == 2] = 1
    elif fate < 0.4:
        z, y, x = rng.choice(np.argwhere(predicted == 1))
        predicted[max(0, z - 2) : z + 2, max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = 2
    return predicted


def _measured(command: Sequence[str | Path]) -> tuple[Run, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done, used


def main() -> None:
    """Make the pairs, score them, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, help="folder of case_*/segmentation.nii.gz")
    parser.add_argument("--work", type=Path, required=True, help="where all is written")
    parser.add_argument("--cases", type=int, default=210)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--official", type=int, default=15, help="cases for the official formulas")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only-official", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_official:
        official(options.work, options.official)
        return
    started = time.perf_counter()
    make(options.masks, options.work, options.cases, options.slices)
    print(f"pairs made in {time.perf_counter() - started:.0f} s", flush=True)
    out = options.work / "evaluation"
    folders = ["-r", options.work / "references", "-i", options.work / "predictions", "-o", out]
    done, used = _measured([BIN / "kitspipe_evaluate", *folders, "-j", str(options.jobs)])
    _print(f"kitspipe_evaluate, {options.jobs} processes", done, used, options.cases)
    command = [sys.executable, __file__, "--only-official", "--work", options.work]
    theirs, their_used = _measured([*command, "--official", str(options.official)])
    _print("official formulas, 1 process", theirs, their_used, options.official)
    ratio = (their_used / options.official) / (used / options.cases)
    print(f"processor time of a case: ratio {ratio:.1f}")
    found = differences(theirs.output, out / "evaluation.csv")
    print(f"largest difference of {len(found)} scores: {max(found):.1e} (8 decimals are written)")


def _print(name: str, done: Run, used: float, cases: int) -> None:
    print(
        f"{name}: {cases} cases in {done.seconds:.0f} s, {used / cases:.2f} processor seconds a "
        f"case, peak {done.peak_bytes / MIB:.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
