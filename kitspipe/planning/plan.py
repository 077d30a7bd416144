"""The plan: every choice of a training.

Axes of all triples: (Z, Y, X). Read with `document.read_document`, which refuses unknown keys,
wrong types and impossible combinations with the key's path.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from kitspipe.planning.document import Document
from kitspipe.workspace import Stage

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Counts3 = tuple[Count, Count, Count]
Counts2 = tuple[Count, Count]
Range = tuple[Positive, Positive]
AxisSpacing = Positive | Annotated[str, Meta(pattern=r"^x[0-9]+(\.[0-9]+)?$")]
"""Spacing of one axis: mm, or `"x2"` for twice the scan's own."""


class HUWindow(Document, frozen=True, kw_only=True):
    """HU to network input: clip to [low_hu, high_hu], subtract `center_hu`, divide by `scale_hu`.

    With `per_slice`, the median HU inside the kidney mask is first moved to `center_hu`
    in every slice (paper 3.1, "normalize the HU value in kidney region in each slice").
    """

    low_hu: float
    high_hu: float
    center_hu: float
    scale_hu: Positive
    per_slice: bool = False

    def __post_init__(self) -> None:
        if not self.low_hu < self.high_hu:
            raise ValueError(f"low_hu {self.low_hu} is not below high_hu {self.high_hu}")


Norm = Literal["none", "instance", "batch"]
Activation = Literal["prelu", "leaky_relu"]
Components = Literal["all", "largest", "largest_per_kidney", "touching_kidney"]
"""Which predicted tumors stay."""


class ResUNet3DConfig(Document, frozen=True, kw_only=True):
    """The kidney network (paper 2.1). `strides[k]` leads from level k to level k + 1.

    `target_refinement` is how many target voxels a voxel of the input has per axis: the maps are
    upsampled by it (the paper halves the slice of the CT, not of the annotation).
    """

    levels: Annotated[int, Meta(ge=2, le=7)]
    channels: tuple[Count, ...]
    strides: tuple[Counts3, ...]
    convolutions_per_level: tuple[Count, ...]
    norm: Norm
    activation: Activation
    dropout: Annotated[float, Meta(ge=0, lt=1)]
    target_refinement: Counts3

    def __post_init__(self) -> None:
        _check_length("channels", self.channels, self.levels)
        _check_length("convolutions_per_level", self.convolutions_per_level, self.levels)
        _check_length("strides", self.strides, self.levels - 1)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """What each axis of a patch must be divisible by."""
        z, y, x = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return (z, y, x)


class VNet25DConfig(Document, frozen=True, kw_only=True):
    """The tumor network (paper 3.2): a slab of slices in, logits of the middle slice out.

    With `mask_channel` it sees the CT as it is and, as one channel more, the distance to the kidney
    mask's border in the middle slice; without, HU inside the dilated mask only (paper 3.1).
    """

    slab_depth: Count
    levels: Annotated[int, Meta(ge=2, le=7)]
    channels: tuple[Count, ...]
    convolutions_per_level: tuple[Count, ...]
    kernel_size: Count
    norm: Norm
    activation: Activation
    classes: Annotated[int, Meta(ge=1, le=2)]
    multi_scale: bool
    squeeze_excitation: bool
    attention_gates: bool
    dilated_bottom: bool
    mask_channel: bool

    def __post_init__(self) -> None:
        _check_length("channels", self.channels, self.levels)
        _check_length("convolutions_per_level", self.convolutions_per_level, self.levels)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even: a kernel needs a middle")
        if self.slab_depth % 2 == 0:
            raise ValueError(f"slab_depth {self.slab_depth} is even: a slab needs a middle slice")

    @property
    def divisor(self) -> int:
        """What both axes of a patch must be divisible by."""
        return int(2 ** (self.levels - 1))

    @property
    def inputs(self) -> int:
        """Channels that go in."""
        return self.slab_depth + self.mask_channel


class KidneyLossConfig(Document, frozen=True, kw_only=True):
    """Dice with deep supervision: mu (L1 + L2 + L3) + L4 (paper 2.1).

    mu starts at `mu` and is multiplied with `mu_decay` each `mu_every` of the training (share of
    all epochs; the paper's 15 of 500 epochs are 0.03).
    """

    mu: NonNegative
    mu_decay: Share
    mu_every: Positive
    squared_denominator: bool
    cross_entropy_weight: NonNegative
    tumor_weight: Positive


class TumorLossConfig(Document, frozen=True, kw_only=True):
    """Focal loss plus weighted Dice (paper 3.3)."""

    focal_weight: NonNegative
    dice_weight: NonNegative
    gamma: NonNegative
    alpha: Share
    foreground_weight: NonNegative
    background_weight: NonNegative
    prior: Annotated[float, Meta(gt=0, lt=1)]

    def __post_init__(self) -> None:
        if self.focal_weight + self.dice_weight == 0:
            raise ValueError("focal_weight and dice_weight are both 0: nothing would be learned")


class KidneySampling(Document, frozen=True, kw_only=True):
    """Which patches the kidney stage sees.

    `margin_mm` is how far above and below the kidneys slices are drawn from (None: whole scan);
    `foreground_share` of the patches are centred on a kidney voxel.
    """

    margin_mm: NonNegative | None
    foreground_share: Share


class TumorSampling(Document, frozen=True, kw_only=True):
    """Which slabs the tumor stage sees, and behind which kidney mask (paper 3.1, 3.4).

    `positive_share` of the slabs have a tumor in their middle slice, `hard_share` come from slices
    where the model last found false tumors or where a cyst lies, the rest from any slice with
    kidney. Hard cases: from `hard_case_warmup` (share of all epochs) on, cases are re-weighed each
    `hard_case_every` (share of all epochs) to 1 + `hard_case_strength` x rank of their difficulty.
    `out_of_fold_share` of the slabs see kidneys, true and false ones, as networks of other folds
    predicted them, as far as those are trained; the rest the reference's, `jittered_mask_share` of
    them shifted in their border by up to `mask_jitter_mm`.
    """

    positive_share: Share
    hard_share: Share
    hard_case_warmup: Share
    hard_case_every: Annotated[float, Meta(gt=0, le=1)]
    hard_case_strength: NonNegative
    out_of_fold_share: Share
    jittered_mask_share: Share
    mask_jitter_mm: NonNegative

    def __post_init__(self) -> None:
        if self.positive_share + self.hard_share > 1:
            raise ValueError("positive_share + hard_share is above 1")


class AugmentationConfig(Document, frozen=True, kw_only=True):
    """Random changes of patches (paper 2.2 and 3.1); a probability of 0 turns one off."""

    mirror_axes: tuple[Literal["z", "y", "x"], ...]
    rotation_probability: Share
    rotation_degrees: NonNegative
    translation_share: Share
    scale_probability: Share
    scale: Range
    equalization_probability: Share
    blur_probability: Share
    blur_sigma: Range

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1] or self.blur_sigma[0] > self.blur_sigma[1]:
            raise ValueError("a range ends below its start")


class Schedule(Document, frozen=True, kw_only=True):
    """How long and how fast is learned. `steps_per_epoch` None: every case once an epoch."""

    epochs: Count
    steps_per_epoch: Count | None
    batch_size: Count
    optimizer: Literal["adam", "adamw", "sgd"]
    learning_rate: Positive
    decay: Literal["steps", "poly", "cosine"]
    weight_decay: NonNegative
    gradient_clip: Positive | None


class KidneyPlan(Document, frozen=True, kw_only=True):
    """Stage 1: the whole kidney in the whole scan."""

    target_spacing_mm: tuple[AxisSpacing, AxisSpacing, AxisSpacing]
    patch_size: Counts3
    hu_window: HUWindow
    network: ResUNet3DConfig
    loss: KidneyLossConfig
    sampling: KidneySampling
    augmentation: AugmentationConfig
    schedule: Schedule
    window_stride: Counts3
    window_blend: Literal["center", "gaussian"]
    minimal_kidney_ml: NonNegative
    why: dict[str, str]

    def __post_init__(self) -> None:
        _check_why(self)
        for size, divisor in zip(self.patch_size, self.network.divisor, strict=True):
            if size % divisor:
                raise ValueError(
                    f"patch_size {list(self.patch_size)} is not divisible by the product of the "
                    f"network's strides {list(self.network.divisor)}"
                )
        for stride, size in zip(self.window_stride, self.patch_size, strict=True):
            if stride > size:
                raise ValueError("window_stride is larger than patch_size: slices would be skipped")


class TumorPlan(Document, frozen=True, kw_only=True):
    """Stage 2: tumors (and cysts, where they are labelled) inside the kidney mask.

    `roi_margin_mm` None keeps whole slices, as the paper does. The network sees HU inside the mask
    dilated by `mask_dilation_mm` and the window's low end outside, or, with `network.mask_channel`,
    all HU; tumors are looked for inside the dilated mask only.
    """

    target_spacing_mm: tuple[AxisSpacing, AxisSpacing, AxisSpacing]
    patch_size: Counts2
    slab_depth: Count
    roi_margin_mm: NonNegative | None
    mask_dilation_mm: NonNegative
    hu_window: HUWindow
    network: VNet25DConfig
    loss: TumorLossConfig
    sampling: TumorSampling
    augmentation: AugmentationConfig
    schedule: Schedule
    threshold: Annotated[float, Meta(gt=0, lt=1)]
    components: Components
    minimal_tumor_ml: NonNegative
    minimal_healthy_ml: NonNegative
    why: dict[str, str]

    def __post_init__(self) -> None:
        _check_why(self)
        if self.slab_depth != self.network.slab_depth:
            raise ValueError(
                f"slab_depth {self.slab_depth} differs from network.slab_depth "
                f"{self.network.slab_depth}"
            )
        if any(size % self.network.divisor for size in self.patch_size):
            raise ValueError(
                f"patch_size {list(self.patch_size)} is not divisible by the network's "
                f"{self.network.divisor}"
            )


class Labels(Document, frozen=True, kw_only=True):
    """Label values of the data set; `cyst` None where cysts are not labelled."""

    kidney: Annotated[int, Meta(ge=1, le=255)] = 1
    tumor: Annotated[int, Meta(ge=1, le=255)] = 2
    cyst: Annotated[int, Meta(ge=1, le=255)] | None = None

    def __post_init__(self) -> None:
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"label values {self.values} are not all different")

    @property
    def values(self) -> tuple[int, ...]:
        """All values above background."""
        return (self.kidney, self.tumor) + (() if self.cyst is None else (self.cyst,))


class Plan(Document, frozen=True, kw_only=True):
    """Every choice of a training, both stages."""

    schema: Literal[1] = 1
    name: str
    fingerprint_sha256: str | None
    seed: Annotated[int, Meta(ge=0)]
    labels: Labels
    folds: Annotated[int, Meta(ge=1)]
    kidney: KidneyPlan
    tumor: TumorPlan

    def stage(self, name: Stage) -> KidneyPlan | TumorPlan:
        """The part of a stage."""
        return self.kidney if name == "kidney" else self.tumor

    def __post_init__(self) -> None:
        classes = 1 if self.labels.cyst is None else 2
        if self.tumor.network.classes != classes:
            raise ValueError(
                f"tumor.network.classes is {self.tumor.network.classes}, the labels have {classes}"
            )


PLANNED_FIELDS_LEFT_OUT = frozenset({"why"})


def _check_length(name: str, values: tuple[object, ...], length: int) -> None:
    if len(values) != length:
        raise ValueError(f"{name} has {len(values)} entries, levels asks for {length}")


def _check_why(stage: KidneyPlan | TumorPlan) -> None:
    planned = set(stage.__struct_fields__) - PLANNED_FIELDS_LEFT_OUT
    if set(stage.why) != planned:
        raise ValueError(
            f"the keys of why differ from the planned fields: {sorted(set(stage.why) ^ planned)}"
        )
