"""Random numbers by key: no state is shared, so no worker's draws depend on another's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

_WORD = 2**64


class Purpose(IntEnum):
    """What a stream of numbers decides; streams of one sample are independent."""

    ORDER = 0
    PLACE = 1
    CHANGE = 2
    MASK = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleKey:
    """Names one sample of a training.

    Args:
        seed: the plan's.
        stage: a number per stage.
        epoch: from 0.
        sample: number in its epoch, from 0.
    """

    seed: int
    stage: int
    epoch: int
    sample: int

    def stream(self, purpose: Purpose) -> np.random.Generator:
        """Numbers that depend on the key and purpose alone, the same on every machine.

        Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox). Seed,
        stage and purpose are its key; epoch and sample the counter's upper words, whose lower two
        count the draws, so that streams never overlap.
        """
        return np.random.Generator(
            np.random.Philox(
                key=np.array([self.seed % _WORD, self.stage * len(Purpose) + purpose], np.uint64),
                counter=np.array([0, 0, self.sample, self.epoch], np.uint64),
            )
        )
