"""One run of a playbook, as a process: `python -m gpufleet.edges.playbook_process FOLDER`.

It outlives the worker that started it, and writes what happened as it happens, so that the next
worker reads the rest. Beside ansible-runner's own output it keeps no result of any task: only
hosts, tasks, errors and what the role host_report says.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

JOB: Final = "job.json"
EVENTS: Final = "events.jsonl"
ENDED: Final = "ended.json"
IDENT: Final = "run"
"""Name of ansible-runner's folder of artifacts."""
REPORT: Final = "gpufleet"
"""Name under which the role host_report tells the result of a host."""
_ERROR_LENGTH: Final = 500
_SAYS_NOTHING: Final = ("non-zero return code", "One or more items failed")
"""What Ansible says of a failure whose cause stands elsewhere in the result."""
_KINDS: Final = {
    "runner_on_start": "start",
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
    "playbook_on_stats": "stats",
}


def main(folder: Path) -> int:
    """Run what `JOB` in a folder says; returns Ansible's exit code."""
    # A worker that only reads what was written needs nothing of it.
    from ansible_runner.interface import init_runner  # noqa: PLC0415

    # Everything that Ansible and its runner write here is for their owner alone.
    os.umask(0o077)
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    with (folder / EVENTS).open("a", encoding="utf-8") as events:

        def keep(event: Mapping[str, Any]) -> bool:
            _write(events, told(event))
            return False

        runner = init_runner(
            private_data_dir=str(folder),
            project_dir=job["project"],
            playbook=job["playbook"],
            limit=job["limit"],
            forks=job["forks"],
            ident=IDENT,
            quiet=True,
            settings={"pexpect_timeout": 1},
            event_handler=keep,
        )
        with _environment_unwritten(folder / "artifacts" / IDENT):
            _, code = runner.run()
    write_whole_json(folder / ENDED, {"code": code})
    return int(code)


def told(event: Mapping[str, Any]) -> dict[str, Any]:
    """What of one of ansible-runner's events is kept; empty for those that tell nothing."""
    kind, data = _KINDS.get(str(event.get("event"))), event.get("event_data") or {}
    if kind is None:
        return {}
    if kind == "stats":
        failed = sorted({*(data.get("failures") or {}), *(data.get("dark") or {})})
        return {"kind": kind, "at": event["created"], "failed": failed}
    kept = {
        "kind": kind,
        "at": event["created"],
        "host": data.get("host", ""),
        "task": data.get("task", ""),
        "role": data.get("role", ""),
    }
    result = data.get("res") or {}
    if kind == "ok":
        kept["changed"] = bool(result.get("changed"))
        report = ((result.get("ansible_stats") or {}).get("data") or {}).get(REPORT)
        if isinstance(report, Mapping):
            kept["report"] = dict(report)
    elif kind in {"failed", "unreachable"}:
        kept["ignored"] = bool(data.get("ignore_errors"))
        kept["error"] = why_failed(result)
        if isinstance(result.get("gpufleet_error"), Mapping):
            kept["exit_code"] = int(result["gpufleet_error"].get("exit_code", 1))
    return kept


def why_failed(result: Mapping[str, Any]) -> str:
    """What a task says about its failure; nothing of one whose output is secret.

    Of a loop it is the first item that failed, of a command what it wrote to stderr.
    """
    if "censored" in result:
        return "its output is secret"
    items = result.get("results")
    if isinstance(items, list):
        failed = [item for item in items if isinstance(item, Mapping) and item.get("failed")]
        if failed:
            return why_failed(failed[0])
    said = [
        str(result.get(field) or "").strip()
        for field in ("msg", "stderr", "module_stderr", "stdout")
    ]
    telling = [text for text in said if text and not text.endswith(_SAYS_NOTHING)]
    return shortened((telling or [text for text in said if text] or [""])[0], _ERROR_LENGTH)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters: its begin says what was done, its end what came of it.

    Tools such as apt write a whole command before the error that it ended with.
    """
    if len(text) <= most:
        return text
    head = most // 3
    joint = " ... "
    return f"{text[:head]}{joint}{text[len(text) - (most - head - len(joint)) :]}"


def write_whole_json(file: Path, value: object) -> None:
    """Write a private file at once: whoever reads it sees all of it, or none."""
    made = file.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as sink:
        json.dump(value, sink)
        sink.flush()
        os.fsync(sink.fileno())
    made.replace(file)


def _write(events: IO[str], kept: dict[str, Any]) -> None:
    if kept:
        events.write(json.dumps(kept) + "\n")
        events.flush()


@contextmanager
def _environment_unwritten(artifacts: Path) -> Iterator[None]:
    """Swallow the file `command` in which ansible-runner writes every variable of the environment.

    Passwords of management controllers are among them. A pipe takes the place of the file while
    it is written: nothing of it ever reaches the disk.
    """
    pipe = artifacts / "command"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)

    def swallow() -> None:
        with pipe.open("rb") as written:
            while written.read(65536):
                pass
        pipe.unlink(missing_ok=True)

    threading.Thread(target=swallow, daemon=True).start()
    yield


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
