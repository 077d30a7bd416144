"""Training arrays on disk, compressed in chunks, read by box.

A case is a folder `preprocessed/NAME/STAGE/CASE/` that appears whole or not at all: `case.json`
and, for each region, `REGION/image.b2nd` (HU, int16), `target.b2nd` (uint8), in the tumor stage
`distance.b2nd` (int8, to the kidney's border), and `points.npz` (voxels to draw patches around).
Arrays are (Z, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from kitspipe import workspace
from kitspipe.errors import UserError
from kitspipe.imaging.volume import Box, Grid
from kitspipe.planning.document import Document, read_document, write_document

DISTANCE_UNIT_MM = 0.25
"""One step of the stored distance; int8 reaches 31 mm to either side."""

# A block is what a read must unpack; each chunk costs the writer a fixed time.
_CHUNK: tuple[int, int, int] = (16, 256, 256)
_BLOCK: tuple[int, int, int] = (4, 64, 64)
_CASE_FILE = "case.json"


class GridRecord(Document, frozen=True, kw_only=True):
    """A Grid as JSON."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[
        tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]
    ]

    @staticmethod
    def of(grid: Grid) -> GridRecord:
        """The record of a grid."""
        return GridRecord(
            shape=grid.shape,
            spacing=grid.spacing,
            origin=grid.origin,
            direction=grid.direction,
        )

    @property
    def grid(self) -> Grid:
        """The grid of a record."""
        return Grid(
            shape=self.shape, spacing=self.spacing, origin=self.origin, direction=self.direction
        )


class RegionRecord(Document, frozen=True, kw_only=True):
    """One region: its name, the grid of its image, target voxels per image voxel and axis."""

    name: str
    grid: GridRecord
    refinement: tuple[int, int, int]


class CaseRecord(Document, frozen=True, kw_only=True):
    """A preprocessed case: from which files, with which choices.

    `key` is the hash of all that the arrays depend on; arrays of another key are stale.
    """

    case_id: str
    key: str
    image_sha256: str
    labels_sha256: str
    image: str
    labels: str
    regions: tuple[RegionRecord, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RegionArrays:
    """What is stored of a region.

    Args:
        name: unique in the case.
        grid: of the image.
        image: (Z, Y, X) int16 HU.
        target: (Z*rz, Y*ry, X*rx) uint8.
        refinement: (rz, ry, rx).
        distance_mm: (Z, Y, X) float32 to the kidney's border, negative inside; tumor stage only.
        points: name -> (n, 3) int32 voxels (Z, Y, X) of the image to draw patches around.
    """

    name: str
    grid: Grid
    image: NDArray[np.int16]
    target: NDArray[np.uint8]
    refinement: tuple[int, int, int]
    distance_mm: NDArray[np.float32] | None
    points: dict[str, NDArray[np.int32]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingCase:
    """Handles to one region's arrays; nothing is read before it is asked for.

    Args:
        case_id: the scan; several regions of a scan share it.
        region: the region's name.
        key: hash of all that the arrays depend on.
        folder: where its arrays lie.
        grid: of the image.
        refinement: target voxels per image voxel and axis.
        points: name -> (n, 3) int32 voxels (Z, Y, X).
    """

    case_id: str
    region: str
    key: str
    folder: Path
    grid: Grid
    refinement: tuple[int, int, int]
    points: dict[str, NDArray[np.int32]]

    @property
    def name(self) -> str:
        """Unique among all regions of all cases."""
        return f"{self.case_id}/{self.region}"

    def read_image(self, box: Box, fill_hu: int = -1024) -> NDArray[np.int16]:
        """HU in a box, which may reach outside: (Z, Y, X) int16, `fill_hu` there."""
        return _read(self.folder / "image.b2nd", box, fill_hu)

    def read_target(self, box: Box) -> NDArray[np.uint8]:
        """Target in a box of the image, refined: (Z*rz, Y*ry, X*rx) uint8, 0 outside."""
        z, y, x = self.refinement
        refined = Box(
            start=(box.start[0] * z, box.start[1] * y, box.start[2] * x),
            stop=(box.stop[0] * z, box.stop[1] * y, box.stop[2] * x),
        )
        return _read(self.folder / "target.b2nd", refined, 0)

    def read_distance_mm(self, box: Box) -> NDArray[np.float32]:
        """Distance to the kidney's border in a box: (Z, Y, X) float32 mm, far outside beyond."""
        steps = _read(self.folder / "distance.b2nd", box, 127)
        distance: NDArray[np.float32] = steps.astype(np.float32) * np.float32(DISTANCE_UNIT_MM)
        return distance

    @property
    def whole(self) -> Box:
        """The box of all voxels."""
        return Box(start=(0, 0, 0), stop=self.grid.shape)


def write_case(folder: Path, record: CaseRecord, regions: Sequence[RegionArrays]) -> None:
    """Write a case's folder beside and rename it; one that another command wrote is kept.

    Raises:
        UserError: the disk is full, the folder is read-only or was removed.
    """
    if read_key(folder) == record.key:
        return
    with workspace.replacing(folder) as temporary:
        temporary.mkdir()
        for region in regions:
            place = temporary / region.name
            place.mkdir()
            _write(place / "image.b2nd", region.image)
            _write(place / "target.b2nd", region.target)
            if region.distance_mm is not None:
                steps = np.clip(np.round(region.distance_mm / DISTANCE_UNIT_MM), -127, 127)
                _write(place / "distance.b2nd", steps.astype(np.int8))
            np.savez(place / "points.npz", **region.points)  # type: ignore[arg-type]
        write_document(temporary / _CASE_FILE, record)


def read_record(folder: Path) -> CaseRecord:
    """What `case.json` of a preprocessed case says.

    Raises:
        UserError: the case is not preprocessed.
    """
    return read_document(folder / _CASE_FILE, CaseRecord, made_by="kitspipe_preprocess")


def read_key(folder: Path) -> str | None:
    """The key of a preprocessed case; None where there is none that is whole."""
    try:
        return read_record(folder).key
    except UserError:
        return None


def open_regions(folder: Path, record: CaseRecord) -> list[TrainingCase]:
    """Handles to the regions of a preprocessed case."""
    regions = []
    for region in record.regions:
        with np.load(folder / region.name / "points.npz", allow_pickle=False) as points:
            regions.append(
                TrainingCase(
                    case_id=record.case_id,
                    region=region.name,
                    key=record.key,
                    folder=folder / region.name,
                    grid=region.grid.grid,
                    refinement=region.refinement,
                    points={name: points[name] for name in points.files},
                )
            )
    return regions


def _write(path: Path, array: NDArray[Any]) -> None:
    # Written by Python: blosc2 hides why the system refused.
    stored = blosc2.asarray(
        np.ascontiguousarray(array),
        contiguous=True,
        chunks=_at_most(_CHUNK, array.shape),
        blocks=_at_most(_BLOCK, array.shape),
        cparams={
            "codec": blosc2.Codec.LZ4,
            "clevel": 1,
            "filters": [blosc2.Filter.BITSHUFFLE],
            "nthreads": 1,
        },
    )
    path.write_bytes(stored.to_cframe())


def _at_most(size: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(s, max(1, n)) for s, n in zip(size, shape, strict=True))


def _read(path: Path, box: Box, fill: int) -> NDArray[Any]:
    # One thread: readers run in worker processes, beside each other.
    stored = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    start = [max(0, a) for a in box.start]
    stop = [min(n, b) for n, b in zip(stored.shape, box.stop, strict=True)]
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return np.full(box.shape, fill, stored.dtype)
    inside = stored[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    if inside.shape == box.shape:
        return np.asarray(inside)
    patch = np.full(box.shape, fill, stored.dtype)
    patch[tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, box.start, strict=True))] = (
        inside
    )
    return patch
