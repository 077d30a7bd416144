"""What hypothesis draws: grids, boxes, label maps, masks; small, odd and oblique."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from kitspipe.imaging.volume import CANONICAL_DIRECTION, Box, Grid, Matrix, Shape, Volume


def turned_direction(rotation: Rotation) -> Matrix:
    """The canonical axes turned in patient space."""
    turned = rotation.as_matrix() @ np.asarray(CANONICAL_DIRECTION)
    a, b, c = (tuple(map(float, row)) for row in turned)
    return (a, b, c)  # type: ignore[return-value]


def shapes(smallest: int = 1, largest: int = 12) -> st.SearchStrategy[Shape]:
    """(Z, Y, X)."""
    side = st.integers(smallest, largest)
    return st.tuples(side, side, side)


@st.composite
def grids(
    draw: st.DrawFn, *, oblique: bool | None = None, smallest: int = 1, largest: int = 12
) -> Grid:
    """Canonical grids, anisotropic and off the origin; both oblique and straight by default."""
    is_oblique = draw(st.booleans()) if oblique is None else oblique
    angle = st.floats(-20, 20)
    angles = draw(st.tuples(angle, angle, angle)) if is_oblique else (0.0, 0.0, 0.0)
    spacing, place = st.floats(0.3, 6), st.floats(-900, 900)
    return Grid(
        shape=draw(shapes(smallest, largest)),
        spacing=draw(st.tuples(spacing, spacing, spacing)),
        origin=draw(st.tuples(place, place, place)),
        direction=turned_direction(Rotation.from_euler("xyz", angles, degrees=True)),
    )


@st.composite
def boxes(draw: st.DrawFn, shape: Shape) -> Box:
    """Boxes inside an array of this shape."""
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    stops = [draw(st.integers(a + 1, n)) for a, n in zip(starts, shape, strict=True)]
    return Box(start=tuple(starts), stop=tuple(stops))  # type: ignore[arg-type]


@st.composite
def masks(
    draw: st.DrawFn, shape: st.SearchStrategy[Shape] | Shape | None = None
) -> NDArray[np.bool_]:
    """Masks (Z, Y, X) from empty to full: specks, or a few boxes."""
    size = shape if isinstance(shape, tuple) else draw(shapes() if shape is None else shape)
    share = draw(st.sampled_from((0.0, 0.03, 0.3, 0.8, 1.0)))
    mask = _random(draw).random(size) < share
    for box in draw(st.lists(boxes(size), max_size=3)):
        mask[box.slices] = True
    return mask


@st.composite
def label_arrays(draw: st.DrawFn, shape: Shape, n_labels: int = 3) -> NDArray[np.uint8]:
    """Label maps (Z, Y, X) of boxes with labels up to `n_labels`, later over earlier ones."""
    labels = np.zeros(shape, np.uint8)
    for box in draw(st.lists(boxes(shape), max_size=5)):
        labels[box.slices] = draw(st.integers(0, n_labels))
    return labels


@st.composite
def label_volumes(draw: st.DrawFn, *, n_labels: int = 3, **grid_options: Any) -> Volume:
    """Label maps on grids that `grids` draws."""
    grid = draw(grids(**grid_options))
    return Volume(array=draw(label_arrays(grid.shape, n_labels)), grid=grid)


def _random(draw: st.DrawFn) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
