"""How tumors and cysts look in phantoms; plausible, not measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kitspipe.dataset.smooth_noise import Field, SmoothNoise
from kitspipe.imaging.components import signed_distance
from kitspipe.imaging.volume import Grid


def cyst_hu(rng: np.random.Generator) -> float:
    """HU of a cyst: two of three are simple, one is as dense as a tumor; all are even."""
    return float(rng.uniform(0, 15) if rng.random() < 0.65 else rng.uniform(50, 90))


def tumor_hu(mask: NDArray[np.bool_], grid: Grid, rng: np.random.Generator) -> Field:
    """HU (Z, Y, X) of one of three kinds, as subtypes of renal cell carcinoma often look.

    Clear cell: bright, uneven, necrotic inside where large. Papillary: dark, a little uneven, in
    a capsule. Chromophobe: between, with a scar where large.
    """
    depth = -signed_distance(np.pad(mask, 1), grid.spacing)[1:-1, 1:-1, 1:-1]
    largest = float(depth.max())
    axes = [
        (np.arange(n) * step).astype(np.float32)
        for n, step in zip(grid.shape, grid.spacing, strict=True)
    ]
    fine, coarse = (
        SmoothNoise(rng, (0.0, 0.0, 0.0), grid.extent_mm, scale).at(*axes)
        for scale in (4.0, max(6.0, 0.4 * largest))
    )
    inside = depth / largest + 0.2 * coarse
    kind = rng.choice(("clear cell", "papillary", "chromophobe"), p=(0.55, 0.2, 0.25))
    if kind == "clear cell":
        hu = rng.uniform(115, 160) + 20 * fine + 22 * coarse
        if largest > 9:
            hu = np.where(inside > rng.uniform(0.5, 0.8), rng.uniform(25, 45) + 8 * fine, hu)
    elif kind == "papillary":
        hu = rng.uniform(60, 92) + 12 * fine
        hu = np.where(depth < 2.5, hu + 25, hu)
    else:
        hu = rng.uniform(100, 138) + 14 * fine
        if largest > 12:
            hu = np.where(inside > 0.88, rng.uniform(45, 65), hu)
    return np.asarray(hu, np.float32)
