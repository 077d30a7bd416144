"""Fixtures that all tests share."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from scipy.spatial.transform import Rotation
from strategies import turned_direction

from kitspipe.imaging.volume import Grid

# Machines that run tests are shared; a slow example is no failure.
settings.register_profile(
    "kitspipe", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kitspipe")


@pytest.fixture(autouse=True)
def _torch_seed() -> None:
    """Torch draws what pytest-randomly's seed says, as random and numpy do."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(random.getrandbits(32))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scans and masks that are not part of the project."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KITSPIPE_SHARED_DATA", default))
    if not (folder / "kits_masks").is_dir():
        pytest.skip(f"no real data at {folder}; name their folder with KITSPIPE_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def hard_grid() -> Grid:
    """Oblique, anisotropic, odd and all different, off the origin."""
    rotation = Rotation.from_euler("xyz", (11, -7, 19), degrees=True)
    return Grid(
        shape=(17, 31, 23),
        spacing=(2.5, 0.7, 0.8),
        origin=(-41.3, 107.9, -613.7),
        direction=turned_direction(rotation),
    )
