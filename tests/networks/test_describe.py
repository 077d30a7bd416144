import time

import msgspec
import pytest
from small_plans import small_kidney_plan, small_plan, small_tumor_plan

from kitspipe.networks.describe import describe
from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.planning.plan import ResUNet3DConfig, VNet25DConfig

TINY_KIDNEY = ResUNet3DConfig(
    levels=2,
    channels=(2, 3),
    strides=((1, 2, 2),),
    convolutions_per_level=(1, 2),
    norm="instance",
    activation="leaky_relu",
    dropout=0.0,
    target_refinement=(1, 2, 2),
)
TINY_TUMOR = VNet25DConfig(
    slab_depth=3,
    levels=2,
    channels=(2, 4),
    convolutions_per_level=(1, 1),
    kernel_size=5,
    norm="none",
    activation="prelu",
    classes=2,
    multi_scale=False,
    squeeze_excitation=False,
    attention_gates=False,
    dilated_bottom=False,
    mask_channel=False,
)


def tiny_plan(kidney_patch=(2, 4, 4), tumor_patch=(8, 12)):
    return small_plan(
        kidney=small_kidney_plan(
            network=TINY_KIDNEY, patch_size=kidney_patch, window_stride=(1, 2, 2)
        ),
        tumor=small_tumor_plan(network=TINY_TUMOR, patch_size=tumor_patch),
    )


def test_operations_are_as_many_as_counted_by_hand():
    kidney, tumor = describe(tiny_plan())
    full, bottom = 2 * 4 * 4, 2 * 2 * 2
    kidney_multiplications = (
        27 * 1 * 2 * full  # encoder 1
        + 4 * 2 * 3 * bottom  # down
        + 2 * 27 * 3 * 3 * bottom  # encoder 2
        + 27 * 3 * 6 * bottom  # widen
        + (27 * 3 * 6 + 27 * 6 * 6) * bottom  # decoder 1
        + 6 * 4 * full  # up: every finer voxel comes from one coarse voxel
        + 27 * (4 + 2) * 4 * full  # decoder 2
        + 6 * bottom
        + 4 * full  # maps
    )
    assert kidney.flops == 2 * kidney_multiplications
    full, bottom = 8 * 12, 4 * 6
    tumor_multiplications = (
        (25 * 3 * 2 + 3 * 2) * full  # encoder 1 and its projection
        + 4 * 2 * 4 * bottom  # down
        + 25 * 4 * 4 * bottom  # encoder 2
        + 4 * 2 * full  # up
        + 25 * 4 * 4 * full  # decoder 1
        + 4 * 2 * full  # head
    )
    assert tumor.flops == 2 * tumor_multiplications


def test_shapes_are_listed_in_the_order_of_the_pass():
    kidney, tumor = describe(tiny_plan())
    assert kidney.shapes == (
        ("input", (1, 1, 2, 4, 4)),
        ("encoder 1", (1, 2, 2, 4, 4)),
        ("encoder 2", (1, 3, 2, 2, 2)),
        ("decoder 1", (1, 6, 2, 2, 2)),
        ("decoder 2", (1, 4, 2, 4, 4)),
        ("logits 1", (1, 1, 2, 8, 8)),
        ("logits 2", (1, 1, 2, 8, 8)),
    )
    assert tumor.shapes == (
        ("input", (1, 3, 8, 12)),
        ("encoder 1", (1, 2, 8, 12)),
        ("encoder 2", (1, 4, 4, 6)),
        ("decoder 1", (1, 4, 8, 12)),
        ("logits 1", (1, 2, 8, 12)),
    )


def test_parameters_are_those_of_the_real_networks():
    plan = small_plan()
    kidney, tumor = describe(plan)
    for stage, network in (
        (kidney, ResUNet3D(plan.kidney.network)),
        (tumor, VNet25D(plan.tumor.network)),
    ):
        assert stage.parameters == sum(p.numel() for p in network.parameters())


def test_a_patch_that_fits_no_memory_is_described():
    # 2^42 voxels: 16 TiB for the image alone.
    small, _ = describe(tiny_plan())
    large, _ = describe(tiny_plan(kidney_patch=(2**14, 2**14, 2**14)))
    assert large.flops == small.flops * 2**42 // 32


def test_the_papers_networks_are_described_at_once():
    kidney = msgspec.structs.replace(
        TINY_KIDNEY,
        levels=4,
        channels=(16, 32, 64, 128),
        strides=((2, 2, 2),) * 3,
        convolutions_per_level=(2, 3, 3, 3),
        norm="none",
        activation="prelu",
    )
    plan = small_plan(kidney=small_kidney_plan(network=kidney, patch_size=(64, 256, 256)))
    describe(tiny_plan())  # torch imports its counter with the first one
    start = time.process_time()
    stage, _ = describe(plan)
    assert time.process_time() - start < 2
    assert stage.shapes[-1] == ("logits 4", (1, 1, 64, 512, 512))


@pytest.mark.parametrize("patch", [(8, 12), (40, 28)])
def test_rows_for_a_reader_say_the_same(patch):
    _, tumor = describe(tiny_plan(tumor_patch=patch))
    assert tumor.levels[0] == ("input", f"1 x 3 x {patch[0]} x {patch[1]}")
    assert dict(tumor.facts)["parameters"] == f"{tumor.parameters:,}"
    assert [name for name, _ in tumor.levels] == [name for name, _ in tumor.shapes]


def test_switches_cost_operations():
    plan = tiny_plan()
    for switch in ("multi_scale", "squeeze_excitation", "attention_gates", "dilated_bottom"):
        network = msgspec.structs.replace(TINY_TUMOR, **{switch: True})
        tumor = msgspec.structs.replace(plan.tumor, network=network)
        more = describe(msgspec.structs.replace(plan, tumor=tumor))[1]
        assert more.flops > describe(plan)[1].flops
        assert more.parameters > describe(plan)[1].parameters
