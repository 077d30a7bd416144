"""All commands, in the order of the flow."""

from __future__ import annotations

from collections.abc import Callable

from kitspipe.arguments import data, model, results
from kitspipe.arguments.shared import Parser

COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "download": ("fetch KiTS19's scans and masks; run again, it goes on", data.download),
    "convert": ("turn KiTS, nnU-Net or DICOM data into another layout", data.convert),
    "plan_and_preprocess": (
        "check, fingerprint, plan and preprocess a data set",
        data.plan_and_preprocess,
    ),
    "check": ("name every problem of a data set", data.check),
    "fingerprint": ("measure a data set", data.fingerprint),
    "plan": ("choose everything that a training needs, from the fingerprint", data.plan),
    "describe": ("parameters, operations and shapes of a plan's networks", data.describe),
    "preprocess": ("turn scans into training arrays", data.preprocess),
    "train": (
        "train one fold of a stage, or all; run again, it goes on where it stopped",
        model.train,
    ),
    "choose": ("choose post-processing, margin, threshold by cross-validation", model.choose),
    "predict": ("segment new scans with the whole cascade", model.predict),
    "export": ("write the trained cascade as one file", model.export),
    "install": ("take a cascade that was exported into a workspace", model.install),
    "evaluate": (
        "score predictions: official KiTS metrics, tumors found, volumes",
        results.evaluate,
    ),
    "report": ("write pages to review masks with, for any browser", results.report),
    "measure": ("measure kidneys and tumors of masks: mm, ml, HU, R.E.N.A.L.", results.measure),
    "demo": ("paint scans, then run the whole flow on them", data.demo),
}
"""name: (one line of help, function that adds its arguments)."""
