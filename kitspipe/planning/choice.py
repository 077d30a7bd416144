"""What the cross-validation chose: margin, threshold, post-processing, folds; with the reasons.

Values stand in place of the plan's in prediction; a training never sees them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field
from msgspec.structs import replace

from kitspipe import console
from kitspipe.planning.calibration import Calibration, Members
from kitspipe.planning.document import Document, read_document
from kitspipe.planning.plan import Components, NonNegative, Plan
from kitspipe.planning.planner import training_key
from kitspipe.workspace import STAGES, Stage, Workspace


class Trial(Document, frozen=True, kw_only=True):
    """One value of one rule on the cross-validation, beside the value that stood until then.

    `tumor_dice` and `false_tumors` are means over cases; `gain` is of the tumor Dice, `low` and
    `high` its 95 % interval over cases.
    """

    rule: str
    value: str
    tumor_dice: float
    false_tumors: float
    gain: float
    low: float
    high: float
    taken: bool


class Choice(Document, frozen=True, kw_only=True):
    """`choice.json`.

    `training_keys` are of the plan values that the networks were trained with; with others the
    choice does not count. `left_out` lists folds whose networks are not averaged. `why` has a line
    for each chosen field. `quality` has, by kind of members and stage, what the agreement of a
    case's predictions lets expect; what there are too few held-out cases for is missing.
    """

    schema: Literal[1] = 1
    training_keys: dict[Stage, str]
    cases: int
    mask_dilation_mm: NonNegative
    threshold: Annotated[float, Meta(gt=0, lt=1)]
    components: Components
    minimal_tumor_ml: NonNegative
    minimal_healthy_ml: NonNegative
    left_out: dict[Stage, tuple[int, ...]]
    why: dict[str, str]
    trials: tuple[Trial, ...]
    quality: dict[Members, dict[Stage, Calibration]] = field(default_factory=dict)

    def applied(self, plan: Plan) -> Plan:
        """The plan with the chosen values in place of its own."""
        tumor = replace(
            plan.tumor,
            mask_dilation_mm=self.mask_dilation_mm,
            threshold=self.threshold,
            components=self.components,
            minimal_tumor_ml=self.minimal_tumor_ml,
            minimal_healthy_ml=self.minimal_healthy_ml,
        )
        return replace(plan, tumor=tumor)


def read_choice(place: Workspace, plan: Plan) -> Choice | None:
    """The workspace's choice; None where there is none for networks of this plan.

    Raises:
        UserError: the file is damaged.
    """
    if not place.choice_file.exists():
        return None
    choice = read_document(place.choice_file, Choice, made_by="kitspipe_choose")
    if choice.training_keys != training_keys(plan):
        console.warning(
            f"{place.choice_file}: made for networks of another plan, so not used; run "
            "kitspipe_choose again"
        )
        return None
    return choice


def training_keys(plan: Plan) -> dict[Stage, str]:
    """Of both stages."""
    return {stage: training_key(plan, stage) for stage in STAGES}
