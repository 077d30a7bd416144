"""Networks and their mirrored passes over a batch of patches: the mean, and who votes for what.

Members are the networks where there are several, each with the mean of its mirrored passes; of a
single network they are its mirrored passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kitspipe.networks.batches import forward_in_parts
from kitspipe.networks.device import autocast

_AXES = {"z": -3, "y": -2, "x": -1}


def flips(axes: Sequence[str], *, mirror: bool) -> list[tuple[int, ...]]:
    """Axes to flip, counted from the last, for each look: all combinations, none first.

    Args:
        axes: which a training mirrored, "z", "y", "x".
        mirror: whether to mirror at all.
    """
    places = [_AXES[axis] for axis in axes] if mirror else []
    return [chosen for n in range(len(places) + 1) for chosen in combinations(places, n)]


class Ballot:
    """The members' votes in one batch of patches.

    Args:
        threshold: probability from which on a voxel is in a mask.
        networks: how many take part.
        passes: of each.
    """

    def __init__(self, threshold: float, *, networks: int, passes: int) -> None:
        self.threshold = threshold
        self._passes = passes if networks > 1 else 1
        self._cast = 0
        self._votes, self._own = torch.zeros((), dtype=torch.uint8), torch.zeros(())

    def cast(self, probability: Tensor) -> None:
        """Take one pass; those of a network come one after the other.

        Args:
            probability: (N, K, ...); the first class is voted on, where no other is likelier.
        """
        if self._passes > 1:
            self._own = probability if self._cast == 0 else self._own + probability
            self._cast = (self._cast + 1) % self._passes
            if self._cast:
                return
            probability = self._own / self._passes
        first = probability[:, 0]
        vote = (first >= self.threshold) & (first >= probability.amax(dim=1))
        self._votes = self._votes.to(vote.device) + vote

    @property
    def votes(self) -> NDArray[np.uint8]:
        """(N, ...), how many members have each voxel in their mask."""
        votes: NDArray[np.uint8] = self._votes.cpu().numpy()
        return votes


def mean_probability(
    networks: Sequence[Callable[[Tensor], Tensor]],
    patches: Tensor,
    turned: Sequence[tuple[int, ...]],
    ballot: Ballot | None = None,
) -> NDArray[np.float32]:
    """Mean of the networks' probabilities over all flips, (N, K, ...) float32.

    Args:
        networks: each takes patches and gives logits (N, K, ...).
        patches: (N, C, ...) in network units, on the networks' device.
        turned: as of `flips`.
        ballot: gets each pass.
    """
    total: Tensor | None = None
    for network in networks:
        for flip in turned:
            with autocast(patches.device):
                logits = forward_in_parts(network, patches.flip(flip))
            probability = torch.sigmoid(logits.float()).flip(flip)
            if ballot is not None:
                ballot.cast(probability)
            # The ballot has what it needs of the first pass before it is added to.
            total = probability if total is None else total.add_(probability)
    assert total is not None
    mean: NDArray[np.float32] = total.div_(len(networks) * len(turned)).cpu().numpy()
    return mean
