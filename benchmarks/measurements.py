"""What kitspipe_measure makes of known shapes and of real masks.

Discs, ellipses and balls are painted at random places of a voxel, 200 of each kind, and measured:
mean and standard deviation of the error. Then, with --masks, the masks of a KiTS folder: the range
of each number, what warnings say, the time and memory, and how much changes where every second
slice is left out.

    python benchmarks/measurements.py --masks KITS [--every 1] [--jobs 2]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from kitspipe.dataset.cases import find_masks
from kitspipe.evaluation import outline
from kitspipe.evaluation.diameters import axial_diameters, largest_diameter_mm
from kitspipe.evaluation.measure import measure_case
from kitspipe.evaluation.measurements import CaseMeasurement, TumorMeasurement
from kitspipe.imaging.formats import read_labels
from kitspipe.imaging.volume import Grid, Triple, Volume
from kitspipe.planning.plan import Labels
from kitspipe.prediction.memory_use import peak_mib

VALUES = Labels(cyst=3)
SHAPES = 200


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, default=None, help="folder of case_*/segmentation")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth mask")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    _ellipses()
    _balls()
    if given.masks is not None:
        _real(given.masks, given.every, given.jobs)


def _real(masks: Path, every: int, jobs: int) -> None:
    files = list(find_masks(masks).values())[::every]
    done = Parallel(n_jobs=jobs)(delayed(_measured)(file) for file in files)
    measured, halved, seconds, mib = zip(*done, strict=True)
    _ranges(measured)
    _changes(measured, halved)
    print(
        f"processor seconds a case: median {np.median(seconds):.1f}, most {max(seconds):.1f}; "
        f"peak of a process {max(mib):.0f} MiB"
    )


def _measured(file: Path) -> tuple[CaseMeasurement, CaseMeasurement, float, float]:
    """A mask whole and with half its slices, processor seconds of the first, peak MiB."""
    labels, _ = read_labels(file)
    before = time.process_time()
    whole = measure_case(labels, None, VALUES, file.parent.name)
    seconds = time.process_time() - before
    half = measure_case(_every_second_slice(labels), None, VALUES, file.parent.name)
    return whole, half, seconds, peak_mib()


def _ellipses() -> None:
    """Axial diameter of ellipses, by how far the outline lies beyond the voxels' centres."""
    kept = outline.BEYOND_CENTRE
    for name, flattest in (("discs", 1.0), ("ellipses", 0.5)):
        for beyond in (0.0, kept, 0.5):
            rng = np.random.default_rng(0)
            outline.BEYOND_CENTRE = beyond
            errors = []
            for _ in range(SHAPES):
                longest, mm = rng.uniform(8, 80), rng.uniform(0.5, 1.0)
                mask = _ellipse(longest, rng.uniform(flattest, 1) * longest, mm, rng)
                errors.append(axial_diameters(mask, (1.0, mm, mm)).largest_mm - longest)
            print(f"{name}, outline {beyond:g} voxels beyond centres: {_mean_sd(errors)} mm")
    outline.BEYOND_CENTRE = kept


def _balls() -> None:
    rng = np.random.default_rng(1)
    for slice_mm in (1.0, 3.0, 5.0):
        axial, in_space = [], []
        for _ in range(SHAPES):
            diameter, mm = rng.uniform(10, 60), rng.uniform(0.5, 1.0)
            spacing = (slice_mm, mm, mm)
            mask = _ball(diameter, spacing, rng)
            axial.append(axial_diameters(mask, spacing).largest_mm - diameter)
            in_space.append(largest_diameter_mm(mask, spacing) - diameter)
        print(f"balls, {slice_mm:g} mm slices: axial {_mean_sd(axial)}, 3D {_mean_sd(in_space)} mm")


def _ellipse(
    longest: float, across: float, mm: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A slice with an ellipse of these diameters, turned at random, at a random place."""
    n, angle = int(longest / mm) + 4, rng.uniform(0, np.pi)
    y, x = (np.indices((n, n)) - (n - 1) / 2 - rng.uniform(-0.5, 0.5, (2, 1, 1))) * mm
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.asarray((u / longest) ** 2 + (v / across) ** 2 < 0.25)[None]


def _ball(diameter: float, spacing: Triple, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A ball at a random place."""
    shape = [int(diameter / s) + 4 for s in spacing]
    squares = [
        ((np.arange(n) - (n - 1) / 2 - rng.uniform(-0.5, 0.5)) * s) ** 2
        for n, s in zip(shape, spacing, strict=True)
    ]
    z, y, x = squares
    return np.asarray(z[:, None, None] + y[:, None] + x < diameter**2 / 4)


def _every_second_slice(labels: Volume) -> Volume:
    grid = labels.grid
    array = np.ascontiguousarray(labels.array[::2])
    thick = Grid(
        shape=(len(array), *grid.shape[1:]),
        spacing=(2 * grid.spacing[0], *grid.spacing[1:]),
        origin=grid.origin,
        direction=grid.direction,
    )
    return Volume(array=array, grid=thick)


def _ranges(measured: Sequence[CaseMeasurement]) -> None:
    kidneys = [kidney for case in measured for kidney in case.kidneys]
    tumors = [tumor for case in measured for tumor in case.tumors]
    scores = [tumor.renal for tumor in tumors if tumor.renal is not None]
    print(f"{len(measured)} cases, {len(kidneys)} kidneys, {len(tumors)} tumors")
    _range("kidney, tissue ml", [kidney.parenchyma_ml for kidney in kidneys])
    with_tumor = [
        kidney.parenchyma_ml
        for case in measured
        for kidney in case.kidneys
        if kidney.side in {tumor.side for tumor in case.tumors}
    ]
    _range(f"{len(with_tumor)} kidneys with tumor, tissue ml", with_tumor)
    _range("kidney, length mm", [kidney.length_mm for kidney in kidneys])
    for name in ("axial_diameter_mm", "perpendicular_mm", "diameter_3d_mm", "sphere_diameter_mm"):
        _range(f"tumor, {name}", [getattr(tumor, name) for tumor in tumors])
    for name in ("volume_ml", "exophytic_share", "contact_area_mm2", "sinus_distance_mm"):
        _range(f"tumor, {name}", [v for t in tumors if (v := getattr(t, name)) is not None])
    print("T size:", _counts(tumor.t_size for tumor in tumors))
    print("pole:", _counts(tumor.pole for tumor in tumors))
    print("R.E.N.A.L. total:", _counts(score.total for score in scores))
    print("complexity:", _counts(score.complexity for score in scores))
    for name in ("exophytic_points", "nearness_points", "location_points", "face"):
        print(f"{name}:", _counts(getattr(score, name) for score in scores))
    print("needs a look:", _counts(letter for score in scores for letter in score.needs_look))
    for case in measured:
        for text in case.warnings:
            print(f"warning of {case.case_id}: {text}")


def _changes(measured: Sequence[CaseMeasurement], halved: Sequence[CaseMeasurement]) -> None:
    """Of the largest tumors, which both have."""
    pairs = [(a.tumors[0], b.tumors[0]) for a, b in zip(measured, halved, strict=True)]

    def differences(name: str) -> list[float]:
        return [float(getattr(b, name) - getattr(a, name)) for a, b in pairs]

    print("every second slice left out, the largest tumors:")
    for name in ("axial_diameter_mm", "diameter_3d_mm", "exophytic_share"):
        found = np.abs(differences(name))
        print(f"  {name}: median change {np.median(found):.2f}, largest {found.max():.2f}")
    shares = [abs(b.volume_ml / a.volume_ml - 1) * 100 for a, b in pairs]
    print(f"  volume: median change {np.median(shares):.1f} %, largest {max(shares):.1f} %")
    print("  R.E.N.A.L. total:", _counts(_total(b) - _total(a) for a, b in pairs))


def _total(tumor: TumorMeasurement) -> int:
    return 0 if tumor.renal is None else tumor.renal.total


def _range(name: str, values: Sequence[float]) -> None:
    low, middle, high = np.min(values), np.median(values), np.max(values)
    print(f"{name}: median {middle:.3g}, {low:.3g} to {high:.3g}")


def _counts(values: object) -> str:
    found = Counter(values)  # type: ignore[call-overload]
    return ", ".join(f"{key}: {found[key]}" for key in sorted(found, key=str))


def _mean_sd(errors: Sequence[float]) -> str:
    return f"{np.mean(errors):+.2f} ± {np.std(errors):.2f}"


if __name__ == "__main__":
    main()
