"""The progress picture of a fold: curves, example slices, how often cases are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitspipe import workspace

_REFERENCE_COLOR, _PREDICTION_COLOR = "#ffb000", "#3c8cff"
_EXAMPLES = 4
_CASES = 12
_FEW_EPOCHS = 50


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """A validation slice.

    Args:
        image: (Y, X) float32.
        reference: (Y', X') bool, finer than the image by a whole factor or alike.
        prediction: (Y', X') bool.
    """

    image: NDArray[np.float32]
    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]


def example_of(
    image: NDArray[np.floating[Any]], prediction: NDArray[np.bool_], reference: NDArray[np.bool_]
) -> Example:
    """The slice of a patch with most foreground; of a slab, its middle.

    Args:
        image: (1, Z, Y, X), or (S, Y, X) with or without a border channel.
        prediction: (Z', Y', X') or (Y', X').
        reference: as the prediction.
    """
    if reference.ndim == 2:
        # A border channel may stand behind an odd number of slices.
        middle = image[(len(image) - 1) // 2].astype(np.float32)
        return Example(image=middle, reference=reference, prediction=prediction)
    z = int(np.argmax(reference.sum(axis=(1, 2))))
    plane = image[0, z * image.shape[1] // len(reference)].astype(np.float32)
    return Example(image=plane, reference=reference[z], prediction=prediction[z])


def draw_progress(
    records: Sequence[dict[str, Any]],
    path: Path,
    *,
    title: str,
    examples: Sequence[Example],
    weights: Mapping[str, float],
) -> None:
    """Write a PNG of what the log, the last validation and the sampler say.

    Args:
        records: the log's, one per epoch.
        path: where; written beside and renamed.
        title: stage and fold.
        examples: slices with reference and prediction; those with most foreground are shown.
        weights: case -> how often it is drawn, 1 being once; empty where all are drawn alike.
    """
    # Imported here: matplotlib takes a second, and only this picture needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(records, title))
    grid = figure.add_gridspec(2, 4)
    _draw_curves(figure.add_subplot(grid[0, 0]), records, {"loss": "training loss"})
    dice = figure.add_subplot(grid[0, 1])
    _draw_curves(dice, records, {"dice": "validation Dice", "dice_ema": "its average"})
    dice.set_ylim(0, 1)
    _draw_curves(figure.add_subplot(grid[0, 2]), records, {"learning_rate": "learning rate"})
    pace = figure.add_subplot(grid[0, 3])
    _draw_curves(pace, records, {"seconds": "seconds per epoch"})
    pace.set_ylim(bottom=0)
    _draw_waiting(pace, records)
    widest = sorted(examples, key=lambda example: -int(example.reference.sum()))[:_EXAMPLES]
    columns = 3 if weights else 4
    shown = figure.add_subfigure(grid[1, :columns])
    for number, example in enumerate(widest[:columns]):
        _draw_example(shown.add_subplot(1, columns, number + 1), example)
    shown.suptitle("validation slices: reference orange, prediction blue", fontsize="medium")
    if weights:
        _draw_weights(figure.add_subplot(grid[1, 3]), weights)
    with workspace.replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)


def _title(records: Sequence[dict[str, Any]], title: str) -> str:
    if not records:
        return title
    last = records[-1]
    done = f", {last['share_done']:.0%} of the training" if "share_done" in last else ""
    return f"{title}: {last['epoch'] + 1} epochs{done}"


def _draw_curves(
    panel: Any,  # noqa: ANN401
    records: Sequence[dict[str, Any]],
    names: Mapping[str, str],
) -> None:
    for number, (key, name) in enumerate(names.items()):
        # Epochs without a value are left out, so that the line bridges them.
        points = [
            (record["epoch"] + 1, record[key]) for record in records if record.get(key) is not None
        ]
        epochs, values = zip(*points, strict=True) if points else ((), ())
        marker = "." if len(epochs) < _FEW_EPOCHS and number == 0 else None
        panel.plot(epochs, values, marker=marker, label=name, linewidth=1 + number)
    panel.set(title=next(iter(names.values())), xlabel="epoch")
    panel.grid(alpha=0.3)
    panel.xaxis.get_major_locator().set_params(integer=True)
    if len(names) > 1:
        panel.legend(loc="lower right")


def _draw_waiting(panel: Any, records: Sequence[dict[str, Any]]) -> None:  # noqa: ANN401
    waits = [(record["epoch"] + 1, 100 * record.get("waiting", 0.0)) for record in records]
    if not waits:
        return
    beside = panel.twinx()
    beside.fill_between(*zip(*waits, strict=True), color="tab:red", alpha=0.2)
    beside.set(ylim=(0, 100), ylabel="% waiting for data")
    beside.yaxis.label.set_color("tab:red")


def _draw_example(panel: Any, example: Example) -> None:  # noqa: ANN401
    panel.set_axis_off()
    height, width = example.reference.shape
    panel.imshow(example.image, cmap="gray", extent=(0, width, height, 0))
    for mask, color in (
        (example.reference, _REFERENCE_COLOR),
        (example.prediction, _PREDICTION_COLOR),
    ):
        if mask.any() and not mask.all():
            panel.contour(
                np.arange(width) + 0.5,
                np.arange(height) + 0.5,
                mask,
                [0.5],
                colors=color,
                linewidths=1.2,
            )
    both = int(example.reference.sum()) + int(example.prediction.sum())
    overlap = 2 * int((example.reference & example.prediction).sum())
    panel.set_title(f"Dice {overlap / both:.2f}" if both else "no foreground", fontsize="small")


def _draw_weights(panel: Any, weights: Mapping[str, float]) -> None:  # noqa: ANN401
    hardest = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:_CASES]
    names, values = zip(*reversed(hardest), strict=True)
    panel.barh(names, values)
    panel.axvline(1.0, color="gray", linewidth=1)
    panel.tick_params(axis="y", labelsize="small")
    more = f", {len(hardest)} of {len(weights)}" if len(weights) > len(hardest) else ""
    panel.set(title=f"how often cases are drawn{more}", xlabel="weight, 1 for all at first")
