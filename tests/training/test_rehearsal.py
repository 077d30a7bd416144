import json

import pytest
from small_training import PLAN, make_options, make_task, records, trainer

from kitspipe.planning.memory import stage_bytes
from kitspipe.planning.planner import training_key
from kitspipe.training.fold import rehearse_fold
from kitspipe.training.rehearsal import rehearse
from kitspipe.training.stopping import StopSignal


@pytest.mark.parametrize("stage", ["kidney", "tumor"])
def test_a_dry_run_says_how_long_and_how_much_memory_and_writes_nothing(place, tmp_path, stage):
    folder = tmp_path / "none"
    rows = dict(rehearse(trainer(place, folder, stage), PLAN.stage(stage)))
    assert rows["would"] == "start a new training"
    assert rows["epochs"] == "0 of 2 done, 3 steps each"
    assert f"about {stage_bytes(PLAN.stage(stage)) / 2**30:.2f} GiB" in rows["memory"]
    assert float(rows["seconds per step"]) > 0
    assert "steps made now" in rows["time left"]
    assert not folder.exists()


def test_a_dry_run_of_a_training_under_way_takes_its_times_from_the_log(place, tmp_path):
    trainer(place, tmp_path, "kidney", epochs=2).run(StopSignal())
    log = tmp_path / "log.jsonl"
    slow = [{**record, "seconds": 600.0, "waiting": 0.25} for record in records(tmp_path)]
    log.write_text("".join(json.dumps(record) + "\n" for record in slow))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    under_way = trainer(place, tmp_path, "kidney", epochs=8)
    under_way.progress.ended = None
    rows = dict(rehearse(under_way, PLAN.kidney))
    assert rows["would"] == "go on with 25.0% done"
    # Two epochs of ten minutes were half of the training then: two more as the log has it.
    assert "by the last 2 epochs" in rows["time left"]
    assert rows["waiting for data"] == "25% of it"
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_with_restart_a_dry_run_looks_past_what_is_there(place, tmp_path):
    trainer(place, tmp_path, "kidney").run(StopSignal())
    task, key = make_task(place, "kidney"), training_key(PLAN, "kidney")
    said = [
        dict(rehearse_fold(task, PLAN.kidney, tmp_path, key, make_options(restart=restart)))
        for restart in (False, True)
    ]
    assert said[0]["would"].startswith("do nothing: the training is complete")
    assert said[1]["would"] == "start a new training"
