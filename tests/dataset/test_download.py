"""Downloads from a real server on this machine that misbehaves on purpose."""

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from kitspipe.dataset.cases import find_dataset
from kitspipe.dataset.download import Addresses, case_numbers, download
from kitspipe.dataset.transfer import Patience
from kitspipe.errors import UserError
from kitspipe.imaging.formats import write_image, write_labels
from kitspipe.imaging.header import header_for
from kitspipe.imaging.volume import Grid, Volume

GRID = Grid(shape=(5, 37, 39), spacing=(2.5, 0.7, 0.8))
QUICK = Patience(attempts=3, first_s=0.01, most_s=0.05, stall_s=0.3)
IMAGE, MASK = "/master_00000.nii.gz", "/case_00000/segmentation.nii.gz"


class Server(ThreadingHTTPServer):
    """Serves `files`; `trouble` is called first, and answers itself where it returns True."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.tags, self.asked = {}, {}, []
        self.trouble = lambda handler, content: False
        self.ranges = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        content = server.files.get(self.path)
        if content is None:
            return self.answer(404, b"nothing here")
        if server.trouble(self, content):
            return None
        tag = server.tags.get(self.path, '"1"')
        asked = self.headers.get("Range")
        if asked and server.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.answer(416, Content_Range=f"bytes */{len(content)}")
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], Content_Range=place, ETag=tag)
        return self.answer(200, content, ETag=tag)


def first(server, times, act):
    """Let the first answers be `act`'s."""
    left = [times]

    def trouble(handler, content):
        if left[0] == 0:
            return False
        left[0] -= 1
        act(handler, content)
        handler.close_connection = True
        return True

    server.trouble = trouble


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Bytes of a scan, of another one and of a mask."""
    folder, header = tmp_path_factory.mktemp("content"), header_for(GRID, axes="IPL")
    for seed in (0, 1):
        array = np.random.default_rng(seed).integers(-1000, 1000, GRID.shape).astype(np.int16)
        write_image(folder / f"{seed}.nii.gz", Volume(array=array, grid=GRID), header)
    labels = np.resize(np.array([0, 1, 2], np.uint8), GRID.shape)
    write_labels(folder / "2.nii.gz", Volume(array=labels, grid=GRID), header)
    return [(folder / f"{number}.nii.gz").read_bytes() for number in range(3)]


@pytest.fixture
def server(content):
    with Server() as served:
        served.files = {IMAGE: content[0], MASK: content[2]}
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def get(server, folder, numbers=(0,), *, masks=False, jobs=1):
    addresses = Addresses(images=server.url, masks=server.url if masks else None)
    return download(folder, list(numbers), addresses, jobs=jobs, patience=QUICK)


def image(folder):
    return folder / "case_00000" / "imaging.nii.gz"


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def half(handler, content):
    handler.answer(200, content[: len(content) // 2], len(content), ETag='"1"')


def test_scan_and_mask_are_a_case_in_kits_layout(server, tmp_path, content):
    done = get(server, tmp_path, masks=True)
    assert (done.fetched, done.kept, done.failures) == (("case_00000",), (), ())
    [case] = find_dataset(tmp_path).cases
    assert (case.image.read_bytes(), case.labels.read_bytes()) == (content[0], content[2])
    assert files(tmp_path) == ["imaging.nii.gz", "segmentation.nii.gz"]


def test_what_is_there_is_not_asked_for_again(server, tmp_path):
    get(server, tmp_path, masks=True)
    server.asked.clear()
    assert get(server, tmp_path, masks=True).kept == ("case_00000",)
    assert server.asked == []


def test_a_mask_that_is_there_is_kept_in_a_clone_too(server, tmp_path, content):
    mask = tmp_path / "data" / "case_00000" / "segmentation.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(content[2])
    assert get(server, tmp_path, masks=True).folder == tmp_path / "data"
    assert [path for path, _ in server.asked] == [IMAGE]
    assert image(tmp_path / "data").read_bytes() == content[0]


def test_a_broken_connection_goes_on_where_it_broke(server, tmp_path, content):
    first(server, 1, half)
    assert get(server, tmp_path).failures == ()
    assert server.asked[1:] == [(IMAGE, f"bytes={len(content[0]) // 2}-")]
    assert image(tmp_path).read_bytes() == content[0]


def test_a_silent_server_counts_as_broken(server, tmp_path, content):
    def stall(handler, body):
        half(handler, body)
        handler.wfile.flush()
        time.sleep(0.6)

    first(server, 1, stall)
    assert get(server, tmp_path).failures == ()
    assert len(server.asked) == 2
    assert image(tmp_path).read_bytes() == content[0]


def test_without_ranges_it_starts_from_the_beginning(server, tmp_path, content):
    server.ranges = False
    first(server, 1, half)
    get(server, tmp_path)
    assert image(tmp_path).read_bytes() == content[0]


def test_a_file_that_changed_on_the_server_is_not_glued_to_the_old_one(server, tmp_path, content):
    def change(handler, body):
        half(handler, body)
        server.files[IMAGE], server.tags[IMAGE] = content[1], '"2"'

    first(server, 1, change)
    get(server, tmp_path)
    assert image(tmp_path).read_bytes() == content[1]
    # Not only found out when it was whole.
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "known", [None, {"url": "http://elsewhere/", "tag": '"1"'}, {"url": "", "tag": ""}, ["?"]]
)
def test_a_part_of_another_or_unknown_version_starts_anew(server, tmp_path, content, known):
    part = image(tmp_path).with_name("imaging.nii.gz.part")
    part.parent.mkdir()
    part.write_bytes(content[1][:300])
    if known is not None:
        part.with_name("imaging.nii.gz.part.tag").write_text(json.dumps(known))
    get(server, tmp_path)
    assert server.asked == [(IMAGE, None)]
    assert image(tmp_path).read_bytes() == content[0]


def test_a_whole_part_is_taken_without_a_byte_more(server, tmp_path, content):
    part = image(tmp_path).with_name("imaging.nii.gz.part")
    part.parent.mkdir()
    part.write_bytes(content[0])
    known = {"url": f"{server.url}{IMAGE}", "tag": '"1"'}
    part.with_name("imaging.nii.gz.part.tag").write_text(json.dumps(known))
    get(server, tmp_path)
    assert files(tmp_path) == ["imaging.nii.gz"]
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_errors_are_tried_again(server, tmp_path, content, status):
    first(server, 2, lambda handler, _: handler.answer(status, b"later", Retry_After="9999"))
    assert get(server, tmp_path).failures == ()
    assert len(server.asked) == 3
    assert image(tmp_path).read_bytes() == content[0]


def test_retry_after_is_waited_for(server, tmp_path):
    patience = Patience(attempts=3, first_s=0.0, most_s=5, stall_s=1)
    first(server, 1, lambda handler, _: handler.answer(503, Retry_After="0.4"))
    started = time.monotonic()
    download(tmp_path, [0], Addresses(images=server.url, masks=None), jobs=1, patience=patience)
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_not_tried_again_and_the_others_are_done(server, tmp_path, content, status):
    server.files["/master_00001.nii.gz"] = content[1]
    server.trouble = lambda handler, body: (
        handler.path == IMAGE and (handler.answer(status), True)[1]
    )
    done = get(server, tmp_path, [0, 1], jobs=2)
    assert done.fetched == ("case_00001",)
    [(name, reason)] = done.failures
    assert name == "case_00000"
    assert f"HTTP status {status}" in reason
    assert [path for path, _ in server.asked].count(IMAGE) == 1


def test_a_missing_mask_does_not_keep_the_scan_away(server, tmp_path, content):
    del server.files[MASK]
    done = get(server, tmp_path, masks=True)
    assert MASK in done.failures[0][1]
    assert files(tmp_path) == ["imaging.nii.gz"]
    assert image(tmp_path).read_bytes() == content[0]


def test_a_case_that_is_not_there_leaves_no_folder(server, tmp_path):
    assert [name for name, _ in get(server, tmp_path, [5]).failures] == ["case_00005"]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("rubbish", ["page", "cut short", "flipped bit"])
def test_rubbish_never_gets_the_files_name(server, tmp_path, content, rubbish):
    flipped = bytearray(content[0])
    flipped[len(flipped) // 2] ^= 4
    bodies = {
        "page": b"<html>please log in</html>",
        "cut short": content[0][:-900],
        "flipped bit": bytes(flipped),
    }
    server.files[IMAGE] = bodies[rubbish]
    done = get(server, tmp_path)
    assert [name for name, _ in done.failures] == ["case_00000"]
    assert "no whole scan" in done.failures[0][1]
    assert len(server.asked) == QUICK.attempts
    assert not image(tmp_path).exists()
    # Put right on the server, it comes.
    server.files[IMAGE] = content[0]
    assert get(server, tmp_path).failures == ()
    assert image(tmp_path).read_bytes() == content[0]


@pytest.mark.parametrize("more", [-500, 500])
def test_a_wrong_length_is_no_whole_file(server, tmp_path, more):
    server.trouble = lambda handler, body: (handler.answer(200, body, len(body) + more), True)[1]
    done = get(server, tmp_path)
    assert [name for name, _ in done.failures] == ["case_00000"]
    assert not image(tmp_path).exists()


def test_no_server_is_named_after_the_last_attempt(tmp_path):
    # Nothing listens on port 9 of this machine.
    addresses = Addresses(images="http://127.0.0.1:9", masks=None)
    done = download(tmp_path, [0], addresses, jobs=1, patience=QUICK)
    assert "the connection broke" in done.failures[0][1]
    assert "(3 attempts)" in done.failures[0][1]


def test_a_damaged_file_that_is_there_is_named_and_not_replaced(server, tmp_path, content):
    image(tmp_path).parent.mkdir()
    image(tmp_path).write_bytes(content[0][:-900])
    done = get(server, tmp_path)
    assert "take the file away" in done.failures[0][1]
    assert image(tmp_path).read_bytes() == content[0][:-900]


def run(server, folder):
    code = (
        "import sys; from pathlib import Path\n"
        "from kitspipe.dataset.download import Addresses, download\n"
        "done = download(Path(sys.argv[1]), [0], Addresses(images=sys.argv[2], masks=None), jobs=1)"
        "\nprint(done.failures)"
    )
    arguments = [sys.executable, "-c", code, str(folder), server.url]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def wait_for(true):
    until = time.monotonic() + 20
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    assert true()


def test_killed_it_leaves_a_part_and_goes_on_there_while_a_second_one_stands_back(
    server, tmp_path, content
):
    part, let_go = image(tmp_path).with_name("imaging.nii.gz.part"), threading.Event()

    def hang(handler, body):
        half(handler, body)
        handler.wfile.flush()
        let_go.wait(30)

    first(server, 1, hang)
    running = run(server, tmp_path)
    wait_for(lambda: part.exists() and part.stat().st_size == len(content[0]) // 2)
    second = get(server, tmp_path)
    running.kill()
    running.communicate()
    let_go.set()
    assert "another download" in second.failures[0][1]
    assert files(tmp_path) == ["imaging.nii.gz.part", "imaging.nii.gz.part.tag"]
    assert get(server, tmp_path).failures == ()
    assert server.asked[1:] == [(IMAGE, f"bytes={len(content[0]) // 2}-")]
    assert image(tmp_path).read_bytes() == content[0]


def test_a_full_disk_is_said_and_not_tried_again(server, tmp_path, content):
    # A limit on file sizes looks the same to a program.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content[0]) // 2, limits[1]))
    try:
        done = get(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "make room on this disk" in done.failures[0][1]
    assert len(server.asked) == 1
    assert get(server, tmp_path).failures == ()
    assert image(tmp_path).read_bytes() == content[0]


def test_ctrl_c_leaves_a_part_and_is_status_130(server, tmp_path, content):
    part, let_go = image(tmp_path).with_name("imaging.nii.gz.part"), threading.Event()

    def slowly(handler, body):
        handler.answer(200, body[:100], len(body), ETag='"1"')
        for start in range(100, len(body), 100):
            if let_go.wait(0.05):
                return
            handler.wfile.write(body[start : start + 100])

    first(server, 1, slowly)
    script = Path(sys.executable).parent / "kitspipe_download"
    options = ["--cases", "0", "--no-masks", "--base-url", server.url]
    running = subprocess.Popen([script, "-o", tmp_path, *options], stderr=subprocess.PIPE)
    wait_for(lambda: part.exists() and part.stat().st_size > 0)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)
    let_go.set()
    assert running.returncode == 130
    assert said.decode() == "error: stopped; the same command goes on from here\n"
    assert files(tmp_path) == ["imaging.nii.gz.part", "imaging.nii.gz.part.tag"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("5,0,5", [0, 5]),
        ("case_00007, 298-case_00299", [7, 298, 299]),
    ],
)
def test_cases_are_numbers_ranges_or_names(text, numbers):
    assert case_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "3-1", "300", "-1", "0-300", "1,,2", "case_"])
def test_other_cases_are_refused(text):
    with pytest.raises(UserError, match="--cases"):
        case_numbers(text)


@pytest.mark.parametrize(
    "url", ["", "raw", "file:///etc", "ftp://host/x", "http://[x", "https://h/{id}"]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(UserError, match="--base-url"):
        Addresses(images=url, masks=None)


def test_addresses_are_folders_or_patterns():
    given = Addresses(images="https://h/a/", masks="https://h/{case}/{number}.nii.gz")
    assert given.files(7) == [
        ("segmentation.nii.gz", "https://h/case_00007/00007.nii.gz"),
        ("imaging.nii.gz", "https://h/a/master_00007.nii.gz"),
    ]
    # From 210 on, masks are not public.
    assert [name for name, _ in given.files(210)] == ["imaging.nii.gz"]
