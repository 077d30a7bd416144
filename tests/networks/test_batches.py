import pytest
import torch

from kitspipe import console
from kitspipe.networks.batches import forward_in_parts


class Small:
    """A device with room for so many samples at once."""

    def __init__(self, room):
        self.room, self.sizes = room, []

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch * 2


@pytest.mark.parametrize("room", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_whatever_there_is_room_for_the_result_is_the_same(count, room):
    batch, forward = torch.arange(count * 3.0).reshape(count, 3), Small(room)
    with console.collected_warnings() as warnings:
        torch.testing.assert_close(forward_in_parts(forward, batch), batch * 2)
    assert bool(warnings) == (count > room)


def test_smaller_batches_are_said_once_per_size():
    with console.collected_warnings() as warnings:
        forward_in_parts(Small(2), torch.zeros(8, 1))
    assert warnings == [
        "out of GPU memory: batches of 4 instead of 8",
        "out of GPU memory: batches of 2 instead of 4",
    ]


def test_a_single_sample_that_is_too_large_is_left_to_the_caller():
    with pytest.raises(torch.OutOfMemoryError):
        forward_in_parts(Small(0), torch.zeros(4, 1))
