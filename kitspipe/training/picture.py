"""The progress picture of a fold: curves, weights of hard cases, an example slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitspipe import workspace

_REFERENCE_COLOR, _PREDICTION_COLOR = "#ffb000", "#3c8cff"


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


def draw_progress(
    records: Sequence[dict[str, Any]], path: Path, *, title: str, example: Example | None
) -> None:
    """Write a PNG of what the log and the last validation say.

    Args:
        records: the log's, one per epoch.
        path: where; written beside and renamed.
        title: stage and fold.
        example: a slice with reference and prediction, if there is one.
    """
    # Imported here: matplotlib takes a second, and only this picture needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 3)
    for panel, key, name in (
        (axes[0, 0], "loss", "training loss"),
        (axes[0, 1], "dice", "validation Dice"),
        (axes[1, 0], "learning_rate", "learning rate"),
        (axes[1, 1], "seconds", "seconds per epoch"),
    ):
        # Epochs without a value are left out, so that the line bridges them.
        points = [
            (record["epoch"] + 1, record[key]) for record in records if record.get(key) is not None
        ]
        epochs, values = zip(*points, strict=True) if points else ((), ())
        panel.plot(epochs, values, marker="." if len(epochs) < 50 else None)
        panel.set(title=name, xlabel="epoch")
        panel.grid(alpha=0.3)
    axes[0, 1].set_ylim(0, 1)
    _draw_example(axes[0, 2], example)
    _draw_weights(axes[1, 2], records)
    with workspace.replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)


def _draw_example(panel: Any, example: Example | None) -> None:  # noqa: ANN401
    panel.set_axis_off()
    if example is None:
        return
    height, width = example.reference.shape
    panel.imshow(example.image, cmap="gray", extent=(0, width, height, 0))
    for mask, color in (
        (example.reference, _REFERENCE_COLOR),
        (example.prediction, _PREDICTION_COLOR),
    ):
        if mask.any() and not mask.all():
            panel.contour(
                np.arange(width) + 0.5, np.arange(height) + 0.5, mask, [0.5], colors=color
            )
    panel.set_title("reference orange, prediction blue")


def _draw_weights(panel: Any, records: Sequence[dict[str, Any]]) -> None:  # noqa: ANN401
    weights = records[-1].get("hard_cases") if records else None
    if not weights:
        panel.set_axis_off()
        return
    names, values = zip(*reversed(weights), strict=True)
    panel.barh(names, values)
    panel.set(title="hardest cases: sampling weight")
