"""Pictures of a case for its page: all slices in one, overlays, a thumbnail.

Needs Pillow (`kitspipe[report]`). Arrays are (Z, Y, X) or a plane of it, rows first.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from kitspipe.evaluation.review_volume import (
    CYST,
    HIGH_HU,
    KIDNEY,
    LOW_HU,
    TUMOR,
    Bytes3D,
    ReviewVolume,
)
from kitspipe.imaging.volume import Grid, Shape

if TYPE_CHECKING:
    from PIL.Image import Image

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_AXES: dict[Plane, tuple[int, int]] = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}

COLORS = {KIDNEY: "#56b4e9", TUMOR: "#ffb000", CYST: "#b91eff"}
"""Of the classes; told apart with any color blindness (tests/evaluation/test_pictures.py)."""

_SLICE_QUALITY, _OVERLAY_QUALITY = 60, 80
_FILL = 0.22
_OVERLAY_WIDTH, _THUMBNAIL_WIDTH = 560, 192
Pixels = NDArray[np.uint8]


def volume_script(shown: ReviewVolume) -> bytes:
    """A script that hands the volume to the page, as browsers read no local files but scripts.

    The CT is one lossy picture of all axial slices, row by row; masks are zlib. The affine leads
    from voxels (X, Y, Z) to RAS in mm, as NIfTI has it.
    """
    picture, columns = _sprite(shown.image)
    content = {
        "shape": shown.grid.shape,
        "spacing": shown.grid.spacing,
        "affine": ras_affine(shown.grid).tolist(),
        "hu": (LOW_HU, HIGH_HU),
        "columns": columns,
        "focus": shown.focus,
        "image": f"data:image/webp;base64,{_base64(picture)}",
        "labels": _packed(shown.labels),
        "reference": None if shown.reference is None else _packed(shown.reference),
    }
    return b"window.kitspipeVolume = " + msgspec.json.encode(content) + b";\n"


def ras_affine(grid: Grid) -> NDArray[np.float64]:
    """(4, 4): voxel (X, Y, Z) to (x, y, z) mm, x to the right's opposite as NIfTI has it (RAS)."""
    affine = np.eye(4)
    axes = np.asarray(grid.direction)[:, ::-1] * np.asarray(grid.spacing)[::-1]
    to_ras = np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = to_ras @ axes
    affine[:3, 3] = to_ras @ np.asarray(grid.origin)
    return affine


def overlay(shown: ReviewVolume, plane: Plane) -> bytes:
    """The slice of a plane where most is to be seen, masks drawn on it, as WebP."""
    width, height, _ = overlay_size(shown, plane)
    return _webp(_drawn(shown, plane, (width, height)), _OVERLAY_QUALITY)


def thumbnail(shown: ReviewVolume) -> bytes:
    """The axial overlay, small."""
    width, height, _ = overlay_size(shown, "axial")
    size = (_THUMBNAIL_WIDTH, max(1, round(height * _THUMBNAIL_WIDTH / width)))
    return _webp(_drawn(shown, "axial", size), _OVERLAY_QUALITY)


def overlay_size(shown: ReviewVolume, plane: Plane) -> tuple[int, int, float]:
    """Pixels across and down of a plane's overlay, and mm across; all planes have one scale."""
    mm_high, mm_wide = (shown.grid.shape[axis] * shown.grid.spacing[axis] for axis in _AXES[plane])
    scale = _OVERLAY_WIDTH / (shown.grid.shape[2] * shown.grid.spacing[2])
    return max(1, round(mm_wide * scale)), max(1, round(mm_high * scale)), mm_wide


def pixel_mm2(shown: ReviewVolume, plane: Plane) -> float:
    """Area of a pixel of a plane."""
    row, column = _AXES[plane]
    return shown.grid.spacing[row] * shown.grid.spacing[column]


def plane_of(array: Bytes3D, plane: Plane, at: Shape) -> Pixels:
    """A slice as a reader sees it: anterior or superior on top, the patient's right on the left.

    Sagittal slices have anterior on the left.
    """
    z, y, x = at
    seen: dict[Plane, Pixels] = {
        "axial": array[z],
        "coronal": array[::-1, y],
        "sagittal": array[::-1, :, x],
    }
    return seen[plane]


def _drawn(shown: ReviewVolume, plane: Plane, size: tuple[int, int]) -> Image:
    """A slice on square pixels with filled and outlined masks; the reference's outline is white."""
    from PIL import Image

    def scaled(array: Pixels, how: Image.Resampling) -> Pixels:
        resized: Pixels = np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size, how))
        return resized

    gray = scaled(plane_of(shown.image, plane, shown.focus), Image.Resampling.BICUBIC)
    colored = np.repeat(gray[..., None], 3, axis=2).astype(np.float32)
    labels = scaled(plane_of(shown.labels, plane, shown.focus), Image.Resampling.NEAREST)
    masks = {value: labels == value for value in COLORS}
    for value, mask in masks.items():
        colored[mask] = colored[mask] * (1 - _FILL) + _rgb(value) * _FILL
    if shown.reference is not None:
        truth = scaled(plane_of(shown.reference, plane, shown.focus), Image.Resampling.NEAREST)
        for value in COLORS:
            # Just outside, so that the mask's own outline stays visible where both agree.
            colored[_border(truth != value)] = 255
    for value, mask in masks.items():
        colored[_border(mask)] = _rgb(value)
    return Image.fromarray(colored.astype(np.uint8))


def _rgb(value: int) -> NDArray[np.float32]:
    """The color of a class, 0 to 255."""
    color = COLORS[value]
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask with a 4-neighbor outside of it."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border: NDArray[np.bool_] = mask & ~inside
    return border


def _sprite(image: Bytes3D) -> tuple[bytes, int]:
    """All axial slices in one picture, nearly square, and how many stand in a row."""
    from PIL import Image

    depth, height, width = image.shape
    columns = max(1, min(depth, round(math.sqrt(depth * height / width))))
    rows = math.ceil(depth / columns)
    sheet = np.zeros((rows * columns, height, width), np.uint8)
    sheet[:depth] = image
    tiled = sheet.reshape(rows, columns, height, width).swapaxes(1, 2)
    return _webp(
        Image.fromarray(tiled.reshape(rows * height, columns * width)), _SLICE_QUALITY
    ), columns


def _webp(picture: Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()


def _packed(labels: Bytes3D) -> str:
    return _base64(zlib.compress(np.ascontiguousarray(labels).tobytes(), 6))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
