"""Data sets of painted cases in KiTS layout: around invented anatomy, or around given masks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import joblib
import numpy as np

from kitspipe import console
from kitspipe.dataset.anatomy import Anatomy, anatomy_around, invent_anatomy
from kitspipe.dataset.cases import find_masks
from kitspipe.dataset.phantoms import MASK_NAME, write_case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_labels
from kitspipe.imaging.resample import resample_labels
from kitspipe.imaging.volume import Grid, Triple

DEMO_SPACING: Triple = (4.1, 2.6, 2.6)
DEMO_CASES = 56
_HELD_OUT_AT_MOST = 8

_EXTENT_MM: Triple = (250.0, 330.0, 330.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomCase:
    """What a painted case follows from.

    Args:
        case_id: its name.
        seed: decides anatomy and painting.
        mask: a file whose kidneys, tumors and cysts are taken; None: invented.
        spacing_mm: (Z, Y, X) that the mask is resampled to, None: as it is. Without a mask the
            spacing about which that of the cases is spread, None: `DEMO_SPACING`.
    """

    case_id: str
    seed: int
    mask: Path | None
    spacing_mm: Triple | None

    def anatomy(self) -> Anatomy:
        """The anatomy to paint.

        Raises:
            UserError: the mask can't be read.
        """
        if self.mask is None:
            return invent_anatomy(
                _invented_grid(self.spacing_mm or DEMO_SPACING, self.seed), self.seed
            )
        labels = read_labels(self.mask)[0]
        if self.spacing_mm is not None:
            labels = resample_labels(labels, labels.grid.with_spacing(self.spacing_mm))
        return anatomy_around(labels, self.seed)


def phantom_cases(
    *, cases: int | None, seed: int, masks: Path | None = None, spacing_mm: Triple | None = None
) -> list[PhantomCase]:
    """The cases of a painted data set.

    Args:
        cases: how many; None: `DEMO_CASES`, or all masks; at most as many as there are masks.
        seed: decides everything; a case does not depend on how many there are.
        masks: a KiTS folder (or any that `find_masks` reads) whose masks are the anatomy.
        spacing_mm: see `PhantomCase`.

    Raises:
        UserError: no masks there.
    """
    if masks is None:
        named: list[tuple[str, Path | None]] = [
            (f"case_{index:05d}", None) for index in range(cases or DEMO_CASES)
        ]
    else:
        named = list(islice(find_masks(masks).items(), cases))
    return [
        PhantomCase(case_id=case_id, seed=_case_seed(seed, index), mask=mask, spacing_mm=spacing_mm)
        for index, (case_id, mask) in enumerate(named)
    ]


def paint_demo(
    output: Path,
    *,
    masks: Path | None = None,
    cases: int | None = None,
    spacing_mm: Triple | None = None,
) -> tuple[Path, Path]:
    """Folders with painted cases for training and, a fifth of all but at most 8, held out.

    Cases that are there are kept: a run that was stopped goes on.

    Args:
        output: a folder; the two are its `raw` and `held_out`.
        masks: as for `phantom_cases`.
        cases: as for `phantom_cases`.
        spacing_mm: as for `phantom_cases`.

    Raises:
        UserError: fewer than two cases, or masks as for `phantom_cases`, or the folders hold
            cases of another demo.
    """
    planned = phantom_cases(cases=cases, seed=0, masks=masks, spacing_mm=spacing_mm)
    if len(planned) < 2:
        raise UserError(
            "--cases",
            found=f"{len(planned)} case",
            expected="at least two: one to train on and one that is held out",
            remedy="ask for more cases",
        )
    raw, held_out = output / "raw", output / "held_out"
    n_training = len(planned) - min(_HELD_OUT_AT_MOST, max(1, len(planned) // 5))
    folders = [raw] * n_training + [held_out] * (len(planned) - n_training)
    _refuse_others(
        output, {folder / case.case_id for folder, case in zip(folders, planned, strict=True)}
    )
    todo = [
        (folder, case)
        for folder, case in zip(folders, planned, strict=True)
        if not (folder / case.case_id / MASK_NAME).exists()
    ]
    painted = joblib.Parallel(n_jobs=-1, prefer="processes", return_as="generator")(
        joblib.delayed(_write_phantom)(folder, case) for folder, case in todo
    )
    for _ in console.progress(painted, len(todo), "paint"):
        pass
    return raw, held_out


def _write_phantom(folder: Path, case: PhantomCase) -> None:
    write_case(folder, case.case_id, case.anatomy(), case.seed)


def _refuse_others(output: Path, wanted: set[Path]) -> None:
    """A case that lay in both folders would be trained on and held out."""
    others = [
        f"{case.parent.name}/{case.name}"
        for folder in {case.parent for case in wanted}
        for case in sorted(folder.glob("*"))
        if case.is_dir() and case not in wanted
    ]
    if others:
        raise UserError(
            output,
            found=f"cases of another demo: {', '.join(others[:5])}",
            expected="an empty folder, or one of a demo with as many cases",
            remedy="name another folder with -o, or remove this one",
        )


def _case_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _invented_grid(spacing_mm: Triple, seed: int) -> Grid:
    rng = np.random.default_rng([seed, 13])
    in_plane = float(rng.uniform(0.93, 1.07))
    z, y, x = (
        s * f for s, f in zip(spacing_mm, (rng.uniform(0.8, 1.2), in_plane, in_plane), strict=True)
    )
    extent = np.array(_EXTENT_MM) * rng.uniform((0.92, 0.97, 0.97), (1.08, 1.05, 1.05))
    nz, ny, nx = (max(1, round(e / s)) for e, s in zip(extent, (z, y, x), strict=True))
    ox, oy, oz = map(float, rng.uniform((-180, -180, -900), (-140, -140, -100)))
    return Grid(shape=(nz, ny, nx), spacing=(z, y, x), origin=(ox, oy, oz))
