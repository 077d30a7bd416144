"""How hard is looked: every window, or closely only where kidneys were found coarsely."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """What a prediction does and leaves out.

    Args:
        search_gap: kidneys are first searched in coarse maps of thin windows; so many of their
            depths lie between two of them. None: no search, every window of the plan in full.
        cores: the share of a window's (Z, Y, X), in its middle, that a close look relies on where
            the plan's windows lie closer together.
        levels_below: the close look takes the maps of a decoder level so many below the finest.
        tumor_step: of the slices that the scan's own ask for, the tumor stage sees every so
            manieth; what lies between is interpolated.
        one_network: of several folds only the first of each stage is asked.
        mirror: average over the axes that a training mirrored.
    """

    search_gap: int | None
    cores: tuple[float, float, float] = (0.625, 0.8, 0.8)
    levels_below: int = 0
    tumor_step: int = 1
    one_network: bool = False
    mirror: bool = False


PLAIN = Effort(search_gap=None)
"""Every window of the plan over the whole scan, every slice: what the others are held against."""
DEFAULT = Effort(search_gap=1)
FAST = Effort(search_gap=2, cores=(0.9, 0.9, 0.9), levels_below=1, tumor_step=2, one_network=True)


def effort_of(*, fast: bool = False, mirror: bool = False) -> Effort:
    """What a user asked for with `--fast` and `--mirror`."""
    return replace(FAST if fast else DEFAULT, mirror=mirror)
