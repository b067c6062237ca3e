"""Playbooks through ansible-runner, each in a process that outlives whoever started it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import JsonValue

from gpufleet.edges.playbook_events import PlaybookResult, read_events, result_of_events
from gpufleet.edges.playbook_process import ENDED, EVENTS, JOB, write_whole_json
from gpufleet.edges.processes import start_of
from gpufleet.spec.errors import BadInput, Failed, Retryable

PROCESS: Final = "process.json"
MARK: Final = "GPUFLEET_PLAYBOOK"
"""Variable that every process of a run inherits; its value is the run's folder."""
_POLL_S: Final = 0.1
_TERM_WITHIN_S: Final = 10.0
_KILLS: Final = 5
_FORKS: Final = 50
_PRIVATE: Final = 0o700


@dataclass(frozen=True)
class Playbook:
    """What is to be run where."""

    file: Path
    """Stands alone: its folder holds `ansible.cfg`, which names the inventory."""
    hosts: Sequence[str]
    """Names in the inventory."""
    extra_vars: Mapping[str, JsonValue]
    """Reach Ansible by a private file, never by its command line."""
    variables: Mapping[str, str]
    """Of the environment, added to that of this process."""


@dataclass(frozen=True)
class Left:
    """A run that goes on though nobody here started it."""

    folder: Path
    pid: int
    started: int
    """Ticks since the boot."""

    @property
    def is_alive(self) -> bool:
        """Whether it is still this very process."""
        return _is_alive(self.pid, self.started)


OnEvent = Callable[[Mapping[str, Any]], None]


def run_playbook(folder: Path, playbook: Playbook, on_event: OnEvent) -> PlaybookResult:
    """Run a playbook once, whoever asks how often: found by its folder.

    What has ended is read; what still runs, left by a worker that was killed, is awaited; what was
    cut short with the machine is begun again.

    Args:
        folder: of this run alone, private; holds each attempt in a folder of its own.
        playbook: what to run where.
        on_event: told each event, as `playbook_process.told` keeps it.

    Raises:
        BadInput: there is no such playbook.
        Failed: Ansible ended without doing anything.
        Retryable: it could not be started.
    """
    last = _last(folder)
    if last is not None and _ended(last) is not None:
        return _result(last, playbook.hosts)
    left = find_left(folder)
    if left is None:
        if not playbook.file.is_file():
            raise BadInput("there is no such playbook", where=str(playbook.file))
        end_left(folder)
        attempt = folder / str(int(last.name) + 1 if last else 1)
        try:
            process: subprocess.Popen[bytes] | None = _start(attempt, playbook)
        except OSError as error:
            raise Retryable(
                f"the playbook cannot be started: {error}", where=str(attempt)
            ) from None
    else:
        attempt, process = left.folder, None
    _follow(attempt, process, on_event)
    return _result(attempt, playbook.hosts)


def find_left(folder: Path) -> Left | None:
    """The process of a folder's last attempt, if it still runs; by its id and start time."""
    last = _last(folder)
    if last is None:
        return None
    try:
        kept = json.loads((last / PROCESS).read_text(encoding="utf-8"))
        left = Left(last, int(kept["pid"]), int(kept["started"]))
    except (OSError, ValueError, KeyError):
        return None
    return left if kept.get("boot") == _boot() and left.is_alive else None


def end_left(folder: Path) -> int:
    """End every process of a folder's runs: asked first, then killed. Returns how many there were.

    Found by the mark that each of them inherits, so that nobody else's process is ever signalled.
    Looked for again until none is left: one may begin another between the look and the signal.

    Raises:
        Retryable: some do not end.
    """
    ended: set[psutil.Process] = set()
    for number in (signal.SIGTERM, *[signal.SIGKILL] * _KILLS):
        found = list(_marked(folder))
        if not found:
            return len(ended)
        ended.update(found)
        for process in found:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, _TERM_WITHIN_S)
    left = sorted(process.pid for process in _marked(folder))
    if left:
        raise Retryable(f"processes of an earlier run do not end: {left}", where=str(folder))
    return len(ended)


def result_of(folder: Path, hosts: Sequence[str]) -> PlaybookResult | None:
    """What came of a run that has ended; None where none has."""
    last = _last(folder)
    if last is None or _ended(last) is None:
        return None
    return _result(last, hosts)


def _start(attempt: Path, playbook: Playbook) -> subprocess.Popen[bytes]:
    attempt.mkdir(mode=_PRIVATE, parents=True)
    (attempt / "env").mkdir(mode=_PRIVATE)
    write_whole_json(attempt / "env" / "extravars", dict(playbook.extra_vars))
    hosts = attempt / "hosts"
    hosts.write_text("".join(f"{host}\n" for host in playbook.hosts), encoding="utf-8")
    hosts.chmod(0o600)
    write_whole_json(
        attempt / JOB,
        {
            "project": str(playbook.file.parent),
            "playbook": str(playbook.file),
            "limit": f"@{hosts}",
            "forks": min(len(playbook.hosts), _FORKS),
        },
    )
    command = [sys.executable, "-P", "-m", "gpufleet.edges.playbook_process", str(attempt)]
    descriptor = os.open(attempt / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "wb") as log:
        # Its own session: what ends the worker's group leaves it alone.
        process = subprocess.Popen(
            command,
            cwd=playbook.file.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(attempt, playbook),
            start_new_session=True,
        )
    kept = {"pid": process.pid, "started": start_of(process.pid), "boot": _boot()}
    write_whole_json(attempt / PROCESS, {**kept, "command": command})
    return process


def _environment(attempt: Path, playbook: Playbook) -> dict[str, str]:
    configuration = playbook.file.parent / "ansible.cfg"
    found = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        **playbook.variables,
        # ansible-runner turns it off where nobody asks for it.
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOLOR": "True",
        MARK: str(attempt),
    }
    if configuration.is_file():
        found["ANSIBLE_CONFIG"] = str(configuration)
    return found


def _follow(attempt: Path, process: subprocess.Popen[bytes] | None, on_event: OnEvent) -> None:
    """Tell what is written until the process has ended."""
    kept = json.loads((attempt / PROCESS).read_text(encoding="utf-8"))
    offset = 0
    while True:
        if process is not None:
            goes_on = process.poll() is None
        else:
            goes_on = _is_alive(kept["pid"], kept["started"])
        # Looked at before the events are read: nothing is written after the end.
        events, offset = read_events(attempt / EVENTS, offset)
        for event in events:
            on_event(event)
        if not goes_on:
            return
        time.sleep(_POLL_S)


def _result(attempt: Path, hosts: Sequence[str]) -> PlaybookResult:
    events, _ = read_events(attempt / EVENTS)
    code = _ended(attempt)
    if not events and code != 0:
        raise Failed(
            f"Ansible ended without doing anything: {_last_words(attempt)}",
            where=str(attempt),
            mend="its output is in artifacts/run/stdout and log of that folder",
        )
    return result_of_events(events, hosts, code=code)


def _last_words(attempt: Path) -> str:
    for file in (attempt / "artifacts" / "run" / "stdout", attempt / "log"):
        if file.is_file() and (said := file.read_text(errors="replace").strip()):
            return said[-500:]
    return "it said nothing"


def _ended(attempt: Path) -> int | None:
    try:
        return int(json.loads((attempt / ENDED).read_text(encoding="utf-8"))["code"])
    except (OSError, ValueError, KeyError):
        return None


def _last(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    attempts = [each for each in folder.iterdir() if each.name.isdigit()]
    return max(attempts, key=lambda each: int(each.name), default=None)


def _marked(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
        except psutil.Error:
            continue
        if mark and Path(mark).parent == folder and process.pid != os.getpid():
            yield process


def _is_alive(pid: int, started: int) -> bool:
    if start_of(pid) != started:
        return False
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
