"""A plan small enough to train in a test."""

import msgspec

from kitspipe.planning.plan import (
    AugmentationConfig,
    HUWindow,
    KidneyLossConfig,
    KidneyPlan,
    KidneySampling,
    Labels,
    Plan,
    ResUNet3DConfig,
    Schedule,
    TumorLossConfig,
    TumorPlan,
    TumorSampling,
    VNet25DConfig,
)

AUGMENTATION = AugmentationConfig(
    mirror_axes=("x",),
    rotation_probability=0.5,
    rotation_degrees=15,
    translation_share=0.1,
    scale_probability=0.5,
    scale=(0.8, 1.25),
    equalization_probability=0.2,
    blur_probability=0.2,
    blur_sigma=(0.5, 1.0),
)

SCHEDULE = Schedule(
    epochs=2,
    steps_per_epoch=3,
    batch_size=2,
    optimizer="adam",
    learning_rate=1e-3,
    decay="cosine",
    weight_decay=0.0,
    gradient_clip=12.0,
)

WINDOW = HUWindow(low_hu=-155, high_hu=245, center_hu=45, scale_hu=200)


def resunet3d_config(**edits):
    """A small kidney network that has all kinds of strides."""
    values = {
        "levels": 4,
        "channels": (2, 4, 6, 8),
        "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        "convolutions_per_level": (1, 2, 1, 1),
        "norm": "instance",
        "activation": "leaky_relu",
        "dropout": 0.0,
        "target_refinement": (1, 2, 2),
    }
    return ResUNet3DConfig(**values | edits)


def small_kidney_plan(**edits):
    values = {
        "target_spacing_mm": (5.0, 5.0, 5.0),
        "patch_size": (8, 32, 32),
        "hu_window": WINDOW,
        "network": ResUNet3DConfig(
            levels=3,
            channels=(4, 8, 8),
            strides=((1, 2, 2), (2, 2, 2)),
            convolutions_per_level=(1, 1, 1),
            norm="instance",
            activation="leaky_relu",
            dropout=0.1,
            target_refinement=(1, 1, 1),
        ),
        "loss": KidneyLossConfig(
            mu=0.33,
            mu_decay=0.8,
            mu_every=0.03,
            squared_denominator=False,
            cross_entropy_weight=1.0,
            tumor_weight=4.0,
        ),
        "sampling": KidneySampling(margin_mm=30.0, foreground_share=0.5),
        "augmentation": AUGMENTATION,
        "schedule": SCHEDULE,
        "window_stride": (4, 16, 16),
        "window_blend": "gaussian",
        "minimal_kidney_ml": 5.0,
    }
    return _with_why(KidneyPlan, values | edits)


def small_tumor_plan(**edits):
    values = {
        "target_spacing_mm": (5.0, 2.5, 2.5),
        "patch_size": (32, 40),
        "slab_depth": 3,
        "roi_margin_mm": 10.0,
        "mask_dilation_mm": 3.0,
        "hu_window": WINDOW,
        "network": VNet25DConfig(
            slab_depth=3,
            levels=3,
            channels=(4, 8, 8),
            convolutions_per_level=(1, 1, 1),
            kernel_size=5,
            norm="instance",
            activation="prelu",
            classes=2,
            multi_scale=True,
            squeeze_excitation=True,
            attention_gates=True,
            dilated_bottom=True,
            mask_channel=False,
        ),
        "loss": TumorLossConfig(
            focal_weight=1,
            dice_weight=1,
            gamma=2,
            alpha=0.75,
            foreground_weight=1,
            background_weight=0.1,
            prior=0.01,
        ),
        "sampling": TumorSampling(
            positive_share=0.5,
            hard_share=0.3,
            hard_case_warmup=0.5,
            hard_case_every=0.5,
            hard_case_strength=2.0,
            out_of_fold_share=0.5,
            jittered_mask_share=0.5,
            mask_jitter_mm=3.0,
        ),
        "augmentation": AUGMENTATION,
        "schedule": SCHEDULE,
        "threshold": 0.5,
        "components": "all",
        "minimal_tumor_ml": 0.0,
        "minimal_healthy_ml": 0.0,
    }
    return _with_why(TumorPlan, values | edits)


def small_plan(*, kidney=None, tumor=None, cyst=3):
    tumor = tumor or small_tumor_plan()
    classes = 1 if cyst is None else 2
    if tumor.network.classes != classes:
        network = msgspec.structs.replace(tumor.network, classes=classes)
        tumor = msgspec.structs.replace(tumor, network=network)
    return Plan(
        name="small",
        fingerprint_sha256=None,
        seed=7,
        labels=Labels(cyst=cyst),
        folds=2,
        kidney=kidney or small_kidney_plan(),
        tumor=tumor,
    )


def _with_why(kind, values):
    return kind(**values, why=dict.fromkeys(values, "a test"))
