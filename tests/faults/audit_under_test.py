"""A process that records requests until a test ends it: `python -m tests.faults.audit_under_test`.

What it was told is durable stands in `FOLDER.begun` and `FOLDER.ended`, one id a line.
"""

import os
import sys
import threading
from pathlib import Path

from tests.audit import CLOSING, OPENING

from gpufleet.edges.audit_chain import RECORD_BYTES
from gpufleet.edges.audit_limits import AuditLimits, AuditUnavailable
from gpufleet.edges.audit_log import AuditLog

THREADS = 3


def say(file: int, what: str) -> None:
    """One line, by one write."""
    os.write(file, f"{what}\n".encode())


def forever(folder: Path) -> None:
    """Record requests from several threads, each with two in flight."""
    limits = AuditLimits(segment_bytes=8 * RECORD_BYTES, seal_after_s=0.05, sync_every_s=0.01)
    log = AuditLog(folder, "gateway", limits)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    begun = os.open(folder.with_suffix(".begun"), append)
    ended = os.open(folder.with_suffix(".ended"), append)

    def work(name: str) -> None:
        number = 0
        while True:
            ids = [f"{os.getpid()}-{name}-{number}-{part}" for part in ("a", "b")]
            for each in ids:
                log.begin(each, OPENING)
                say(begun, each)
            for each in ids:
                log.end(each, CLOSING)
                say(ended, each)
            number += 1

    for number in range(THREADS):
        threading.Thread(target=work, args=(f"t{number}",)).start()


def until_full(folder: Path, wedge: Path) -> None:
    """Record on a disk that is full and free again; each line says what happened.

    Args:
        folder: of the records, on a small file system of its own.
        wedge: a file beside it that takes what is left.
    """
    log = AuditLog(folder, "gateway", AuditLimits(segment_bytes=16 * RECORD_BYTES))
    log.begin("in-flight", OPENING)
    with wedge.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\1" * 4096)
        except OSError:
            say(1, "full")
    accepted: list[str] = []
    refused = ""
    while not refused:
        try:
            log.begin(f"r{len(accepted)}", OPENING)
            accepted.append(f"r{len(accepted)}")
        except AuditUnavailable as error:
            refused = error.what
    say(1, f"refused {refused}")
    log.missed(OPENING)
    for each in ["in-flight", *accepted]:
        log.end(each, CLOSING)
    say(1, f"ended {len(accepted) + 1}")
    wedge.unlink()
    waiting = threading.Event()
    while True:
        try:
            log.begin("after", OPENING)
            break
        except AuditUnavailable:
            waiting.wait(0.05)
    log.end("after", CLOSING)
    log.close()
    say(1, "after")


if __name__ == "__main__":
    if sys.argv[1] == "forever":
        forever(Path(sys.argv[2]))
    else:
        until_full(Path(sys.argv[2]), Path(sys.argv[3]))
