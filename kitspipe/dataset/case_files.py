"""A case's scan and mask, read when first asked for, and only once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from kitspipe.dataset.cases import Case
from kitspipe.errors import UserError
from kitspipe.imaging.formats import read_image, read_labels
from kitspipe.imaging.header import Header
from kitspipe.imaging.volume import Volume


class CaseFiles:
    """What stands in a case's files; holds their voxels as long as it lives.

    Args:
        case: the case.
    """

    def __init__(self, case: Case) -> None:
        self.case = case

    @cached_property
    def image(self) -> tuple[Volume, Header]:
        """The CT, int16 HU (Z, Y, X).

        Raises:
            UserError: it can't be read.
        """
        return read_image(self.case.image)

    @cached_property
    def labels(self) -> tuple[Volume, Header]:
        """The mask, uint8 (Z, Y, X).

        Raises:
            UserError: there is none, or it can't be read.
        """
        return read_labels(self.mask_file)

    @property
    def mask_file(self) -> Path:
        """Where the mask lies.

        Raises:
            UserError: the case has none.
        """
        if self.case.labels is None:
            raise UserError(
                self.case.image,
                found="no mask for this scan",
                expected="a mask beside it",
                remedy="run kitspipe_check to see all such cases",
            )
        return self.case.labels
