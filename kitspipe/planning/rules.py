"""What follows from the data: grids, patches, networks, windows. Each choice with its reason.

Triples are (Z, Y, X).
"""

from __future__ import annotations

import math
from typing import Generic, Literal, NamedTuple, TypeVar

from kitspipe.planning.fingerprint import HU_BIN, Fingerprint
from kitspipe.planning.memory import fitting_batch, kidney_training_bytes, tumor_training_bytes
from kitspipe.planning.plan import HUWindow, ResUNet3DConfig, VNet25DConfig

T = TypeVar("T")
Size = Literal["standard", "small"]
Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

GIB = 1024**3
KIDNEY_SLICE_PIXELS = {"standard": 256, "small": 96}
KIDNEY_PATCH_PIXELS = {"standard": 256, "small": 64}
KIDNEY_SLICES_MM = {"standard": 2.0, "small": 4.0}
KIDNEY_CHANNELS = {"standard": (16, 32, 64, 128), "small": (4, 16, 32, 64)}
KIDNEY_WINDOW_SLICES = {"standard": 64, "small": 24}
TUMOR_SLICES_MM = {"standard": 1.0, "small": 4.0}
TUMOR_PIXEL_MM = {"standard": 0.0, "small": 1.5}
TUMOR_CHANNELS = {"standard": (16, 32, 64, 128, 256), "small": (12, 24, 48)}
TUMOR_PATCH_LIMIT = 320
ROI_MARGIN_MM = 15.0
MASK_DILATION_MM = {"standard": 7.0, "small": 10.0}


class Choice(NamedTuple, Generic[T]):
    """A planned value and its one-line reason."""

    value: T
    why: str


def kidney_spacing(data: Fingerprint, size: Size) -> Choice[Triple]:
    """Grid of the kidney stage: a coarse look at the whole scan."""
    dz, dy, dx = data.median_spacing_mm
    _, rows, columns = data.median_shape
    pixels, slices_mm = KIDNEY_SLICE_PIXELS[size], KIDNEY_SLICES_MM[size]
    # Slices are made up at most once between two: finer steps would be interpolation only.
    z = round(max(slices_mm, dz / 2), 4)
    factor = max(1.0, max(rows, columns) / pixels)
    return Choice(
        (z, round(dy * factor, 4), round(dx * factor, 4)),
        f"slices every {slices_mm:g} mm but not finer than half of the median {dz:g} mm; "
        f"in the slice at most {pixels} pixels for the median {rows:g}x{columns:g} (paper 2.2)",
    )


def target_refinement(data: Fingerprint, spacing: Triple) -> Choice[Shape]:
    """How much finer than the image the kidney stage's target is."""
    _, dy, dx = data.median_spacing_mm
    y, x = (min(2, max(1, round(s / own))) for s, own in zip(spacing[1:], (dy, dx), strict=True))
    return Choice(
        (1, y, x),
        "the target keeps the scan's own pixels, up to twice as fine as the image: its grid would "
        "otherwise cap kidney Dice at 0.977 on KiTS (measured round trip of masks)",
    )


def slab_depth(slice_mm: float) -> Choice[int]:
    """Slices that the tumor network sees: about 5 mm, at least one on either side."""
    depth = max(3, 2 * round((5.0 / slice_mm - 1) / 2) + 1)
    return Choice(depth, f"odd, about 5 mm of {slice_mm:g} mm slices, at least one on either side")


def tumor_spacing(data: Fingerprint, size: Size) -> Choice[Triple]:
    """Grid of the tumor stage: a close look at the kidneys."""
    dz, dy, dx = data.median_spacing_mm
    slices_mm, pixel_mm = TUMOR_SLICES_MM[size], TUMOR_PIXEL_MM[size]
    z = round(max(slices_mm, dz / 3), 4)
    return Choice(
        (z, round(max(pixel_mm, dy), 4), round(max(pixel_mm, dx), 4)),
        f"slices every {slices_mm:g} mm but not finer than a third of the median {dz:g} mm; in the "
        f"slice the median {dy:g} x {dx:g} mm"
        + (f", not finer than {pixel_mm:g} mm" if pixel_mm else "")
        + " (paper 3.1)",
    )


def strides(spacing: Triple, levels: int) -> tuple[Shape, ...]:
    """Strides of a 3D network: an axis is halved once its spacing is within twice the finest.

    Args:
        spacing: of the network's input, mm.
        levels: resolutions of the network.
    """
    current = list(spacing)
    chosen = []
    for _ in range(levels - 1):
        finest = min(current)
        stride = tuple(2 if s < 2 * finest else 1 for s in current)
        current = [s * f for s, f in zip(current, stride, strict=True)]
        chosen.append(stride)
    return tuple((z, y, x) for z, y, x in chosen)


def kidney_network(spacing: Triple, refinement: Shape, size: Size) -> Choice[ResUNet3DConfig]:
    """The 3D residual U-Net for a grid."""
    channels = KIDNEY_CHANNELS[size]
    return Choice(
        ResUNet3DConfig(
            levels=len(channels),
            channels=channels,
            strides=strides(spacing, len(channels)),
            convolutions_per_level=(1, 2, 2, 2) if size == "standard" else (1, 1, 2, 2),
            norm="instance",
            activation="leaky_relu",
            dropout=0.0,
            target_refinement=refinement,
        ),
        "four levels as in paper 2.1; instance norm and leaky ReLU as in nnU-Net, which learn in "
        "fewer steps than no norm; slices are merged only once they are as fine as pixels",
    )


def kidney_patch(
    data: Fingerprint,
    spacing: Triple,
    network: ResUNet3DConfig,
    size: Size,
    memory_bytes: int,
) -> Choice[Shape]:
    """The largest patch, up to whole slices and the paper's 64, that trains in the memory."""
    extent = [n * s for n, s in zip(data.median_shape, data.median_spacing_mm, strict=True)]
    wanted = [math.ceil(e / s) for e, s in zip(extent, spacing, strict=True)]
    most = (KIDNEY_WINDOW_SLICES[size], KIDNEY_PATCH_PIXELS[size], KIDNEY_PATCH_PIXELS[size])
    wanted = [min(n, limit) for n, limit in zip(wanted, most, strict=True)]
    patch = [_up(n, d) for n, d in zip(wanted, network.divisor, strict=True)]
    while kidney_training_bytes(network, _shape(patch), 1, "adamw") > memory_bytes:
        axis = max(
            range(3), key=lambda a: patch[a] * spacing[a] if patch[a] > network.divisor[a] else 0
        )
        if patch[axis] <= network.divisor[axis]:
            break
        patch[axis] -= network.divisor[axis]
    return Choice(
        _shape(patch),
        f"up to {most[1]} pixels of the median slice and {most[0]} slices (paper 2.3: 64 whole "
        "ones), less on the longest axis until one patch trains within the memory given",
    )


def tumor_network(depth: int, classes: int, size: Size) -> Choice[VNet25DConfig]:
    """The 2.5D V-Net with all four modules."""
    channels = TUMOR_CHANNELS[size]
    return Choice(
        VNet25DConfig(
            slab_depth=depth,
            levels=len(channels),
            channels=channels,
            convolutions_per_level=tuple(min(level + 1, 2) for level in range(len(channels))),
            kernel_size=3,
            norm="batch",
            activation="leaky_relu",
            classes=classes,
            multi_scale=True,
            squeeze_excitation=True,
            attention_gates=True,
            dilated_bottom=True,
            mask_channel=True,
        ),
        "multi-scale input, squeeze-and-excitation, attention gates and dilated bottom as in paper "
        "3.2; kernels of 3 instead of V-Net's 5, a third of the work, as the dilated bottom sees "
        "far; leaky ReLU, a fifth of PReLU's time on a CPU; a class for cysts where they are "
        "labelled; batch norm, as statistics of a single slab say little; the mask as a channel "
        "beside the CT, as what lies around a kidney tells a tumor from bowel",
    )


def tumor_patch(data: Fingerprint, spacing: Triple, divisor: int) -> Choice[tuple[int, int]]:
    """A slice of a kidney's region."""
    extents = data.kidney_percentile_mm(95)
    y, x = (
        min(
            TUMOR_PATCH_LIMIT,
            _up(math.ceil((extents[a] + 2 * ROI_MARGIN_MM) / spacing[a]), divisor),
        )
        for a in (1, 2)
    )
    return Choice(
        (y, x),
        f"95 % of the kidneys with {ROI_MARGIN_MM:g} mm around, at most {TUMOR_PATCH_LIMIT} "
        f"pixels, divisible by {divisor}; the paper's 512x512 are mostly blank after masking",
    )


def window_stride(patch: Shape, size: Size) -> Choice[Shape]:
    """How far apart the kidney stage's windows are in prediction."""
    z, y, x = patch
    if size == "standard":
        why = "half a patch: every voxel is near some middle"
        return Choice((max(1, z // 2), max(1, y // 2), max(1, x // 2)), why)
    why = "three quarters of a patch: a third of the windows that half a patch asks for"
    return Choice((max(1, 3 * z // 4), max(1, 3 * y // 4), max(1, 3 * x // 4)), why)


def kidney_batch(network: ResUNet3DConfig, patch: Shape, most: int, memory_bytes: int) -> int:
    """Patches per step: as many as train within the memory."""
    return fitting_batch(
        lambda n: kidney_training_bytes(network, patch, n, "adamw"), memory_bytes, most
    )


def tumor_batch(
    network: VNet25DConfig, patch: tuple[int, int], most: int, memory_bytes: int
) -> int:
    """Slabs per step: as many as train within the memory."""
    return fitting_batch(
        lambda n: tumor_training_bytes(network, patch, n, "adamw"), memory_bytes, most
    )


def hu_window(data: Fingerprint) -> Choice[HUWindow]:
    """Clip to what foreground shows, then centre and scale by it."""
    low = data.foreground_percentile_hu(0.5)
    # Foreground of one HU, as a phantom may have, still needs a window.
    high = max(data.foreground_percentile_hu(99.5), low + HU_BIN)
    return Choice(
        HUWindow(
            low_hu=low,
            high_hu=high,
            center_hu=round(data.foreground_mean_hu, 1),
            scale_hu=round(max(1.0, data.foreground_sd_hu), 1),
        ),
        "percentiles 0.5 and 99.5, mean and sd of the HU of kidney, tumor and cyst, as in nnU-Net",
    )


def _up(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor


def _shape(sizes: list[int]) -> Shape:
    z, y, x = sizes
    return (z, y, x)
