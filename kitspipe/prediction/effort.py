"""How hard is looked: every window, or closely only where kidneys were found coarsely."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """What a prediction does and leaves out.

    Args:
        search_gap: kidneys are first searched in coarse maps of thin windows; so many of their
            depths lie between two of them. None: no search, every window of the plan in full.
        core: a close look takes the fewest windows that cover kidneys with this share of them, in
            their middle. None: those of the plan, but for the ones that say little there.
        slack: an axis longer than a window by at most this share takes one, over the kidneys; the
            plan's would be two that see nearly the same.
        levels_below: the close look takes the maps of a decoder level so many below the finest.
        tumor_step: of the slices that the scan's own ask for, the tumor stage sees every so
            manieth, or where that is above 1, at most one per slice of the scan; what lies between
            is interpolated.
        one_network: of several folds only the first of each stage is asked.
        mirror: average over the axes that a training mirrored.
    """

    search_gap: int | None
    core: float | None = None
    slack: float = 0.0
    levels_below: int = 0
    tumor_step: int = 1
    one_network: bool = False
    mirror: bool = False

    def for_slices(self, stage_slices: float) -> Effort:
        """For a scan each of whose slices is so many of the tumor stage's."""
        if self.tumor_step == 1:
            return self
        return replace(self, tumor_step=max(self.tumor_step, round(stage_slices)))


PLAIN = Effort(search_gap=None)
"""Every window of the plan over the whole scan, every slice: what the others are held against."""
DEFAULT = Effort(search_gap=1, slack=1 / 8)
FAST = Effort(search_gap=2, core=0.9, levels_below=1, tumor_step=2, one_network=True)


def effort_of(*, fast: bool = False, mirror: bool = False) -> Effort:
    """What a user asked for with `--fast` and `--mirror`."""
    return replace(FAST if fast else DEFAULT, mirror=mirror)
