"""Counters that the gateway's workers share."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.edges.in_flight import COLUMNS, ROWS, Board, BoardFull
from gpufleet.edges.workspace import PROJECT_ROOT

HOLDER = """
import sys, time
from pathlib import Path
from gpufleet.edges.in_flight import Board
board = Board(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    board.take({"use_case:a": None})
print("held", flush=True)
time.sleep(60)
"""
TAKER = """
import sys
import threading
from pathlib import Path
from gpufleet.edges.in_flight import Board
board = Board(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
taken = sum(board.take({"key:k": 100}) is None for _ in range(80))
print(taken, flush=True)
sys.stdin.readline()
"""


def _run(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "modules")},
    )


def test_what_a_killed_worker_had_in_flight_counts_no_more(tmp_path: Path) -> None:
    with Board(tmp_path / "board") as board:
        board.take({"use_case:a": None})
        worker = _run(HOLDER, str(tmp_path / "board"), "5")
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        deadline = time.monotonic() + 10
        while board.total("use_case:a") != 6:
            assert time.monotonic() < deadline
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        while board.total("use_case:a") != 1:
            assert time.monotonic() < deadline
    # Its row is free again, and empty.
    with Board(tmp_path / "board") as one, Board(tmp_path / "board") as two:
        assert one.total("use_case:a") == two.total("use_case:a") == 0


def test_a_limit_is_exact_over_workers_that_race(tmp_path: Path) -> None:
    workers = [_run(TAKER, str(tmp_path / "board")) for _ in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    # Each looks at once for workers that came since it looked last.
    time.sleep(0)
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    taken = 0
    for worker in workers:
        assert worker.stdout is not None
        taken += int(worker.stdout.readline())
    for worker in workers:
        worker.communicate("end\n")
    assert taken == 100


def test_either_every_name_is_counted_or_none(tmp_path: Path) -> None:
    with Board(tmp_path / "board") as board:
        assert board.take({"a": None, "b": 1}) is None
        assert board.take({"a": None, "b": 1}) == "b"
        assert board.totals(["a", "b", "c"]) == {"a": 1, "b": 1, "c": 0}
        board.give(["a", "b"])
        board.give(["a"])
        assert board.totals(["a", "b"]) == {"a": 0, "b": 0}


def test_a_reader_counts_nothing_and_sees_everything(tmp_path: Path) -> None:
    with Board(tmp_path / "board") as board, Board(tmp_path / "board", writes=False) as reader:
        board.take({"a": None})
        assert reader.total("a") == 1


def test_names_that_are_not_in_use_make_room_for_new_ones(tmp_path: Path) -> None:
    with Board(tmp_path / "board") as board, Board(tmp_path / "board") as other:
        other.take({"kept": None})
        for number in range(COLUMNS):
            board.take({f"replica:{number}": None})
            board.give([f"replica:{number}"])
        assert board.total("kept") == other.total("kept") == 1
        other.give(["kept"])
        assert board.total("kept") == 0


def test_more_workers_than_it_has_rows_for_are_refused(tmp_path: Path) -> None:
    boards = [Board(tmp_path / "board") for _ in range(ROWS)]
    with pytest.raises(BoardFull):
        Board(tmp_path / "board")
    for board in boards:
        board.close()


def test_a_file_that_is_no_board_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "board").write_bytes(b"x" * 10_000)
    with Board(tmp_path / "board") as board:
        assert board.take({"a": 1}) is None


@settings(max_examples=30)
@given(
    limit=st.integers(1, 5), steps=st.lists(st.floats(0, 40), max_size=40), start=st.floats(0, 1e6)
)
def test_no_minute_ever_has_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, limit: int, steps: list[float], start: float
) -> None:
    with Board(tmp_path_factory.mktemp("rate") / "board") as board:
        now_s, passed = start, []
        for step_s in steps:
            now_s += step_s
            wait_s = board.pass_rate("key", limit, now_s)
            if wait_s == 0:
                passed.append(now_s)
            else:
                assert wait_s <= 61
                assert board.pass_rate("key", limit, now_s + wait_s) == 0
                now_s += wait_s
                passed.append(now_s)
            assert sum(now_s - 60 < at <= now_s for at in passed) <= limit


def test_a_reader_waits_for_nobody(tmp_path: Path) -> None:
    file = tmp_path / "board"
    with Board(file) as board:
        board.take({"use_case:a": None})
        stopped = os.open(file, os.O_RDWR)
        lock = struct.pack("hh4xqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(stopped, fcntl.F_OFD_SETLK, lock)
        found: list[int] = []

        def read() -> None:
            with Board(file, writes=False) as reader:
                found.append(reader.total("use_case:a"))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(20)
        os.close(stopped)
        assert found == [1]


def test_the_board_has_no_holes_that_a_full_disk_could_not_fill(tmp_path: Path) -> None:
    file = tmp_path / "board"
    with Board(file), file.open("rb") as opened:
        size = file.stat().st_size
        assert os.lseek(opened.fileno(), 0, os.SEEK_HOLE) == size
        assert file.stat().st_blocks * 512 >= size
