"""Holds a lease for a process that cannot renew it itself, such as ansible-playbook run by hand.

`python -m gpufleet.flows.lease_keeper FLEET_FILE TARGET OWNER HOLDER PID STARTED` takes the lease,
tells its token in one line of JSON, renews it until that process has ended, and gives it back.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from gpufleet.core.leases import RENEW_EVERY
from gpufleet.edges.lease_process import is_running, start_keeper
from gpufleet.edges.lease_table import LeaseLost
from gpufleet.edges.processes import start_of
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.spec.errors import FleetError, Retryable
from gpufleet.spec.fence import Fence
from gpufleet.spec.records import Claim

_LOOK_EVERY_S: Final = 0.5


def hold_for_process(ground: Ground, claim: Claim, pid: int) -> Fence:
    """Take a lease that is held until a process of this machine has ended.

    Args:
        ground: the environment.
        claim: what is taken, by whom.
        pid: of the process.

    Raises:
        Retryable: somebody else holds it; or the keeper could not start.
    """
    told = start_keeper(
        __name__,
        [
            str(ground.fleet_file),
            *(claim.target, claim.owner, claim.holder),
            *(str(pid), str(start_of(pid))),
        ],
        ground.state.make().logs / "lease-keeper.log",
    )
    if "token" not in told:
        raise Retryable(
            str(told["error"]), where=str(told.get("where", "")), mend=str(told.get("mend", ""))
        )
    return Fence(claim.target, claim.owner, int(str(told["token"])))


def main() -> int:
    """Run as a program; the exit code of what went wrong."""
    fleet_file, target, owner, holder, pid, started = sys.argv[1:]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        ground = Ground.open(Workspace.here(), Path(fleet_file))
        fence = ground.leases.acquire(Claim(target=target, owner=owner, holder=holder))
    except FleetError as error:
        _tell(error.as_json())
        return error.exit_code
    _tell({"token": fence.token})
    _keep(ground, fence, int(pid), int(started), ended)
    ground.close()
    return 0


def _keep(ground: Ground, fence: Fence, pid: int, started: int, ended: threading.Event) -> None:
    renewed = time.monotonic()
    while is_running(pid, started) and not ended.wait(_LOOK_EVERY_S):
        if time.monotonic() - renewed < RENEW_EVERY.total_seconds():
            continue
        renewed = time.monotonic()
        try:
            ground.leases.renew(fence)
        except LeaseLost:
            # The playbook finds out before its next change.
            return
        except FleetError as error:
            sys.stderr.write(f"{error}\n")
    ground.leases.release(fence)


def _tell(facts: dict[str, str | int]) -> None:
    """One line, and then nothing more: whoever started it reads to the end of that line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
