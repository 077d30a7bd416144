import msgspec
import pytest
import torch
from small_plans import SCHEDULE, small_kidney_plan, small_tumor_plan

from kitspipe.planning.memory import stage_bytes
from kitspipe.training.too_large import is_out_of_memory, lower, out_of_memory

CPU = torch.device("cpu")
PLANS = {"kidney": small_kidney_plan, "tumor": small_tumor_plan}


def with_batch(stage, batch_size, **edits):
    schedule = msgspec.structs.replace(SCHEDULE, batch_size=batch_size)
    return PLANS[stage](schedule=schedule, **edits)


@pytest.mark.parametrize("stage", PLANS)
def test_the_batch_is_lowered_to_the_largest_that_takes_four_fifths_of_what_there_is(stage):
    plan = with_batch(stage, 8)
    available = stage_bytes(plan, batch_size=6)
    said = lower(stage, plan, available)
    name, _, last = said.rpartition(" ")
    assert name == f"{stage}.schedule.batch_size from 8 to"
    chosen = int(last)
    assert stage_bytes(plan, batch_size=chosen) <= 0.8 * available
    assert stage_bytes(plan, batch_size=chosen + 1) > 0.8 * available


def test_what_failed_is_lowered_even_where_it_was_thought_to_fit():
    plan = with_batch("kidney", 8)
    said = lower("kidney", plan, 1000 * stage_bytes(plan))
    chosen = int(said.rpartition(" ")[2])
    assert stage_bytes(plan, batch_size=chosen) <= 0.8 * stage_bytes(plan)
    assert lower("kidney", plan, None) == said


@pytest.mark.parametrize(
    ("stage", "patch", "said"),
    [
        ("kidney", (8, 32, 48), "kidney.patch_size from [8, 32, 48] to [8, 32, 36]"),
        ("tumor", (64, 32), "tumor.patch_size from [64, 32] to [48, 32]"),
    ],
)
def test_where_the_batch_is_one_the_longest_axis_of_the_patch_is_lowered(stage, patch, said):
    assert lower(stage, with_batch(stage, 1, patch_size=patch), None) == said


def test_the_message_names_what_is_needed_what_there_is_and_what_to_change():
    plan = with_batch("tumor", 4)
    error = out_of_memory("tumor", plan, CPU, 3 * 2**29)
    assert error.file == "tumor stage on cpu"
    assert f"about {stage_bytes(plan) / 2**30:.1f} GiB, cpu has 1.5 GiB" in error.found
    assert "tumor.schedule.batch_size from 4 to 3" in error.remedy
    assert "smaller --memory" in error.remedy


def test_what_torch_says_when_memory_runs_out_is_recognized():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
