"""A data set's files in another layout, by links where the bytes are right as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from kitspipe import console
from kitspipe.dataset.cases import (
    KITS_IMAGE,
    KITS_MASKS,
    Case,
    duplicate_ids,
    find_dataset,
    find_images,
    find_masks,
)
from kitspipe.dataset.check import KITS_LABELS
from kitspipe.dataset.dataset_json import read_label_values
from kitspipe.dataset.parallel import CaseFailure, for_each_case
from kitspipe.dataset.placing import PACKED, bring, in_the_way
from kitspipe.dataset.volume_files import volume_named, volumes
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_image, read_labels, write_image, write_labels
from kitspipe.imaging.values import count_labels
from kitspipe.imaging.volume import Volume
from kitspipe.workspace import write_bytes

Form = Literal["nnunet", "kits", "nifti"]
_NNUNET_NAME = re.compile(r"Dataset\d{3}_.+")
_MADE_BY = "kitspipe_convert"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is converted.

    Args:
        cases: scans, with masks where there are any.
        values: value in the masks -> value as KiTS has it (kidney 1, tumor 2, cyst 3).
        names_tell: whether the layout itself says which values there are (nnU-Net).
        settings: a file that the values come from, if any.
    """

    cases: tuple[Case, ...]
    values: Mapping[int, int]
    names_tell: bool
    settings: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What a conversion did.

    Args:
        written: cases of which a file was written.
        kept: cases that were there.
        failures: id and reason of those that are not.
    """

    written: int
    kept: int
    failures: tuple[tuple[str, str], ...]

    @property
    def rows(self) -> list[tuple[str, object]]:
        """For a summary."""
        return [("written", self.written), ("kept", self.kept), ("failed", len(self.failures))]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Result:
    is_new: bool
    values: frozenset[int]


def convert_dataset(
    source: Path, target: Path, form: Form, *, copy: bool, jobs: int | None
) -> Converted:
    """Write a source's cases into `target` in another layout; what is there is kept.

    Label values become KiTS's (kidney 1, tumor 2, cyst 3). A file is a relative link to the
    source's where that has the right bytes under another name only.

    Args:
        source: a KiTS or nnU-Net folder, or scans as `find_images` takes them; masks beside them
            in `masks/`.
        target: the folder that gets `imagesTr` and so on, `case_*/`, or `CASE.nii.gz`.
        form: `nnunet`, `kits`, or `nifti` for a folder of images with `masks/`.
        copy: copies in the place of links.
        jobs: processes; None one per core.

    Raises:
        UserError: nothing to convert, the target lies in the source, or its `dataset.json` is
            not one that this function wrote.
    """
    _refuse_inside(source, target)
    found = find_source(source)
    dataset_json = target / "dataset.json"
    if form == "nnunet":
        _refuse_foreign(dataset_json)
        if not _NNUNET_NAME.fullmatch(target.resolve().name):
            console.warning(f"{target}: nnU-Net finds data sets under names like Dataset220_KiTS")
    work = partial(convert_case, source=found, target=target, form=form, copy=copy)
    results = list(for_each_case(work, found.cases, jobs=jobs, label="convert"))
    failures = [r for r in results if isinstance(r, CaseFailure)]
    done = [r for r in results if isinstance(r, _Result)]
    if form == "nnunet" and done:
        told = set(found.values.values()) if found.names_tell else {1, 2}
        _write_dataset_json(dataset_json, told.union(*(result.values for result in done)))
    return Converted(
        written=sum(result.is_new for result in done),
        kept=sum(not result.is_new for result in done),
        failures=tuple((failure.case_id, str(failure.error)) for failure in failures),
    )


def find_source(path: Path) -> Source:
    """The cases of a path in any layout that is known.

    Raises:
        UserError: nothing there, or one id for two scans.
    """
    settings = path / "dataset.json"
    if settings.is_file() or (path / "imagesTr").is_dir():
        dataset = find_dataset(path)
        tests = path / "imagesTs"
        cases = [*dataset.cases, *(find_images(tests) if volumes(tests) else [])]
        named = read_label_values(settings)
        values = {value: KITS_LABELS[name] for name, value in named.items()}
        source = Source(cases=tuple(cases), values=values, names_tell=True, settings=settings)
    else:
        values = {value: value for value in KITS_LABELS.values()}
        cases = [*_other_cases(path)]
        source = Source(cases=tuple(cases), values=values, names_tell=False, settings=None)
    twice = duplicate_ids((case.id, case.image) for case in source.cases)
    for name, files in twice.items():
        raise UserError(
            path,
            found=f"{len(files)} scans named {name}: {', '.join(map(str, files))}",
            expected="one scan per name",
            remedy="rename or take away all but one",
        )
    return source


def convert_case(case: Case, *, source: Source, target: Path, form: Form, copy: bool) -> _Result:
    """Write one case's files, all or none.

    Raises:
        UserError: a file of the case can't be read, has labels that are not named, or there is
            another file under its name.
    """
    image, mask = _places(case, target, form)
    is_new = bring(case.image, image, copy=copy, rewrite=_rewrite_image)
    try:
        if case.labels is None:
            return _Result(is_new=is_new, values=frozenset())
        values = _values_in(case.labels, source) if form == "nnunet" else frozenset()
        is_same = all(old == new for old, new in source.values.items())
        is_new_mask = bring(
            case.labels,
            mask,
            copy=copy,
            rewrite=partial(_rewrite_labels, values=source.values, origin=case.labels),
            is_right=is_same,
            also_from=source.settings,
        )
    except BaseException:
        if is_new:
            image.unlink(missing_ok=True)
            with suppress(OSError):
                image.parent.rmdir()
        raise
    return _Result(is_new=is_new or is_new_mask, values=values)


def _other_cases(path: Path) -> list[Case]:
    """Cases of a KiTS folder, or scans with masks in `masks/` or beside `imaging`."""
    try:
        return [*find_dataset(path).cases]
    except UserError:
        scans = find_images(path)
    beside = volume_named(path, KITS_IMAGE) and any(volume_named(path, n) for n in KITS_MASKS)
    place = path if beside else path / "masks"
    masks = find_masks(place) if beside or volumes(place) else {}
    return [Case(id=scan.id, image=scan.image, labels=masks.get(scan.id)) for scan in scans]


def _places(case: Case, target: Path, form: Form) -> tuple[Path, Path]:
    if form == "kits":
        folder = target / case.id
        return folder / f"{KITS_IMAGE}{PACKED}", folder / f"{KITS_MASKS[0]}{PACKED}"
    if form == "nifti":
        return target / f"{case.id}{PACKED}", target / "masks" / f"{case.id}{PACKED}"
    folder = target / ("imagesTr" if case.labels else "imagesTs")
    return folder / f"{case.id}_0000{PACKED}", target / "labelsTr" / f"{case.id}{PACKED}"


def _rewrite_image(origin: Path, place: Path) -> None:
    volume, header = read_image(origin)
    write_image(place, volume, header)


def _rewrite_labels(
    origin_file: Path, place: Path, *, values: Mapping[int, int], origin: Path
) -> None:
    volume, header = read_labels(origin_file)
    _require_known(origin, np.flatnonzero(count_labels(volume.array)).tolist(), values)
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    write_labels(place, Volume(array=table[volume.array], grid=volume.grid), header)


def _values_in(mask: Path, source: Source) -> frozenset[int]:
    """Values of a mask as KiTS has them; empty where the layout names them all."""
    if source.names_tell:
        return frozenset()
    volume, _ = read_labels(mask)
    found = np.flatnonzero(count_labels(volume.array)).tolist()
    _require_known(mask, found, source.values)
    return frozenset(source.values[value] for value in found if value)


def _require_known(mask: Path, found: list[int], values: Mapping[int, int]) -> None:
    unknown = [value for value in found if value and value not in values]
    if unknown:
        raise UserError(
            mask,
            found=f"the values {unknown}",
            expected=f"0 and {sorted(values)}",
            remedy="mend the mask, or name its values in dataset.json",
        )


def _write_dataset_json(file: Path, values: set[int]) -> None:
    names = {name: value for name, value in KITS_LABELS.items() if value in values}
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **names},
        "numTraining": len(volumes(file.parent / "labelsTr")),
        "file_ending": PACKED,
        "converted_by": _MADE_BY,
    }
    write_bytes(file, f"{json.dumps(content, indent=2)}\n".encode())


def _refuse_foreign(file: Path) -> None:
    """Raise where a dataset.json is there that someone else wrote."""
    if not file.exists():
        return
    try:
        is_ours = json.loads(file.read_bytes()).get("converted_by") == _MADE_BY
    except (ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise in_the_way(file)


def _refuse_inside(source: Path, target: Path) -> None:
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            target,
            found=f"a folder in {source}, or the same",
            expected="a folder outside of what is converted",
            remedy="choose another folder with -o",
        )
    if target.exists() and not target.is_dir():
        raise in_the_way(target)
