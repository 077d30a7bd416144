import subprocess
import sys
import time
from pathlib import Path

import pytest

from kitspipe import cli

SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_answered_without_heavy_imports(command):
    code = (
        "import sys; from kitspipe import cli\n"
        f"try: cli.main(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'SimpleITK')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_help_takes_less_than_half_a_second():
    def seconds():
        started = time.perf_counter()
        subprocess.run([SCRIPTS / "kitspipe_train", "--help"], capture_output=True, check=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5


def test_without_a_command_all_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


def test_an_unknown_command_is_a_wrong_request(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["segment"])
    assert stopped.value.code == 2
    assert "invalid choice: 'segment'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "kidney", "-1"], "-1 is no fold"),
        (["train", "kidney", "first"], "first is no fold: give a number from 0, or all"),
        (["preprocess"], "-d/--data"),
        (["check", "-d", "x", "-j", "0"], "0 is below 1"),
        (["plan", "--size", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_wrong_arguments_are_status_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_folder_is_one_message(tmp_path, capsys):
    assert cli.main(["check", "-d", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert all(word in error for word in ("found:", "expected:", "to do:"))
