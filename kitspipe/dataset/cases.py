"""A case, and finding cases in KiTS, nnU-Net, flat and DICOM folders. No voxels are read here."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kitspipe.dataset.dataset_json import read_label_values
from kitspipe.dataset.volume_files import (
    content_of,
    entries,
    is_volume,
    stem_of,
    suffix_of,
    volume_named,
    volumes,
)
from kitspipe.errors import UserError
from kitspipe.imaging.dicom import is_dicom, series_within
from kitspipe.imaging.formats import IMAGE_SUFFIXES

Layout = Literal["kits", "nnunet", "flat"]

# `aggregated_MAJ_seg` is KiTS21's reference (reference of its official evaluation).
KITS_IMAGE = "imaging"
KITS_MASKS = ("segmentation", "aggregated_MAJ_seg")
KITS_SUBFOLDERS = ("data", "dataset")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_PREDICTION = re.compile(r"prediction_(?P<number>\d+)")
_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One scan and, where there is one, its mask.

    Args:
        id: name of the case, safe as a file name.
        image: the CT: a volume file, a DICOM folder or a zip of one, or a series in these. In
            training layouts a file that should be there but is not keeps its place here, so that
            `check` can name it.
        labels: the mask's file, None without.

    Raises:
        ValueError: the id is empty, starts with a dot or has characters other than letters,
            digits, `_`, `.` and `-`.
    """

    id: str
    image: Path
    labels: Path | None

    def __post_init__(self) -> None:
        if not self.id or self.id != _safe_id(self.id):
            raise ValueError(f"case id {self.id!r} is not safe as a file name")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The cases of a folder, ordered by id.

    Args:
        folder: where they were looked for.
        layout: how the folder is arranged.
        cases: all cases, those that lack an image or a mask too.
        label_values: values of `kidney`, `tumor` and, where labelled, `cyst`; None where the
            layout does not say (KiTS).
    """

    folder: Path
    layout: Layout
    cases: tuple[Case, ...]
    label_values: dict[str, int] | None

    @property
    def labelled(self) -> tuple[Case, ...]:
        """Cases that can be learned from; KiTS folders also hold test scans without a mask."""
        return tuple(case for case in self.cases if case.labels is not None)


def find_dataset(folder: Path) -> Dataset:
    """The training cases of a folder in KiTS or nnU-Net raw layout.

    An image without a mask is a case whose `labels` is None, a mask without an image a case
    whose `image` does not exist.

    Raises:
        UserError: no such folder, neither layout, several channels, or a `dataset.json` that does
            not tell the labels.
    """
    _require_folder(folder)
    kits = _kits_folders(folder)
    if kits:
        return Dataset(
            folder=folder, layout="kits", cases=tuple(map(_kits_case, kits)), label_values=None
        )
    if (folder / "dataset.json").is_file() or (folder / "imagesTr").is_dir():
        return Dataset(
            folder=folder,
            layout="nnunet",
            cases=_nnunet_cases(folder),
            label_values=read_label_values(folder / "dataset.json"),
        )
    raise UserError(
        folder,
        found=content_of(folder),
        expected=(
            "case_*/imaging.nii.gz with segmentation.nii.gz (KiTS, also below data/ or dataset/), "
            "or dataset.json with imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz (nnU-Net raw)"
        ),
        remedy="name the folder that directly holds these with -d",
    )


def find_images(path: Path, series: str | None = None) -> list[Case]:
    """The scans to segment, ordered by id; `labels` is None in all.

    Args:
        path: a volume file; a folder of volumes (`_0000` of nnU-Net is no part of the id); a KiTS
            folder or one case of it; a DICOM series as folder or zip; a folder of such.
        series: UID of one series of a single DICOM folder or zip. It becomes part of the id, so
            that its mask does not stand for that of another series.

    Raises:
        UserError: nothing there, several channels, or one id for two scans; with `series`
            anything but one DICOM folder or zip, or no UID.
    """
    if series is not None:
        return [_series_case(path, find_images(path), series)]
    if path.is_file():
        return [_file_case(path)]
    _require_folder(path)
    kits = [path] if volume_named(path, KITS_IMAGE) else _kits_folders(path)
    images = [_image_case(folder) for folder in kits if volume_named(folder, KITS_IMAGE)]
    if not images and is_dicom(path):
        images = [Case(id=_safe_id(path.resolve().name), image=path, labels=None)]
    if not images:
        images = _flat_cases(path)
    if not images:
        raise UserError(
            path,
            found=content_of(path),
            expected=(
                f"CTs as {', '.join(IMAGE_SUFFIXES)} (also nnU-Net's imagesTs), KiTS folders "
                "case_*/imaging.nii.gz, or DICOM series as folders or .zip files"
            ),
            remedy="name the file, or the folder that directly holds them, with -i",
        )
    _refuse_duplicates(path, [(case.id, case.image) for case in images])
    return sorted(images, key=lambda case: case.id)


def _series_case(path: Path, cases: list[Case], series: str) -> Case:
    if len(cases) != 1 or not is_dicom(cases[0].image):
        raise UserError(
            path,
            found=f"--series {series}, but {len(cases)} scans, or one in another format",
            expected="--series with one folder or zip of DICOM slices",
            remedy="name that folder or zip with -i, or leave --series out",
        )
    [case] = cases
    image = series_within(case.image, series)
    return Case(id=f"{case.id}_{series}", image=image, labels=None)


def find_masks(folder: Path) -> dict[str, Path]:
    """Mask files by case id, ordered by id.

    Args:
        folder: a folder of masks `ID.nii.gz` or `prediction_00000.nii.gz` (KiTS submissions, the
            case is then `case_00000`), a KiTS folder or one case of it, an nnU-Net raw folder
            (its labelsTr), or one mask file.

    Raises:
        UserError: nothing there, or one id for two masks.
    """
    if folder.is_file() and is_volume(folder):
        return {_mask_id(folder): folder}
    _require_folder(folder)
    kits = [folder] if _kits_mask(folder) else _kits_folders(folder)
    found = [(_folder_id(case), mask) for case in kits if (mask := _kits_mask(case)) is not None]
    if not found:
        labels = folder / "labelsTr"
        found = [(_mask_id(file), file) for file in volumes(labels if labels.is_dir() else folder)]
    if not found:
        raise UserError(
            folder,
            found=content_of(folder),
            expected=(
                f"masks CASE or prediction_XXXXX as {', '.join(IMAGE_SUFFIXES)}, KiTS folders "
                "case_*/segmentation.nii.gz, or nnU-Net's labelsTr"
            ),
            remedy="name the folder that directly holds the masks",
        )
    _refuse_duplicates(folder, found)
    return dict(sorted(found))


def duplicate_ids(named: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Ids that stand for more than one file, with the files.

    Ids that differ in case only count as one: on some file systems they share a file name.
    """
    places: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for name, file in named:
        places[name.casefold()].append((name, file))
    return {same[0][0]: [file for _, file in same] for same in places.values() if len(same) > 1}


def _kits_folders(folder: Path) -> list[Path]:
    """Folders of KiTS cases; empty where none holds a KiTS file."""
    for place in (folder, *(folder / name for name in KITS_SUBFOLDERS)):
        cases = [sub for sub in entries(place) if sub.is_dir() and _is_kits_folder(sub)]
        if any(volume_named(case, KITS_IMAGE) or _kits_mask(case) for case in cases):
            return cases
    return []


def _is_kits_folder(folder: Path) -> bool:
    return folder.name.startswith("case_") or volume_named(folder, KITS_IMAGE) is not None


def _kits_case(folder: Path) -> Case:
    image = volume_named(folder, KITS_IMAGE) or folder / f"{KITS_IMAGE}{IMAGE_SUFFIXES[0]}"
    return Case(id=_folder_id(folder), image=image, labels=_kits_mask(folder))


def _kits_mask(folder: Path) -> Path | None:
    return next((mask for name in KITS_MASKS if (mask := volume_named(folder, name))), None)


def _image_case(folder: Path) -> Case:
    return Case(id=_folder_id(folder), image=_kits_case(folder).image, labels=None)


def _nnunet_cases(folder: Path) -> tuple[Case, ...]:
    images = [(_channel_id(file, strict=True), file) for file in volumes(folder / "imagesTr")]
    masks = [(_safe_id(stem_of(file)), file) for file in volumes(folder / "labelsTr")]
    if not images and not masks:
        raise UserError(
            folder,
            found=content_of(folder),
            expected=(
                "imagesTr/CASE_0000.EXT and labelsTr/CASE.EXT, EXT one of "
                + ", ".join(IMAGE_SUFFIXES)
            ),
            remedy="fill these folders, or name the right one with -d",
        )
    first_image, first_mask = dict(reversed(images)), dict(reversed(masks))
    cases = [Case(id=name, image=file, labels=first_mask.get(name)) for name, file in images]
    for name, file in masks:
        expected = folder / "imagesTr" / f"{stem_of(file)}_0000{suffix_of(file)}"
        # A second mask of a case (a.nii.gz, a.nrrd) stays a case of its own for check to name.
        if name not in first_image or file != first_mask[name]:
            cases.append(Case(id=name, image=first_image.get(name, expected), labels=file))
    return tuple(sorted(cases, key=lambda case: case.id))


def _file_case(path: Path) -> Case:
    if path.suffix.lower() == ".zip" and is_dicom(path):
        return Case(id=_safe_id(path.stem), image=path, labels=None)
    if not is_volume(path):
        raise UserError(
            path,
            found="a file of another kind",
            expected=f"a CT as {', '.join(IMAGE_SUFFIXES)}, or a .zip of a DICOM series",
            remedy="name such a file, or the folder of a DICOM series",
        )
    if stem_of(path) == KITS_IMAGE:
        return Case(id=_folder_id(path.parent), image=path, labels=None)
    return Case(id=_channel_id(path, strict=False), image=path, labels=None)


def _flat_cases(folder: Path) -> list[Case]:
    images = []
    for entry in entries(folder):
        if entry.is_file() and is_volume(entry):
            strict = folder.resolve().name.startswith("imagesT")
            images.append(Case(id=_channel_id(entry, strict=strict), image=entry, labels=None))
        elif (entry.is_dir() or entry.suffix.lower() == ".zip") and is_dicom(entry):
            name = entry.name if entry.is_dir() else entry.stem
            images.append(Case(id=_safe_id(name), image=entry, labels=None))
    return images


def _channel_id(file: Path, *, strict: bool) -> str:
    """The case of an nnU-Net file `CASE_0000.EXT`; other names stand for themselves.

    Outside nnU-Net's folders (not `strict`) `scan_0007` may be the seventh scan, and is a second
    channel only beside a `scan_0000`.
    """
    stem = stem_of(file)
    match = _CHANNEL.fullmatch(stem)
    if match is None:
        return _safe_id(stem)
    if match["channel"] == "0000":
        return _safe_id(match["case"])
    if strict or volume_named(file.parent, f"{match['case']}_0000"):
        raise UserError(
            file,
            found=f"channel {match['channel']} of {match['case']}",
            expected="one channel, CT, as _0000",
            remedy="take this file away; if it is a scan of its own, give it another name",
        )
    return _safe_id(stem)


def _mask_id(file: Path) -> str:
    match = _PREDICTION.fullmatch(stem_of(file))
    if stem_of(file) in KITS_MASKS:
        return _folder_id(file.parent)
    return f"case_{match['number']}" if match else _safe_id(stem_of(file))


def _folder_id(folder: Path) -> str:
    return _safe_id(folder.resolve().name)


def _safe_id(name: str) -> str:
    return _UNSAFE.sub("_", name).strip(".") or "case"


def _refuse_duplicates(folder: Path, named: list[tuple[str, Path]]) -> None:
    for name, files in duplicate_ids(named).items():
        raise UserError(
            folder,
            found=f"{len(files)} files for {name}: {', '.join(file.name for file in files)}",
            expected="one file per case",
            remedy="rename or take away all but one",
        )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            folder,
            found="another kind of file" if folder.exists() else "no such file or folder",
            expected="a folder with CTs or masks" if folder.exists() else "an existing path",
            remedy="mend the path",
        )
