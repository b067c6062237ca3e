"""Makes `.venv` from requirements.lock, with the standard library of the system's Python only.

Safe when two `./fleet` run at once (a lock that the system lets go with its holder) and after an
interruption (the stamp that makes it count is written last).
"""

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

BOOTSTRAP = "uv"
"""Installs the rest: in a tenth of the time of pip, with the same hash checks."""
STAMP = "made-in"
"""Holds the folder that the environment was made in; written last."""


class Unfinished(Exception):
    """A step failed: what, the log's last line, and the exit code for the caller."""

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what)
        self.exit_code = exit_code


def main(root: Path) -> int:
    """Make the environment of the clone at `root`; 0 once it is complete."""
    with (root / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("fleet: waiting for another ./fleet that makes the environment", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not (is_whole(root) and is_current(root)):
            make(root)
    return 0


def is_whole(root: Path) -> bool:
    """Whether an environment was made to its end, in this folder, and its Python is still there."""
    venv = root / ".venv"
    try:
        return (venv / STAMP).read_text().strip() == str(root) and (
            venv / "bin" / "python"
        ).is_file()
    except OSError:
        return False


def is_current(root: Path) -> bool:
    """Whether it was made from today's lock file."""
    made_from = root / ".venv" / "requirements.lock"
    lock = root / "requirements.lock"
    return made_from.is_file() and made_from.read_bytes() == lock.read_bytes()


def make(root: Path) -> None:
    """Make the environment in the folder where it stays: a virtual environment cannot be moved.

    One that was whole is brought up to date in place, since processes may be running from it.
    """
    started = time.monotonic()
    venv = root / ".venv"
    lock = root / "requirements.lock"
    was_whole = is_whole(root)
    (venv / STAMP).unlink(missing_ok=True)
    (root / ".fleet" / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
    log = root / ".fleet" / "logs" / "environment.log"
    log.write_text("")
    count = len(re.findall(r"^\S+==", lock.read_text(), re.MULTILINE))
    if was_whole:
        print("fleet: requirements.lock has changed, bringing .venv up to date ...", flush=True)
    else:
        print(f"fleet: making .venv ({count} packages, once for each clone) ...", flush=True)
        # By its real name: when the distribution replaces its Python, the link breaks and shows it.
        python = os.path.realpath(sys.executable)
        run(log, [python, "-m", "venv", "--clear", str(venv)], "making a virtual environment")
    if count:
        install(venv, lock, log)
    site = next((venv / "lib").glob("python3*/site-packages"))
    (site / "gpufleet.pth").write_text(f"{root / 'modules'}\n")
    (venv / lock.name).write_bytes(lock.read_bytes())
    (venv / STAMP).write_text(f"{root}\n")
    print(f"fleet: .venv is ready after {time.monotonic() - started:.0f} s", flush=True)


def install(venv: Path, lock: Path, log: Path) -> None:
    """Bring the environment to what the lock says: pip fetches uv, and uv all the rest."""
    python = venv / "bin" / "python"
    first = venv / "bootstrap.txt"
    first.write_text(block(lock.read_text(), BOOTSTRAP))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    run(log, [*pip, "-r", str(first)], f"fetching {BOOTSTRAP}")
    uv = [str(venv / "bin" / BOOTSTRAP), "pip", "install", "--compile-bytecode"]
    run(
        log,
        [*uv, "--python", str(python), "--quiet", "--require-hashes", "-r", str(lock)],
        "fetching the packages",
    )


def block(lock: str, package: str) -> str:
    """The requirement of one package with its hashes."""
    found = re.search(rf"^{package}==[^\n]*\\\n(?:    [^\n]*\n)+", lock, re.MULTILINE)
    return found.group(0) if found else ""


def run(log: Path, command: list[str], doing: str) -> None:
    """Run a step with its output in the log; its failure is told in one line."""
    with log.open("a") as output:
        result = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if result.returncode == 0:
        return
    text = log.read_text()
    if "ensurepip is not" in text:
        what = "this Python cannot make virtual environments: install its venv module"
        raise Unfinished(f"{what} (Debian: apt-get install python3-venv)", 1)
    if "No space left" in text:
        raise Unfinished(f"the disk is full while {doing}: free some space, run it again", 4)
    if "DO NOT MATCH" in text or "Hash mismatch" in text:
        raise Unfinished(f"a package is not the one in requirements.lock, do not use it: {log}", 1)
    last = (text.strip().splitlines() or [f"exit code {result.returncode}"])[-1].strip()
    raise Unfinished(f"{doing} failed: {last[:200]} (log: {log}); run it again", 4)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except Unfinished as error:
        print(f"fleet: {error}", flush=True)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"fleet: the environment cannot be made: {error}", flush=True)
        sys.exit(4)
    except KeyboardInterrupt:
        print("fleet: interrupted; the next ./fleet makes the environment anew", flush=True)
        sys.exit(130)
