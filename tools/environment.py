"""Makes `.venv` from requirements.lock. Run by `./fleet` with the system's Python: standard library only.

Safe when two run at once (a lock that the system lets go with its holder) and after an
interruption (the stamp that makes it count is written last).
"""

import fcntl
import re
import subprocess
import sys
import time
from pathlib import Path

BOOTSTRAP = "uv"
"""Installs the rest: in a tenth of the time of pip, with the same hash checks."""


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
        if not is_complete(root):
            make(root)
    return 0


def is_complete(root: Path) -> bool:
    """Whether the environment was made whole, here, and from today's lock file."""
    venv = root / ".venv"
    try:
        return (venv / "made-in").read_text().strip() == str(root) and (
            venv / "requirements.lock"
        ).read_bytes() == (root / "requirements.lock").read_bytes()
    except OSError:
        return False


def make(root: Path) -> None:
    """Create the environment in the folder where it stays: a virtual environment cannot be moved."""
    started = time.monotonic()
    venv = root / ".venv"
    lock = root / "requirements.lock"
    count = len(re.findall(r"^\S+==", lock.read_text(), re.MULTILINE))
    print(f"fleet: making .venv ({count} packages, once for each clone) ...", flush=True)
    (root / ".fleet" / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
    log = root / ".fleet" / "logs" / "environment.log"
    log.write_text("")
    run(log, [sys.executable, "-m", "venv", "--clear", str(venv)], "making a virtual environment")
    python = venv / "bin" / "python"
    first = venv / "bootstrap.txt"
    first.write_text(block(lock.read_text(), BOOTSTRAP))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    if count:
        run(log, [*pip, "-r", str(first)], f"fetching {BOOTSTRAP}")
        sync = [str(venv / "bin" / "uv"), "pip", "install", "--python", str(python)]
        run(log, [*sync, "--quiet", "--require-hashes", "-r", str(lock)], "fetching the packages")
    site = next((venv / "lib").glob("python3*/site-packages"))
    (site / "gpufleet.pth").write_text(f"{root / 'modules'}\n")
    (venv / "requirements.lock").write_bytes(lock.read_bytes())
    (venv / "made-in").write_text(f"{root}\n")
    print(f"fleet: .venv is ready after {time.monotonic() - started:.0f} s", flush=True)


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
