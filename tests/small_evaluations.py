"""Evaluations of painted label maps that nobody has to read from disk."""

from __future__ import annotations

import numpy as np

from kitspipe.evaluation import case_scores
from kitspipe.evaluation.evaluate import Evaluation
from kitspipe.evaluation.metrics import KITS_LABELS
from kitspipe.imaging.volume import Grid

GRID = Grid(shape=(20, 46, 90), spacing=(2.5, 0.9, 0.8), origin=(-31.5, 12, 305))


def anatomy(*, tumor=True, cyst=True):
    """Two kidneys; a tumor of 2.9 ml (1.8 cm) in the first, a cyst in the other."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[2:18, 5:40, 4:40] = 1
    labels[2:18, 5:40, 50:86] = 1
    if tumor:
        labels[4:14, 8:18, 8:24] = 2
    if cyst:
        labels[6:12, 20:30, 60:70] = 3
    return labels


def case(case_id, *, shift=0, false=False, missed=False, tumor=True, failed=False, kidneys=2):
    """A case's score; the prediction is moved by `shift` rows and spoiled as asked."""
    reference = anatomy(tumor=tumor)
    if failed:
        reason = f"{case_id}\n  found:    no prediction\n  expected: a mask"
        return case_scores.failed(case_id, reference, GRID, KITS_LABELS, reason)
    prediction = np.roll(reference, shift, 1)
    if missed:
        prediction[prediction == 2] = 1
    if false:
        prediction[prediction == 3] = 2
    if kidneys == 1:
        prediction[:, :, 45:] = 0
    return case_scores.score(case_id, reference, prediction, GRID)


def evaluation(*scores, **fields):
    """The evaluation of some cases."""
    return Evaluation(scores=scores, **fields)
