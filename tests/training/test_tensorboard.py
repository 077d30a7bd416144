import sys

import pytest
from small_training import records, trainer

from kitspipe.errors import UserError
from kitspipe.training.stopping import StopSignal
from kitspipe.training.tensorboard import Board


def scalars(folder):
    """Name -> [(epoch, value)], as TensorBoard reads them."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def test_tensorboard_reads_the_numbers_of_the_log(place, tmp_path):
    pytest.importorskip("tensorboard")
    started = trainer(place, tmp_path, "kidney")
    board = Board(tmp_path / "tensorboard")
    started.on_epoch = board.add
    started.run(StopSignal())
    board.close()
    shown, log = scalars(tmp_path / "tensorboard"), records(tmp_path)
    assert {"loss", "dice", "learning_rate", "waiting", "peak_gib"} <= shown.keys()
    for name, points in shown.items():
        expected = [(record["epoch"], record[name]) for record in log if record[name] is not None]
        assert [epoch for epoch, _ in points] == [epoch for epoch, _ in expected]
        assert [value for _, value in points] == pytest.approx([v for _, v in expected], rel=1e-6)


def test_epochs_done_again_are_shown_once(tmp_path):
    pytest.importorskip("tensorboard")
    for first, last, loss in ((0, 3, 1.0), (2, 4, 2.0)):
        board = Board(tmp_path, first)
        for epoch in range(first, last):
            board.add({"epoch": epoch, "loss": loss, "dice": None})
        board.close()
    assert scalars(tmp_path) == {"loss": [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0)]}


def test_without_tensorboard_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"kitspipe\[tensorboard\]"):
        Board(tmp_path / "none")
    assert not (tmp_path / "none").exists()
