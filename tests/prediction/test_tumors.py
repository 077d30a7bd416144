from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from small_plans import small_plan, small_tumor_plan
from torch import nn

from kitspipe.imaging.volume import Box, Grid, Volume
from kitspipe.networks.inference import for_prediction
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.prediction import tumors
from kitspipe.prediction.effort import FAST, PLAIN
from kitspipe.prediction.tumors import TumorStage, classes_of, tumor_classes, tumor_probability
from kitspipe.preprocessing.targets import TUMOR_CLASS

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


class Says(nn.Module):
    """The same logit everywhere."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, slab):
        return torch.full((len(slab), 2, *slab.shape[2:]), self.logit)


def inside(shape):
    """Distances of a region that is kidney all over."""
    return np.full(shape, -5, np.float32)


def test_folds_are_averaged_in_probability():
    shape = (3, 16, 16)
    networks = [Says(-1.0), Says(4.0)]
    found = tumor_probability(np.zeros(shape, np.int16), inside(shape), networks, PLAN.tumor, CPU)
    # The mean of the probabilities, not the sigmoid of the mean logit.
    expected = (1 / (1 + np.exp(1.0)) + 1 / (1 + np.exp(-4.0))) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_mirrored_slabs_are_turned_back_and_averaged_in_probability():
    class LeftIsTumor(nn.Module):
        def forward(self, slab):
            columns = torch.arange(slab.shape[-1], dtype=torch.float32) - 10
            return columns.expand(len(slab), 2, *slab.shape[2:])

    plan = msgspec.structs.replace(PLAN.tumor, patch_size=(16, 32))
    shape = (2, 16, 32)
    hu, distance = np.zeros(shape, np.int16), inside(shape)
    effort = replace(PLAIN, mirror=True)
    found = tumor_probability(hu, distance, [LeftIsTumor()], plan, CPU, effort=effort)
    once = 1 / (1 + np.exp(-(np.arange(32) - 10.0)))
    np.testing.assert_allclose(found[0, 1, 3], (once + once[::-1]) / 2, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_it_does_not_matter_how_many_slabs_go_through_a_network_at_once(at_once, monkeypatch):
    network = for_prediction(VNet25D(PLAN.tumor.network), CPU)
    hu = np.random.default_rng(0).integers(-155, 245, (11, 30, 37)).astype(np.int16)
    expected = tumor_probability(hu, inside(hu.shape), [network], PLAN.tumor, CPU)
    monkeypatch.setattr(tumors, "_SLICES_AT_ONCE", at_once)
    found = tumor_probability(hu, inside(hu.shape), [network], PLAN.tumor, CPU)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std() > 0


def test_a_preview_looks_at_every_second_slice_and_the_last_one_and_interpolates():
    seen = []

    class MiddleHU(nn.Module):
        """Its probability is the middle slice's network unit."""

        def forward(self, slab):
            seen.extend(slab[:, slab.shape[1] // 2, 0, 0].tolist())
            return torch.logit(slab[:, slab.shape[1] // 2][:, None]).repeat(1, 2, 1, 1)

    window = PLAN.tumor.hu_window
    units = np.array([0.1, 0.6, 0.3, 0.9, 0.5, 0.8])
    hu = np.rint(units * window.scale_hu + window.center_hu).astype(np.int16)
    volume = np.broadcast_to(hu[:, None, None], (6, 8, 8)).copy()
    plan = msgspec.structs.replace(PLAN.tumor, patch_size=(8, 8))
    found = tumor_probability(volume, inside(volume.shape), [MiddleHU()], plan, CPU, effort=FAST)
    np.testing.assert_allclose(seen, units[[0, 2, 4, 5]], atol=1e-6)
    expected = [0.1, 0.2, 0.3, 0.4, 0.5, 0.8]
    np.testing.assert_allclose(found[0, :, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize(("slice_mm", "at_most"), [(1.0, 8), (3.0, 6), (5.0, 4)])
def test_a_preview_looks_at_no_more_slices_than_the_scan_has(slice_mm, at_most):
    seen = []

    class Counts(nn.Module):
        def forward(self, slab):
            seen.append(len(slab))
            return torch.full((len(slab), 2, *slab.shape[2:]), 5.0)

    plan = msgspec.structs.replace(PLAN.tumor, target_spacing_mm=(1.0, 2.0, 2.0))
    # 15 mm of the scan, kidney throughout.
    grid = Grid(shape=(round(15 / slice_mm), 12, 12), spacing=(slice_mm, 2.0, 2.0))
    image = Volume(array=np.zeros(grid.shape, np.int16), grid=grid)
    kidney, whole = np.ones(grid.shape, bool), Box(start=(0, 0, 0), stop=grid.shape)
    for effort, expected in ((PLAIN, 15), (FAST, at_most)):
        seen.clear()
        stage = TumorStage(networks=[Counts()], plan=plan, device=CPU, effort=effort)
        assert (tumor_classes(image, kidney, whole, stage) == TUMOR_CLASS).all()
        assert sum(seen) == expected
