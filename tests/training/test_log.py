from kitspipe.training.log import FoldLog


def test_records_come_back_in_order(tmp_path):
    log = FoldLog(tmp_path / "fold" / "log.jsonl")
    assert log.read() == []
    log.append({"epoch": 0, "loss": 1.5, "dice": None})
    log.append({"epoch": 1, "loss": 1.25, "dice": 0.5})
    assert log.read() == [
        {"epoch": 0, "loss": 1.5, "dice": None},
        {"epoch": 1, "loss": 1.25, "dice": 0.5},
    ]


def test_a_torn_last_line_is_left_out(tmp_path):
    log = FoldLog(tmp_path / "log.jsonl")
    log.append({"epoch": 0})
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"epoch": 1, "lo')
    assert log.read() == [{"epoch": 0}]


def test_a_line_torn_inside_a_letter_is_left_out(tmp_path):
    log = FoldLog(tmp_path / "log.jsonl")
    log.append({"epoch": 0})
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write('{"epoch": 1, "case": "é'.encode()[:-1])
    assert log.read() == [{"epoch": 0}]


def test_a_record_after_a_torn_line_is_not_lost(tmp_path):
    log = FoldLog(tmp_path / "log.jsonl")
    log.append({"epoch": 0})
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"epoch": 1, "lo')
    log.append({"epoch": 1})
    assert log.read() == [{"epoch": 0}, {"epoch": 1}]


def test_a_resumed_training_writes_its_epoch_once(tmp_path):
    log = FoldLog(tmp_path / "log.jsonl")
    for epoch in range(4):
        log.append({"epoch": epoch})
    log.keep_until(2)
    log.append({"epoch": 2})
    assert [record["epoch"] for record in log.read()] == [0, 1, 2]
