import shutil

import pytest
import torch
from small_training import StopAfter, assert_equal, timeless, trainer, weights

from kitspipe.errors import UserError
from kitspipe.networks.weights import load_checkpoint
from kitspipe.training import checkpoints
from kitspipe.training.checkpoints import LAST, PREVIOUS
from kitspipe.training.stopping import StopSignal


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """Trained without a break."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(place, folder, "tumor").run(StopSignal())
    return folder


@pytest.fixture
def stopped(place, tmp_path):
    """Stopped in its second epoch: the previous checkpoint is of the end of the first."""
    folder = tmp_path / "stopped"
    trainer(place, folder, "tumor").run(StopAfter(4))
    return folder


def flipped(content):
    position = len(content) // 2
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


HARMS = {
    "a bit flipped": flipped,
    "cut short": lambda content: content[: len(content) // 3],
    "empty": lambda content: b"",
    "zeros, as after a power cut": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_checkpoint_is_told_and_the_one_before_it_used(
    place, whole, stopped, harm, capsys
):
    last = stopped / LAST
    last.write_bytes(HARMS[harm](last.read_bytes()))
    resumed = trainer(place, stopped, "tumor")
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {last}: ")
    assert f"goes on from {PREVIOUS}" in said
    assert (resumed.progress.epoch, resumed.progress.step) == (1, 0)
    assert resumed.run(StopSignal())
    assert_equal(weights(whole), weights(stopped))
    assert timeless(whole) == timeless(stopped)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_in_place_of_a_checkpoint_is_passed_over_unopened(
    place, whole, stopped, is_zip, capsys
):
    torch.save({"a": torch.ones(1)}, stopped / LAST, _use_new_zipfile_serialization=is_zip)
    resumed = trainer(place, stopped, "tumor")
    assert "a pickle, which is never opened" in capsys.readouterr().err
    assert resumed.run(StopSignal())
    assert_equal(weights(whole), weights(stopped))


def test_killed_between_the_two_renames_it_goes_on_from_the_previous_one(place, whole, stopped):
    (stopped / LAST).replace(stopped / PREVIOUS)
    (stopped / f".new.{LAST}").write_bytes(b"half")
    assert trainer(place, stopped, "tumor").run(StopSignal())
    assert_equal(weights(whole), weights(stopped))
    assert not (stopped / f".new.{LAST}").exists()


def test_where_both_are_harmed_the_message_is_about_the_last(stopped):
    for name in (LAST, PREVIOUS):
        (stopped / name).write_bytes(b"")
    with pytest.raises(UserError, match=LAST) as caught:
        checkpoints.load(stopped)
    assert "--restart" in caught.value.remedy


def test_weights_without_a_checkpoint_are_not_trained_over(place, whole, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(whole, folder)
    (folder / LAST).unlink()
    (folder / PREVIOUS).unlink()
    with pytest.raises(UserError, match="weights of a training, but neither"):
        trainer(place, folder, "tumor")


def test_the_last_two_are_kept(stopped):
    steps = [load_checkpoint(stopped / name).state["progress"]["step"] for name in (LAST, PREVIOUS)]
    epochs = [
        load_checkpoint(stopped / name).state["progress"]["epoch"] for name in (LAST, PREVIOUS)
    ]
    assert (epochs, steps) == ([1, 1], [2, 0])
    assert not [path for path in stopped.iterdir() if path.name.startswith(".")]
