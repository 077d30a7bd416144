import subprocess
import sys

RESET = """
import queue, socket, sys
sys.path[:] = sys.argv[1:]
from kitspipe.prediction.worker import _listen
command, process = socket.socketpair()
process.sendall(b"an answer that nobody reads any more")
command.close()
_listen(process, queue.SimpleQueue())
"""


def test_a_command_that_died_before_it_read_an_answer_ends_its_process():
    done = subprocess.run(
        [sys.executable, "-c", RESET, *sys.path], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
