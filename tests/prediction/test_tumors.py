import msgspec
import numpy as np
import pytest
import torch
from small_plans import small_plan, small_tumor_plan
from torch import nn

from kitspipe.prediction.tumors import classes_of, tumor_probability

CPU = torch.device("cpu")
PLAN = small_plan(tumor=small_tumor_plan())


def test_tumors_are_looked_for_only_inside_the_dilated_kidney():
    class AllTumor(nn.Module):
        def forward(self, slab):
            return torch.full((len(slab), 2, *slab.shape[2:]), 5.0)

    shape = (3, 20, 21)
    distance = np.abs(np.arange(21) - 10.0) * 2.5 - 2.5
    distance = np.broadcast_to(distance, shape).astype(np.float32)
    found = tumor_probability(np.zeros(shape, np.int16), distance, [AllTumor()], PLAN.tumor, CPU)
    assert found.shape == (2, *shape)
    # Dilation 3 mm: columns up to 2 beside the middle one lie within.
    assert (found[0, 0, 0] > 0.5).nonzero()[0].tolist() == [8, 9, 10, 11, 12]


def test_the_slices_of_a_slab_are_neighbors_and_ends_repeat():
    class Sum(nn.Module):
        def forward(self, slab):
            digits = torch.tensor([1.0, 10.0, 100.0])[:, None, None]
            return torch.logit((slab * digits).sum(1) / 1e4)[:, None].repeat(1, 2, 1, 1)

    # Slices of 1, 2, 3, 4 in network units.
    window = PLAN.tumor.hu_window
    hu = np.arange(1, 5) * window.scale_hu / 10 + window.center_hu
    image = np.broadcast_to(hu[:, None, None], (4, 8, 8)).astype(np.int16)
    inside = np.full(image.shape, -1, np.float32)
    found = tumor_probability(image, inside, [Sum()], PLAN.tumor, CPU)[0, :, 0, 0]
    np.testing.assert_allclose(found * 1e5, [211, 321, 432, 443], rtol=1e-3)


@pytest.mark.parametrize(
    ("tumor", "cyst", "expected"),
    [
        (0.4, 0.3, 0),
        (0.5, 0.3, 1),
        (0.6, 0.9, 2),
        (0.9, 0.9, 1),  # a tie is a tumor: missing one costs more
        (0.4, 0.5, 2),
    ],
)
def test_the_likelier_class_wins_from_the_threshold_on(tumor, cyst, expected):
    probability = np.array([tumor, cyst], np.float32)[:, None, None, None]
    assert classes_of(probability, 0.5).item() == expected


def test_with_the_mask_as_a_channel_the_network_sees_all_of_the_ct_and_the_border():
    seen = []

    class Records(nn.Module):
        def forward(self, slab):
            seen.append(slab.numpy().copy())
            return torch.zeros(len(slab), 2, *slab.shape[2:])

    network = msgspec.structs.replace(PLAN.tumor.network, mask_channel=True)
    plan = msgspec.structs.replace(PLAN.tumor, network=network, patch_size=(8, 24))
    hu = np.full((3, 8, 21), 145, np.int16)
    # 2.5 mm pixels; the kidney's border lies between columns 9 and 10.
    distance = np.broadcast_to((np.arange(21) - 9.5) * 2.5, hu.shape).astype(np.float32)
    found = tumor_probability(hu, distance, [Records()], plan, CPU)
    (slab,) = seen
    assert slab.shape == (3, 4, 8, 24)
    # (145 - 45) / 200 everywhere, also far outside; the padding of 1 and 2 columns is blank.
    np.testing.assert_allclose(slab[:, :3, :, 1:22], 0.5)
    assert (slab[:, 3, 0, 0] == 1).all()
    np.testing.assert_allclose(
        slab[1, 3, 0, 8:14], np.array([-6.25, -3.75, -1.25, 1.25, 3.75, 6.25]) / 10
    )
    # Dilation 3 mm: tumors are looked for up to column 10.
    assert (found[0, 0, 0] > 0).nonzero()[0].tolist() == list(range(11))
