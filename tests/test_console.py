import pytest

from kitspipe import console


@pytest.fixture(autouse=True)
def normal():
    yield
    console.set_verbosity(console.NORMAL)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert console.duration(seconds) == text


def test_quiet_keeps_warnings_and_errors(capsys):
    console.set_verbosity(console.QUIET)
    console.info("a")
    console.summary("b", [("c", 1)])
    console.warning("d")
    console.error("e")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "warning: d\nerror: e\n"


def test_details_are_for_those_who_ask(capsys):
    console.detail("a")
    console.set_verbosity(console.VERBOSE)
    console.detail("b")
    assert capsys.readouterr().out == "b\n"


def test_a_summary_is_aligned(capsys):
    console.summary("done", [("cases", 12), ("a longer name", "x")])
    assert capsys.readouterr().out == "done\n  cases          12\n  a longer name  x\n"


def test_columns_are_as_wide_as_their_widest_cell(capsys):
    console.table(("case", "Dice"), [("case_00001", 0.5), ("b", 1)])
    assert capsys.readouterr().out == "case        Dice\ncase_00001  0.5\nb           1\n"


def test_a_short_loop_prints_nothing_and_gives_every_item(capsys):
    assert list(console.progress(iter("abc"), 3, "work")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_long_loop_prints_a_plain_line_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 5.0, 11.0, 12.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Progress(4, "train", "step") as shown:
        for note in ("x", "y", "z"):
            shown.advance(note)
    # After 11 s 2 of 4 are done: 11 s more.
    assert capsys.readouterr().out == "train: 2/4 steps, 0.18/s, 11 s left  y\n"
