"""Problems of a data set: which file, what was found, what was expected, what to do.

Arrays are (Z, Y, X), as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.case_files import CaseFiles
from kitspipe.dataset.cases import Case, Dataset, duplicate_ids
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.dataset.problems import Problem, Severity
from kitspipe.errors import UserError
from kitspipe.imaging.header import Header
from kitspipe.imaging.values import count_labels
from kitspipe.imaging.volume import MINIMAL_HU, Grid

# KiTS21/23; KiTS19 has no cysts (reference: KiTS, labels and files).
KITS_LABELS: Mapping[str, int] = {"kidney": 1, "tumor": 2, "cyst": 3}
# Cases whose masks the challenges keep: KiTS19 has 210-299, KiTS23 589-698.
KITS_TEST_CASES = (range(210, 300), range(589, 699))
# Headers keep float32 or six digits, which moves a corner by up to 0.001 mm; the finest KiTS
# voxel is 0.39 mm, so 0.01 mm is far from both noise and a shift that matters.
CORNER_TOLERANCE_MM = 0.01
# The coarsest KiTS scans: thicker slices than any the method was measured on.
MAXIMAL_SPACING_MM = 5.0
# Soft tissue, contrast-enhanced kidney included; any abdominal CT has several percent of it.
SOFT_TISSUE_HU = (-50, 250)
MINIMAL_SOFT_TISSUE_SHARE = 0.01
# Dense bone; only metal is above, and it fills far less than 0.5 % of a scan.
MAXIMAL_P99_5_HU = 2500
_SAMPLED_VOXELS = 2_000_000


def check_dataset(dataset: Dataset, jobs: int | None) -> list[Problem]:
    """All problems of all cases, in the order of the cases, then those between cases.

    Args:
        dataset: the cases.
        jobs: processes; None one per core, 1 works in this one.

    Raises:
        UserError: a process was killed from outside, as systems do that run out of memory.
    """
    names = KITS_LABELS if dataset.label_values is None else dataset.label_values
    work = partial(check_case, label_values=None, names=names)
    problems: list[Problem] = []
    results = for_each_case(work, dataset.cases, jobs=jobs, label="check")
    for found in results:
        problems += [failed(found)] if isinstance(found, CaseFailure) else found
    return problems + duplicate_problems(dataset.cases)


def check_case(
    case: Case,
    label_values: frozenset[int] | None,
    *,
    names: Mapping[str, int] = KITS_LABELS,
    files: CaseFiles | None = None,
) -> list[Problem]:
    """All problems of one case, errors of its files included; empty for a sound one.

    Args:
        case: the case.
        label_values: values that may stand in the mask beside 0; None for those of `names`.
        names: values of kidney, tumor and, where labelled, cyst.
        files: the case's, for what else needs their voxels.
    """
    files = files or CaseFiles(case)
    problems = partner_problems(case)
    image_grid = labels_grid = None
    mask = case.labels
    allowed = frozenset(names.values()) if label_values is None else label_values
    if case.image.exists():
        image_grid, found = _attempt(case, case.image, lambda: _seen_image(case, files))
        problems += found
    if mask is not None and mask.exists():
        labels_grid, found = _attempt(case, mask, lambda: _seen_mask(case, files, allowed, names))
        problems += found
    if image_grid is not None and labels_grid is not None:
        problems += _geometry_problems(case, image_grid, labels_grid)
    return problems


def failed(failure: CaseFailure) -> Problem:
    """The problem of a case whose files could not be looked at."""
    error = failure.error
    return Problem(
        case_id=failure.case_id,
        file=str(error.file),
        found=error.found,
        expected=error.expected,
        remedy=error.remedy,
        severity="error",
    )


def _attempt(
    case: Case, file: Path, look: Callable[[], tuple[Grid, list[Problem]]]
) -> tuple[Grid | None, list[Problem]]:
    """What `look` returns, or why it failed: no file may end the check of the others."""
    try:
        return look()
    except UserError as error:
        return None, [_problem(case, error.file, error.found, error.expected, error.remedy)]
    except MemoryError:
        expected, remedy = "memory for the whole file", "use fewer processes"
        return None, [_problem(case, file, "out of memory", expected, remedy)]
    except Exception as error:
        found = f"the check failed with {type(error).__name__}: {error}"
        remedy = "get the file anew; if it is whole, report this as a bug of kitspipe"
        return None, [_problem(case, file, found, "a whole, readable file", remedy)]


def _seen_image(case: Case, files: CaseFiles) -> tuple[Grid, list[Problem]]:
    volume, header = files.image
    return volume.grid, [
        *_doubtful(case, case.image, header),
        *_spacing_problems(case, volume.grid),
        *_hu_problems(case, np.asarray(volume.array, np.int16)),
    ]


def _seen_mask(
    case: Case, files: CaseFiles, allowed: frozenset[int], names: Mapping[str, int]
) -> tuple[Grid, list[Problem]]:
    volume, header = files.labels
    mask, array = files.mask_file, np.asarray(volume.array, np.uint8)
    doubts = _doubtful(case, mask, header)
    return volume.grid, doubts + _label_problems(case, mask, array, allowed, names)


def _doubtful(case: Case, file: Path, header: Header) -> list[Problem]:
    """What a header leaves open, and how it was taken."""
    expected = "a qform or sform that says how the patient lies"
    remedy = "look whether left is left; write the file again with its orientation"
    return [_problem(case, file, doubt, expected, remedy, "warning") for doubt in header.doubts]


def partner_problems(case: Case) -> list[Problem]:
    """That the scan or its mask is missing."""
    image, mask = case.image, case.labels
    problems = []
    if not image.exists():
        found = "no image" if mask is None else f"no image for the mask {mask}"
        remedy = "add the image, or take the case away"
        problems.append(_problem(case, image, found, "the CT of this case", remedy))
    if mask is None and _is_kits_test_case(case):
        found, expected = "no mask; KiTS keeps those of its test cases", "a mask to learn from"
        remedy = "nothing, the case is left out of training"
        problems.append(_problem(case, image, found, expected, remedy, "warning"))
    elif mask is None or not mask.exists():
        found = "no mask for this image" if mask is None else "no mask"
        remedy = "add the mask, or take the case away"
        problems.append(_problem(case, mask or image, found, "a mask of this case", remedy))
    return problems


def _is_kits_test_case(case: Case) -> bool:
    number = re.fullmatch(r"case_(\d{5})", case.id)
    return number is not None and any(int(number[1]) in numbers for numbers in KITS_TEST_CASES)


def _spacing_problems(case: Case, grid: Grid) -> list[Problem]:
    if max(grid.spacing) <= MAXIMAL_SPACING_MM + CORNER_TOLERANCE_MM:
        return []
    return [
        _problem(
            case,
            case.image,
            f"spacing {_numbers(grid.spacing)} mm in (Z, Y, X)",
            f"at most {MAXIMAL_SPACING_MM:g} mm",
            "use a thinner reconstruction; small tumors may lie between these slices",
            "warning",
        )
    ]


def _hu_problems(case: Case, array: NDArray[np.int16]) -> list[Problem]:
    """Values that no CT in HU has; the first that fits, since one cause explains the others."""
    low, high = int(array.min()), int(array.max())
    # An odd step meets every column of rows whose length is even.
    sample = array.ravel()[:: array.size // _SAMPLED_VOXELS | 1]
    inside = sample[sample > MINIMAL_HU]  # padding is there or not, whatever the scale
    p0_5, p99_5 = np.percentile(inside, (0.5, 99.5)) if inside.size else (low, low)
    found = f"values {low} to {high}, 99 % of them {p0_5:.0f} to {p99_5:.0f}"
    expected = "a CT in HU: air -1000, fat -100, water 0, soft tissue 20 to 250"
    remedy = "convert the CT anew with its rescale slope and intercept"

    def problem(said: str, remedy: str, severity: Severity) -> list[Problem]:
        return [_problem(case, case.image, f"{found}: {said}", expected, remedy, severity)]

    if low == high:
        return problem("all voxels are equal", "get the image anew", "error")
    if p0_5 >= 0 and high <= 255:
        return problem("gray levels of a picture, no HU", remedy, "error")
    if p0_5 >= 0 and _soft_tissue_share(sample, offset=1024) >= MINIMAL_SOFT_TISSUE_SHARE:
        return problem(
            "nothing below 0 and soft tissue near 1024, the intercept was not applied",
            "subtract 1024 from the image",
            "error",
        )
    if p0_5 >= 0:
        return problem("neither air nor fat", remedy, "warning")
    if _soft_tissue_share(sample) < MINIMAL_SOFT_TISSUE_SHARE:
        low_hu, high_hu = SOFT_TISSUE_HU
        return problem(f"almost nothing from {low_hu} to {high_hu}", remedy, "warning")
    if p99_5 - p0_5 < 50:
        return problem("too narrow for air, fat and tissue", remedy, "error")
    if p99_5 > MAXIMAL_P99_5_HU:
        return problem("more dense matter than bones are", remedy, "warning")
    return []


def _soft_tissue_share(sample: NDArray[np.int16], offset: int = 0) -> float:
    low_hu, high_hu = SOFT_TISSUE_HU
    values = sample.astype(np.int32) - offset
    return float(((values >= low_hu) & (values <= high_hu)).mean())


def _label_problems(
    case: Case,
    mask: Path,
    array: NDArray[np.uint8],
    allowed: frozenset[int],
    names: Mapping[str, int],
) -> list[Problem]:
    present = set(np.flatnonzero(count_labels(array)).tolist()) - {0}
    listed = ", ".join(map(str, sorted(present))) or "background only"
    problems = []
    unknown = sorted(present - allowed)
    if unknown:
        found = f"label {', '.join(map(str, unknown))}"
        expected = "background 0, " + ", ".join(f"{name} {names[name]}" for name in names)
        remedy = "set these voxels to one of the expected values"
        if "cyst" not in names:
            remedy += f', or name cysts in the labels of dataset.json: "cyst": {unknown[0]}'
        problems.append(_problem(case, mask, found, expected, remedy))
    if names["kidney"] not in present:
        found, expected = f"no kidney; labels: {listed}", f"voxels with kidney {names['kidney']}"
        remedy = "check that it is this case's mask and what its values mean"
        problems.append(_problem(case, mask, found, expected, remedy))
    if names["tumor"] not in present:
        found, expected = f"no tumor; labels: {listed}", f"voxels with tumor {names['tumor']}"
        remedy = "nothing, if this patient has none"
        problems.append(_problem(case, mask, found, expected, remedy, "warning"))
    return problems


def _geometry_problems(case: Case, image: Grid, labels: Grid) -> list[Problem]:
    if image.close_to(labels, CORNER_TOLERANCE_MM):
        return []
    what = "size" if image.shape != labels.shape else "place in the patient"
    return [
        _problem(
            case,
            case.labels or "",
            f"another {what} than the image's: {_geometry(labels)}",
            f"that of {case.image}: {_geometry(image)}, corners to {CORNER_TOLERANCE_MM:g} mm",
            "take the mask drawn on this image, or resample it onto the image's grid",
        )
    ]


def _geometry(grid: Grid) -> str:
    axes = " ".join(f"({_numbers(column)})" for column in zip(*grid.direction, strict=True))
    return (
        f"{' x '.join(map(str, grid.shape))} voxels of {_numbers(grid.spacing)} mm in (Z, Y, X), "
        f"origin ({_numbers(grid.origin)}), axes {axes}"
    )


def duplicate_problems(cases: Iterable[Case]) -> list[Problem]:
    """Ids that several cases have."""
    files = ((case.id, case.labels or case.image) for case in cases)
    return [
        Problem(
            case_id=name,
            file=", ".join(map(str, places)),
            found=f"{len(places)} cases with this id",
            expected="one case per id, upper and lower case alike",
            remedy="rename or take away all but one",
            severity="error",
        )
        for name, places in duplicate_ids(files).items()
    ]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{round(value, 4) + 0.0:g}" for value in values)


def _problem(
    case: Case,
    file: Path | str,
    found: str,
    expected: str,
    remedy: str,
    severity: Severity = "error",
) -> Problem:
    return Problem(
        case_id=case.id,
        file=str(file),
        found=found,
        expected=expected,
        remedy=remedy,
        severity=severity,
    )
