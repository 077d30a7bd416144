"""NIfTI, NRRD and MetaImage: read to canonical arrays (Z, Y, X), write onto the file's own grid.

The geometry is always what SimpleITK makes of a file, after its header was found sound. Voxels
are read by `nifti.py` and `text_header.py`, because SimpleITK takes truncated and corrupt files
for whole ones.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import SimpleITK as sitk
from isal import igzip
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from kitspipe.errors import UserError
from kitspipe.imaging import dicom, nifti, text_header
from kitspipe.imaging.header import NIFTI_HEADER_BYTES, Header, NiftiGeometry
from kitspipe.imaging.scratch import temporary_folder
from kitspipe.imaging.values import to_hounsfield, to_labels
from kitspipe.imaging.volume import Volume, contiguous
from kitspipe.workspace import not_written, replacing, temporary_beside

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")

_NRRD_GEOMETRY = ("space", "spacings", "centers", "centerings", "axis mins", "axis maxs", "units")
_DTYPES = {
    sitk.sitkUInt8: "uint8",
    sitk.sitkInt8: "int8",
    sitk.sitkUInt16: "uint16",
    sitk.sitkInt16: "int16",
    sitk.sitkUInt32: "uint32",
    sitk.sitkInt32: "int32",
    sitk.sitkUInt64: "uint64",
    sitk.sitkInt64: "int64",
    sitk.sitkFloat32: "float32",
    sitk.sitkFloat64: "float64",
}
_GZIP_LEVEL = 2  # Of isal's 0 to 3.
_SLICES_AT_ONCE = 32
# isal's stubs declare its error as an instance.
_ISAL_ERROR = cast("type[Exception]", IsalError)
_UNREADABLE = (RuntimeError, OSError, EOFError, zlib.error, _ISAL_ERROR, ValueError)

sitk.ProcessObject_SetGlobalWarningDisplay(False)


def read_header(path: Path) -> Header:
    """A file's geometry, without its voxels.

    Raises:
        UserError: the file is missing, unreadable, not 3D, or its axes are not orthogonal.
    """
    if not path.exists():
        raise UserError(
            path, found="no such file", expected="a CT or a mask", remedy="check the path"
        )
    suffix = _known_suffix(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        if suffix.startswith(".nii"):
            _read_nifti_geometry(path, reader)
        else:
            stored = text_header.read_stored(path)
            reader.ReadImageInformation()
            _refuse_misread(stored, reader)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
    size = reader.GetSize()
    if dimension != 3 or components != 1 or min(size) < 1:
        per_voxel = f", {components} values per voxel" if components != 1 else ""
        raise UserError(
            path,
            found=f"{dimension}D image of {' x '.join(map(str, size))}{per_voxel}",
            expected="one 3D scan with one value per voxel",
            remedy="save one phase or time point as a 3D volume of its own",
        )
    return _header(path, suffix, reader)


def read_image(path: Path) -> tuple[Volume, Header]:
    """A CT as int16 HU (Z, Y, X), at least -1024, and its file's header.

    Values are rounded, NaN becomes -1024. `path` may be a DICOM series: a folder or a zip, or one
    of several series in there (`dicom.series_within`).

    Raises:
        UserError: no whole 3D scan can be read from there.
    """
    series = dicom.find_series(path)
    if series is not None:
        return dicom.read_series(*series)
    header = read_header(path)
    if header.suffix.startswith(".nii"):
        return Volume(array=_read_nifti_hounsfield(path, header), grid=header.grid), header
    array = contiguous(header.to_canonical(to_hounsfield(_read_voxels(path, header))))
    return Volume(array=array, grid=header.grid), header


def read_labels(path: Path) -> tuple[Volume, Header]:
    """A label map as uint8 (Z, Y, X) and its file's header.

    Raises:
        UserError: no whole 3D volume can be read, or values are not whole numbers 0 to 255.
    """
    header = read_header(path)
    labels = to_labels(_read_voxels(path, header), path)
    array = contiguous(header.to_canonical(labels))
    return Volume(array=array, grid=header.grid), header


def write_labels(path: Path, volume: Volume, header: Header) -> None:
    """Write uint8 labels on the header's geometry, bit for bit where the format is the header's.

    The format is that of the path's suffix. The file appears whole or not at all.

    Raises:
        ValueError: the volume does not lie on the header's grid.
        UserError: the suffix is no known format.
    """
    _write(path, volume, header, np.dtype(np.uint8))


def write_image(path: Path, volume: Volume, header: Header) -> None:
    """Write an int16 CT in HU; all else as `write_labels`."""
    _write(path, volume, header, np.dtype(np.int16))


def _known_suffix(path: Path) -> str:
    for suffix in IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UserError(
        path,
        found="a folder without DICOM slices" if path.is_dir() else f"suffix {path.suffix!r}",
        expected=f"a DICOM series or a file that ends in {', '.join(IMAGE_SUFFIXES)}",
        remedy="name a CT volume or a folder of DICOM slices",
    )


def _header(path: Path, suffix: str, reader: sitk.ImageFileReader) -> Header:
    try:
        nifti_header = nifti.read_header_bytes(path) if suffix.startswith(".nii") else b""
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    try:
        return Header(
            size=reader.GetSize(),
            spacing=reader.GetSpacing(),
            origin=reader.GetOrigin(),
            direction=reader.GetDirection(),
            suffix=suffix,
            stored_dtype=_DTYPES.get(reader.GetPixelID(), "unknown"),
            nifti=NiftiGeometry.of(nifti_header),
            nrrd=_nrrd_geometry(path) if suffix == ".nrrd" else (),
            doubts=nifti.doubts(nifti_header),
        )
    except ValueError as error:
        raise UserError(
            path,
            found=str(error),
            expected="a right-angled grid of voxels",
            remedy="resample the scan to orthogonal axes (a tilted gantry has to be corrected)",
        ) from None


def _refuse_misread(stored: text_header.Stored, reader: sitk.ImageFileReader) -> None:
    """Raise where SimpleITK did not understand a header and took defaults."""
    size, spacing = reader.GetSize(), reader.GetSpacing()
    if size != stored.size:
        raise ValueError(f"size {_listed(stored.size)}, of which {_listed(size)} is understood")
    if stored.spacing and not np.allclose(spacing, stored.spacing, rtol=1e-6, atol=0):
        raise ValueError(
            f"spacing {_listed(stored.spacing)}, of which {_listed(spacing)} is understood"
        )


def _listed(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()
    if "orthonormal" in str(error):
        return UserError(
            path,
            found="axes that are not at right angles (sheared geometry)",
            expected="a right-angled grid of voxels",
            remedy="resample the scan to orthogonal axes (a tilted gantry has to be corrected)",
        )
    return UserError(
        path,
        found=f"a file that can't be read: {reason[-1] if reason else type(error).__name__}",
        expected="a whole, undamaged 3D volume",
        remedy="copy or download the file again",
    )


def _read_nifti_geometry(path: Path, reader: sitk.ImageFileReader) -> None:
    raw = nifti.read_header_bytes(path)
    nifti.refuse_contradictions(raw)
    if not nifti.is_nifti_2(path):
        reader.ReadImageInformation()
        return
    # SimpleITK knows no NIfTI-2.
    with temporary_folder() as folder:
        file = folder / "header.nii"
        file.write_bytes(raw + bytes(4))
        reader.SetFileName(str(file))
        reader.ReadImageInformation()


def _read_nifti_hounsfield(path: Path, header: Header) -> NDArray[np.int16]:
    """HU (Z, Y, X), read some slices of the file at a time: no second copy, whatever its type."""
    try:
        slabs = nifti.read_slabs(path, header.size, _SLICES_AT_ONCE)
        array = np.empty(header.grid.shape, np.int16)
        stored = header.from_canonical(array)
        for first, slab in slabs:
            stored[first : first + len(slab)] = to_hounsfield(slab)
    except MemoryError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    return array


def _read_voxels(path: Path, header: Header) -> NDArray[Any]:
    """The values (k, j, i), scaled as the file says."""
    try:
        if header.suffix.startswith(".nii"):
            return nifti.read_voxels(path, header.size)
        return text_header.read_voxels(path)
    except MemoryError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _write(path: Path, volume: Volume, header: Header, dtype: np.dtype[Any]) -> None:
    suffix = _known_suffix(path)
    if volume.array.dtype not in (dtype, np.bool_):
        raise ValueError(f"{path} takes {dtype}, not {volume.array.dtype}")
    if not volume.grid.close_to(header.grid, 1e-3):
        raise ValueError(f"{volume.grid} is not the grid of the file's header, {header.grid}")
    stored = header.from_canonical(volume.array)
    if suffix.startswith(".nii"):
        with replacing(path) as temporary:
            _write_nifti(temporary, stored, dtype, header, compressed=suffix == ".nii.gz")
        return
    image = _sitk_image(np.ascontiguousarray(stored.astype(dtype, copy=False)), header)
    if suffix == ".mhd":
        _write_two_files(path, image)
        return
    with replacing(path) as temporary:
        _write_with_sitk(image, temporary, compressed=True)
        if suffix == ".nrrd" and header.nrrd:
            _put_nrrd_geometry(temporary, header.nrrd)


def _sitk_image(array: NDArray[Any], header: Header) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction)
    return image


def _write_nifti(
    path: Path, stored: NDArray[Any], dtype: np.dtype[Any], header: Header, *, compressed: bool
) -> None:
    """SimpleITK writes the header, of a single voxel; the voxels follow some slices at a time."""
    with _removed_after(path.with_name(f"{path.name}.plain.nii".replace(".nii.gz", ""))) as plain:
        _write_with_sitk(_sitk_image(np.zeros((1, 1, 1), dtype), header), plain, compressed=False)
        raw = bytearray(plain.read_bytes()[: nifti.FIRST_VOXEL_BYTE])
    if len(raw) < nifti.FIRST_VOXEL_BYTE:
        # SimpleITK's NIfTI writer says nothing where the disk is full.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if header.nifti is not None:
        raw[:NIFTI_HEADER_BYTES] = header.nifti.put_into(bytes(raw[:NIFTI_HEADER_BYTES]))
    raw[:NIFTI_HEADER_BYTES] = nifti.with_size(bytes(raw[:NIFTI_HEADER_BYTES]), header.size)
    with path.open("wb") as target:
        # Without name and time, so that equal masks are equal files.
        packed = igzip.IGzipFile("", "wb", _GZIP_LEVEL, target, mtime=0) if compressed else target
        packed.write(bytes(raw))
        for first in range(0, len(stored), _SLICES_AT_ONCE):
            slab = stored[first : first + _SLICES_AT_ONCE]
            packed.write(contiguous(slab.astype(dtype, copy=False)).data)
        packed.close()


def _write_two_files(path: Path, image: sitk.Image) -> None:
    """An .mhd names its data file, so both are written under their names elsewhere, then moved."""
    folder = temporary_beside(path)
    try:
        folder.mkdir(parents=True)
        _write_with_sitk(image, folder / path.name, compressed=True)
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.with_name(file.name))
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_with_sitk(image: sitk.Image, path: Path, *, compressed: bool) -> None:
    try:
        sitk.WriteImage(image, str(path), compressed)
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).strip().splitlines()[-1]) from None


@contextmanager
def _removed_after(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _nrrd_geometry(path: Path) -> tuple[str, ...]:
    """The header's lines that say where the voxels lie."""
    lines = []
    with path.open("rb") as file:
        for raw in iter(file.readline, b""):
            line = raw.decode("latin-1").rstrip("\r\n")
            if not line:
                break
            if line.startswith(_NRRD_GEOMETRY) and ":" in line:
                lines.append(line)
    return tuple(lines)


def _put_nrrd_geometry(path: Path, lines: tuple[str, ...]) -> None:
    header, data = path.read_bytes().split(b"\n\n", 1)
    kept = [
        line for line in header.decode("latin-1").split("\n") if not line.startswith(_NRRD_GEOMETRY)
    ]
    path.write_bytes("\n".join([*kept, *lines]).encode("latin-1") + b"\n\n" + data)
