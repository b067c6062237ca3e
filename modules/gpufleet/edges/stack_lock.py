"""The lock that Pulumi's file backend holds for the time of an update."""

import json
import os
from pathlib import Path

import psutil

from gpufleet.spec.errors import Retryable


def release_dead_lock(folder: Path, program: Path, *, shown: str, cancel: str) -> bool:
    """Release the lock of a killed update; True if there was one.

    Args:
        folder: holds the stack's lock files.
        program: the folder of the stack's program, which Pulumi works in.
        shown: how people see the stack.
        cancel: the command that releases it by force.

    Raises:
        Retryable: its owner is alive, or on another machine.
    """
    for file in folder.glob("*.json"):
        owner = _lock_owner(file, program)
        if owner is not None:
            raise Retryable(
                f"an update is under way: {owner}",
                where=f"stack {shown}",
                mend=f"wait for it; if it is dead on another machine, {cancel} releases it",
            )
        file.unlink(missing_ok=True)
        return True
    return False


def _lock_owner(file: Path, program: Path) -> str | None:
    """Who holds a lock, in words; None if it is a dead process of this machine."""
    try:
        lock = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return f"lock file {file.name} cannot be read"
    who = f"process {lock['pid']} of {lock['username']} on {lock['hostname']}"
    since = f", since {lock['timestamp']}"
    if lock["hostname"] != os.uname().nodename:
        return who + since
    try:
        process = psutil.Process(lock["pid"])
        # Another program, or another stack's update, may have been given the dead one's id.
        is_it = process.name().startswith("pulumi") and Path(process.cwd()) == program.resolve()
    except psutil.AccessDenied:
        return who + since
    except psutil.Error:
        return None
    return who + since if is_it else None
