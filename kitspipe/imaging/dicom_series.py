"""What DICOM files say about themselves, and which of them are the slices of one CT volume."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from kitspipe import console
from kitspipe.errors import UserError
from kitspipe.imaging.dicom_bytes import (
    has_pixels,
    is_cut_start,
    may_be_ct,
    starts_as_dicom,
)

# Larger than any CT slice, compressed or not.
_MOST_SLICE_BYTES = 1 << 27
_MOST_RESCALED = 1e5  # A slope or intercept of HU.


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """One file: whose it is and where its first voxel lies, (x, y, z) mm in LPS.

    Args:
        file: it.
        series: UID.
        modality: `CT` or another.
        image_type: in capitals.
        description: of the series.
        size: columns, rows.
        spacing: mm, (x, y), as SimpleITK understands it.
        pixel_spacing: mm, (x, y), as the file has it; empty where it has none.
        position: empty where the file says nothing.
        orientation: of rows and of columns; empty where the file says nothing.
        has_rescale: whether it says how its values become HU, or keeps signed ones.
        is_plain: one value per pixel and one frame.
    """

    file: Path
    series: str
    modality: str
    image_type: str
    description: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    has_rescale: bool
    is_plain: bool

    @property
    def stack(self) -> tuple[object, ...]:
        """What slices of one volume share."""
        turned = tuple(round(value, 3) for value in self.orientation)
        return (self.series, self.size, tuple(round(s, 4) for s in self.spacing), turned)

    @property
    def is_scan(self) -> bool:
        """Whether it is an axial or other slice, no scout and no picture of a report."""
        is_ct = self.modality == "CT" and "LOCALIZER" not in self.image_type
        return is_ct and self.is_plain

    @property
    def is_placed(self) -> bool:
        """Whether it says where it lies."""
        return len(self.position) == 3 and len(self.orientation) == 6


def read_slice(file: Path, path: Path) -> Slice | None:
    """What a file says about itself; None where it is no DICOM image.

    Args:
        file: it.
        path: the folder that it is in, or the zip that it was unpacked from.

    Raises:
        UserError: a CT slice that can't be read, or is larger than its file can be.
    """
    if not starts_as_dicom(file):
        if is_cut_start(file):
            raise _damaged(file, path, f"a file of {file.stat().st_size} bytes that is no DICOM")
        return None
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        if may_be_ct(file):
            raise _damaged(file, path, "a slice that can't be read") from None
        return None
    tags = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
    size = reader.GetSize()
    part = Slice(
        file=file,
        series=tags.get("0020|000e", ""),
        modality=tags.get("0008|0060", "unknown"),
        image_type=tags.get("0008|0008", "").upper(),
        description=tags.get("0008|103e", "") or "without description",
        size=size[:2],
        spacing=reader.GetSpacing()[:2],
        pixel_spacing=_numbers(tags.get("0028|0030", ""))[::-1],
        position=_numbers(tags.get("0020|0032", "")),
        orientation=_numbers(tags.get("0020|0037", "")),
        has_rescale=_has_rescale(tags),
        is_plain=reader.GetNumberOfComponents() == 1 and math.prod(size[2:]) == 1,
    )
    if part.is_scan:
        _refuse_contradictions(part, tags, path)
    return part


def _has_rescale(tags: Mapping[str, str]) -> bool:
    """Whether the HU of values are known: as rescaled, or signed ones as they are."""
    if "0028|1052" not in tags:
        return tags.get("0028|0103") == "1"
    slope, intercept = _numbers(tags.get("0028|1053", "1")), _numbers(tags["0028|1052"])
    return (
        len(slope) == len(intercept) == 1
        and 0 < slope[0] <= _MOST_RESCALED
        and abs(intercept[0]) <= _MOST_RESCALED
    )


def _refuse_contradictions(part: Slice, tags: Mapping[str, str], path: Path) -> None:
    """Raise for a slice whose pixels are not those that it declares; SimpleITK would fill up."""
    bits = [_numbers(tags.get(key, "")) for key in ("0028|0100", "0028|0101", "0028|0102")]
    (allocated,), (stored,), (high,) = (found or (0.0,) for found in bits)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or high != stored - 1:
        raise _damaged(part.file, path, f"a slice with {stored:g} of {allocated:g} bits per value")
    if tags.get("0028|0004") != "MONOCHROME2":
        # SimpleITK turns these values around before they are rescaled.
        said = tags.get("0028|0004") or "nothing"
        raise _damaged(part.file, path, f"a slice whose PhotometricInterpretation says {said}")
    slice_bytes = math.prod(part.size) * int(allocated) // 8
    if slice_bytes > _MOST_SLICE_BYTES or not has_pixels(part.file, slice_bytes):
        found = f"a slice of {part.size[0]} x {part.size[1]} pixels, and other data in its file"
        raise _damaged(part.file, path, found)


def chosen_stack(slices: Sequence[Slice], path: Path, series: str | None) -> list[Slice]:
    """The CT stack with the most slices, of all series or of that with a UID.

    What is left out is said in a warning.

    Raises:
        UserError: there is none.
    """
    ranked = _ranked(slices, path)
    of_series = [stack for stack in ranked if series in (None, stack[0].series)]
    if not of_series or len(of_series[0]) < 2:
        raise _unknown_series(path, str(series), ranked)
    taken = of_series[0]
    _warn_of_others(taken, ranked, path, is_asked=series is not None)
    _warn_of_left_out(taken, slices, path)
    return taken


def refuse_without_series(slices: Iterable[Slice], path: Path, series: str) -> None:
    """Raise where no two slices make a CT stack of a series; ends with the second such slice.

    Args:
        slices: those that are there; it may read them on the way.
        path: the folder or zip that they are in.
        series: UID.

    Raises:
        UserError: there are none; the message names the CT series that there are.
    """
    seen: list[Slice] = []
    stacks: set[tuple[object, ...]] = set()
    for part in slices:
        is_of_series = part.series == series and part.is_scan and part.is_placed
        if is_of_series and part.stack in stacks:
            return
        if is_of_series:
            stacks.add(part.stack)
        seen.append(part)
    raise _unknown_series(path, series, _ranked(seen, path))


def _ranked(slices: Sequence[Slice], path: Path) -> list[list[Slice]]:
    """The CT stacks, that with the most slices first."""
    stacks: dict[tuple[object, ...], list[Slice]] = {}
    for part in slices:
        if part.is_scan and part.is_placed:
            stacks.setdefault(part.stack, []).append(part)
    ranked = sorted(stacks.values(), key=lambda stack: (-len(stack), stack[0].series))
    if not ranked or len(ranked[0]) < 2:
        kinds = sorted({part.modality for part in slices})
        raise UserError(
            path,
            found=f"{len(slices)} DICOM images ({', '.join(kinds) or 'none readable'}), "
            "none of them part of a stack of CT slices",
            expected="a CT series: two or more axial slices, one per file, with positions",
            remedy="name the folder of the CT series (multi-frame files: convert to NIfTI first)",
        )
    return ranked


def _unknown_series(path: Path, series: str, ranked: Sequence[Sequence[Slice]]) -> UserError:
    return UserError(
        path,
        found=f"no CT series {series}; there are: {', '.join(map(_named, ranked))}",
        expected="the SeriesInstanceUID of a CT series with two or more slices",
        remedy="name one of these with --series, or none for that with the most slices",
    )


def _named(stack: Sequence[Slice]) -> str:
    return f"{stack[0].description!r} ({len(stack)} slices, {stack[0].series})"


def _warn_of_others(
    taken: Sequence[Slice], ranked: Sequence[Sequence[Slice]], path: Path, *, is_asked: bool
) -> None:
    others = [stack for stack in ranked if stack[0].series != taken[0].series]
    if others and not is_asked:
        console.warning(
            f"{path}: took the CT series {_named(taken)}, not "
            f"{', '.join(map(_named, others))}; --series UID takes another"
        )


def _warn_of_left_out(taken: Sequence[Slice], slices: Sequence[Slice], path: Path) -> None:
    """Say so where images of the series that was taken have another size, spacing or direction."""
    kept = {part.file for part in taken}
    left = [
        part
        for part in slices
        if part.series == taken[0].series
        and part.file not in kept
        and "LOCALIZER" not in part.image_type
    ]
    if left:
        console.warning(
            f"{path}: left out {len(left)} images of the series {_named(taken)} that are not "
            f"slices of the same stack, such as {left[0].file.name}"
        )


def _damaged(file: Path, path: Path, found: str) -> UserError:
    return UserError(
        path if path.is_file() else file,
        found=found,
        expected="an undamaged DICOM slice",
        remedy="export the series again; a file that is no slice of it can be taken away",
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.rstrip("\0").split("\\"))
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()
