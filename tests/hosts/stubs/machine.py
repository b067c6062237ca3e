"""A host's first process: applies what a boot applies, runs sshd, takes the order to leave."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Final

from tests.hosts.stubs import kernel_log, state, units

RESTART: Final = 64
POWER_OFF: Final = 65
"""Exit codes by which the lab knows what the host was told."""
_GRACE_S: Final = 0.2
"""For processes to end by themselves; then the end of the first process ends them."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def main() -> None:
    """Boot, and stay until told to leave."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    # What Ansible takes for the name of the service manager.
    Path("/proc/self/comm").write_text("systemd", encoding="utf-8")
    boot()
    with Path("/var/log/sshd.log").open("ab") as log:
        subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def boot() -> None:
    """What the installed packages and the declared units are becomes what runs."""
    state.began()
    kernel_log.rotate()
    for name in ("kernel", "vbios"):
        with contextlib.suppress(FileNotFoundError):
            (state.STATE / f"next_{name}").replace(state.STATE / name)
    state.log(f"Linux version {state.setting('kernel')} (debian-kernel@lists.debian.org)")
    state.log(f"random: boot id {_BOOT_ID.read_text(encoding='utf-8').strip()}")
    state.list_modules()
    state.show_switches()
    for module in state.LOADED_AT_BOOT:
        try:
            state.load(module, at_boot=True)
        except state.CannotLoad as error:
            state.log(f"systemd-modules-load[1]: Failed to load module '{module}': {error}")
    units.start_enabled()


def _leave(order: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(RESTART if order == signal.SIGINT else POWER_OFF)
