"""Two painted cases, small enough to train on in a test."""

import numpy as np
from scipy.ndimage import gaussian_filter
from small_plans import small_plan, small_tumor_plan

from kitspipe.dataset.cases import Case
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume
from kitspipe.preprocessing.preprocess import open_cases, preprocess_case
from kitspipe.workspace import Workspace

SPACING = (5.0, 2.5, 2.5)


def painted(seed, shape=(15, 50, 66)):
    """CT and labels: two kidneys of 150 HU, a textured tumor of 80, a cyst of 10."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)

    def ball(value, center, radii):
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), center, radii, strict=True))
        labels[inside < 1] = value

    shift = rng.integers(-2, 3, 3)
    for side, middle in enumerate((16, 50)):
        ball(1, (7 + shift[0], 26 + shift[1], middle + shift[2]), (5, 12, 9))
        ball(2 + side, (7 + shift[0], 20 + shift[1], middle + shift[2]), (2.5, 6, 6))
    texture = gaussian_filter(rng.normal(size=shape), 1.0)
    hu = np.choose(labels, [-80.0, 150.0, 80.0, 10.0]) + rng.normal(0, 10, shape)
    hu += (labels == 2) * 120 * texture
    grid = Grid(shape=shape, spacing=SPACING, origin=(-80.0, -60.0, 500.0 + seed))
    image = Volume(array=np.round(hu).astype(np.int16), grid=grid)
    return image, Volume(array=labels, grid=grid)


def write_cases(folder, count):
    """Cases in KiTS layout, slices first on disk."""
    for number in range(count):
        image, labels = painted(number)
        header = header_for(image.grid, axes="IPL")
        write_image(folder / f"case_{number:05d}" / "imaging.nii.gz", image, header)
        write_labels(folder / f"case_{number:05d}" / "segmentation.nii.gz", labels, header)
    return folder


def tumor_regions(folder):
    """The right and left region of one preprocessed case."""
    image, labels = painted(0)
    header = header_for(image.grid, axes="IPL")
    write_image(folder / "imaging.nii.gz", image, header)
    write_labels(folder / "segmentation.nii.gz", labels, header)
    case = Case(id="case_0", image=folder / "imaging.nii.gz", labels=folder / "segmentation.nii.gz")
    plan = small_plan(tumor=small_tumor_plan(target_spacing_mm=SPACING, roi_margin_mm=5.0))
    place = Workspace(root=folder)
    preprocess_case(case, plan, place)
    return open_cases(place, "tumor", plan, ["case_0"])
