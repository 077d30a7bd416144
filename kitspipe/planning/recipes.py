"""What follows from the method and the size of a training, not from the data. With reasons."""

from __future__ import annotations

from kitspipe.planning.plan import (
    AugmentationConfig,
    KidneyLossConfig,
    KidneySampling,
    Schedule,
    TumorLossConfig,
    TumorSampling,
)
from kitspipe.planning.rules import Choice, Size

KIDNEY_BATCH_AT_MOST = 2
TUMOR_BATCH_AT_MOST = {"standard": 32, "small": 12}


def kidney_loss() -> Choice[KidneyLossConfig]:
    """Deep supervision as in paper 2.1."""
    return Choice(
        KidneyLossConfig(
            mu=0.33,
            mu_decay=0.8,
            mu_every=0.03,
            squared_denominator=False,
            cross_entropy_weight=1.0,
            tumor_weight=4.0,
        ),
        "mu 0.33, x0.8 each 15 of 500 epochs (paper 2.1); plain Dice sums, which are steeper where "
        "the network is unsure; with cross-entropy as in nnU-Net, where tumor voxels count four "
        "times: what is left out of the kidney, the tumor stage never sees",
    )


def tumor_loss() -> Choice[TumorLossConfig]:
    """Focal plus weighted Dice as in paper 3.3."""
    return Choice(
        TumorLossConfig(
            focal_weight=1.0,
            dice_weight=1.0,
            gamma=2.0,
            alpha=0.75,
            foreground_weight=1.0,
            background_weight=0.1,
            prior=0.01,
        ),
        "focal and weighted Dice together (paper 3.3), equal weights; gamma, alpha and prior as in "
        "Lin et al. 2017, alpha turned toward the rare tumor",
    )


def kidney_sampling() -> Choice[KidneySampling]:
    """Patches near the kidneys, some from anywhere."""
    return Choice(
        KidneySampling(margin_mm=None, foreground_share=0.5),
        "from the whole scan, as prediction sees all of it, chest and pelvis too (the paper: up to "
        "100 mm above and below the kidneys); half of the patches hold kidney for sure",
    )


def tumor_sampling(size: Size) -> Choice[TumorSampling]:
    """Tumors, hard places and the rest; masks as wrong as predicted ones."""
    return Choice(
        TumorSampling(
            positive_share=0.4,
            hard_share=0.3,
            hard_case_warmup=0.3,
            # Each time costs a pass over all training cases.
            hard_case_every=0.1 if size == "standard" else 0.3,
            hard_case_strength=2.0,
            out_of_fold_share=0.5,
            jittered_mask_share=0.5,
            mask_jitter_mm=4.0,
        ),
        "40 % of the slabs show tumor, 30 % a cyst or a false tumor; cases re-weighed by their "
        "errors (paper 3.4); half of the masks with a wandering border, as in prediction",
    )


def kidney_augmentation() -> Choice[AugmentationConfig]:
    """Mirroring as in paper 2.2, and small changes of place and size."""
    return Choice(
        AugmentationConfig(
            mirror_axes=("x",),
            rotation_probability=0.2,
            rotation_degrees=15.0,
            translation_share=0.1,
            scale_probability=0.2,
            scale=(0.8, 1.25),
            equalization_probability=0.0,
            blur_probability=0.1,
            blur_sigma=(0.5, 1.0),
        ),
        "left-right mirroring (paper 2.2), turned and scaled now and then as patients lie and are",
    )


def tumor_augmentation(size: Size) -> Choice[AugmentationConfig]:
    """The paper's list (3.1), mirroring in the slice added, wider where training is long."""
    is_long = size == "standard"
    return Choice(
        AugmentationConfig(
            mirror_axes=("y", "x"),
            rotation_probability=0.6 if is_long else 0.3,
            rotation_degrees=45.0 if is_long else 15.0,
            translation_share=0.1,
            scale_probability=0.6 if is_long else 0.3,
            scale=(0.7, 1.4) if is_long else (0.8, 1.25),
            equalization_probability=0.1,
            blur_probability=0.2,
            blur_sigma=(0.5, 1.0),
        ),
        "rotation, translation, cut and scale, equalization, blur (paper 3.1); turned and scaled "
        + ("often and far, as tumors are few" if is_long else "a little, as training is short")
        + "; mirrored in the slice, as a kidney's region has no side",
    )


def kidney_schedule(size: Size, batch_size: int) -> Choice[Schedule]:
    """How long the kidney stage learns."""
    epochs, steps = (250, 250) if size == "standard" else (4, 100)
    return Choice(
        _schedule(epochs, steps, batch_size, 1e-3 if size == "standard" else 4e-3),
        f"{epochs} epochs of {steps} steps"
        + ("" if size == "standard" else ": minutes on a CPU, enough to see it work"),
    )


def tumor_schedule(size: Size, batch_size: int) -> Choice[Schedule]:
    """How long the tumor stage learns."""
    epochs, steps = (250, 250) if size == "standard" else (10, 100)
    return Choice(
        _schedule(epochs, steps, batch_size, 1e-3 if size == "standard" else 3e-3),
        f"{epochs} epochs of {steps} steps"
        + ("" if size == "standard" else ": minutes on a CPU, enough to see it work"),
    )


def _schedule(epochs: int, steps: int, batch_size: int, learning_rate: float) -> Schedule:
    return Schedule(
        epochs=epochs,
        steps_per_epoch=steps,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=learning_rate,
        decay="cosine",
        weight_decay=1e-4,
        gradient_clip=12.0,
    )
