"""One host of the lab: its namespaces, its boots, and what a test does to it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.hosts.network import Network
from tests.hosts.stubs.machine import RESTART

STATE: Final = "/var/lib/gpu-stub"
_BOOT: Final = Path(__file__).parent / "boot.sh"
_ANSWERS_WITHIN_S: Final = 60
_LEAVES_WITHIN_S: Final = 60
_ASK_EVERY_S: Final = 0.02
_STORES: Final = ("root", "var")
_SIZE: Final = 8 * 2**30
"""Bytes of each of a host's two file systems; only what is written takes memory."""


@dataclass
class Host:
    """A host that is booted, reached over SSH, broken and healed."""

    name: str
    index: int
    network: Network
    folder: Path
    """Its two tmpfs, `root` and `var`, are mounted below it."""
    lower: str
    """The layers that it shares with the others, for overlayfs."""
    boots: int = 0
    boot_id: str = ""
    """Of the boot that runs, or ran last."""
    _thread: threading.Thread | None = None
    _process: subprocess.Popen[bytes] | None = None
    _stays_off: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def address(self) -> str:
        """Its address on the lab's bridge."""
        return self.network.host_address(self.index)

    def make(self) -> None:
        """Mount its own storage, which outlives its boots."""
        (self.folder / "mnt").mkdir(parents=True)
        for name in _STORES:
            own = self.folder / name
            own.mkdir()
            options = f"mode=755,size={_SIZE}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(own)], check=True)
            for part in ("upper", "work"):
                (own / part).mkdir()

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Put a file into the host, whether it runs or not."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def path(self, path: str) -> Path:
        """Where a file of the host is, seen from the machine."""
        inside = path.lstrip("/")
        if (root := self._root()) is not None:
            return root / inside
        if inside.startswith("var/"):
            return self.folder / "var" / "upper" / inside.removeprefix("var/")
        return self.folder / "root" / "upper" / inside

    @property
    def pid(self) -> int | None:
        """Of its first process, as the machine counts; None while it is off."""
        process = self._process
        if process is None or process.poll() is not None:
            return None
        file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with contextlib.suppress(OSError, IndexError):
            return int(file.read_text(encoding="utf-8").split()[0])
        return None

    def _root(self) -> Path | None:
        """Its file system while it runs; None while it is off.

        Before a boot is so far, its first process still sees the machine's own root.
        """
        deadline = time.monotonic() + _ANSWERS_WITHIN_S
        while (pid := self.pid) is not None:
            root = Path(f"/proc/{pid}/root")
            with contextlib.suppress(OSError):
                file = root / "run/gpu-stub/boot_id"
                if file.read_text(encoding="utf-8").strip() == self.boot_id:
                    return root
            assert time.monotonic() < deadline, self._story()
            time.sleep(_ASK_EVERY_S)
        return None

    @property
    def is_on(self) -> bool:
        """Whether it is booted."""
        return self.pid is not None

    def power_on(self) -> None:
        """Boot it; does not wait until it answers."""
        assert self._thread is None or not self._thread.is_alive(), f"{self.name} is on"
        self._stays_off = False
        self._thread = threading.Thread(target=self._live, name=self.name, daemon=True)
        self._thread.start()

    def power_off(self) -> None:
        """Cut its power: every process of it ends at once, and it stays off."""
        while self._thread is not None and self._thread.is_alive():
            self._stays_off = True
            with contextlib.suppress(ProcessLookupError):
                if (pid := self.pid) is not None:
                    # The kernel ends whatever else is in its PID namespace first.
                    os.kill(pid, signal.SIGKILL)
            self._thread.join(_ASK_EVERY_S)

    def reboot(self) -> None:
        """Cut its power and boot it again; returns when it answers."""
        self.power_off()
        self.power_on()
        self.wait()

    def obey(self, order: str) -> None:
        """Do what its management controller was told (Redfish's ResetType)."""
        if order in {"GracefulShutdown", "GracefulRestart"} and self.is_on:
            self.run("poweroff" if order == "GracefulShutdown" else "reboot")
        elif order in {"ForceOff", "ForceRestart"}:
            self.power_off()
        if order in {"On", "ForceOn", "ForceRestart"} and not self.is_on:
            self.power_on()

    def _live(self) -> None:
        """One boot after the other, until a boot ends without the order to restart."""
        while True:
            self.boot_id = str(uuid.uuid4())
            with (self.folder / "console.log").open("ab") as console:
                # The kernel kills it with this thread, which is the one that waits for it.
                process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
            with self._changed:
                self._process = process
                self.boots += 1
                self._changed.notify_all()
            code = process.wait()
            with self._changed:
                self._changed.notify_all()
            if code != RESTART or self._stays_off or self.fault_file("does-not-return").exists():
                return

    def _command(self) -> list[str]:
        net = f"--net={self.network.namespace_file(self.index)}"
        own = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        boot = ["/bin/sh", str(_BOOT), str(self.folder), self.lower, self.name, self.boot_id]
        dies_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
        return [*dies_with_us, "nsenter", net, "--", "unshare", *own, "--", *boot]

    def wait(self, *, after: int = 0, within_s: float = _ANSWERS_WITHIN_S) -> None:
        """Wait until it answers on its SSH port, in a later boot than number `after`."""
        deadline = time.monotonic() + within_s
        with self._changed:
            assert self._changed.wait_for(lambda: self.boots > after, within_s), self._story()
        while True:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self.address, 22), 1) as connection,
            ):
                connection.settimeout(1)
                if connection.recv(4) == b"SSH-":
                    return
            assert time.monotonic() < deadline, self._story()
            time.sleep(_ASK_EVERY_S)

    def wait_until_off(self, within_s: float = _LEAVES_WITHIN_S) -> None:
        """Wait until nothing of it runs any more."""
        with self._changed:
            off = self._changed.wait_for(lambda: not self.is_on, within_s)
        assert off, f"{self.name} is still on"

    def _story(self) -> str:
        console = (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")
        return f"{self.name} does not answer; boots: {self.boots}; console: {console[-2000:]}"

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in it as root, past its network and sshd."""
        root = self._root()
        assert root is not None, f"{self.name} is off"
        pid = root.parent.name
        enter = ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        done = subprocess.run(
            [*enter, f"--root={root}", f"--wd={root}", "--", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"},
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def fault_file(self, name: str) -> Path:
        """The file that makes the host's programs misbehave while it is there."""
        return self.path(f"{STATE}/faults/{name}")

    def fault(self, name: str, text: str = "") -> None:
        """Break something until it is mended.

        Args:
            name: one of these.
                `does-not-return`: the next reboot leaves it off.
                `hold-install`: a package's post-install waits; meanwhile `/run/gpu-stub/installing`
                is there.
                `smi`, `dcgm`, `cuda`: nvidia-smi, `dcgmi diag`, cuInit fail (`text`: why; a code).
                `ecc`, `row-remap`, `pcie-width`, `nvlink`, `collective`: the first GPU's memory or
                links are bad (`text`: a count, `failure`, a width, or a bandwidth in GB/s).
                `modules-in-use`: the driver cannot be unloaded. `gpu-process`: nvidia-smi lists a
                process (`text`: its line). `pull`: no image can be pulled.
                `unit-NAME`: this unit does not start.
                `cri`, `toolkit`: containers are not started, or not given GPUs (`text`: why).
            text: what the fault says, where it says something.
        """
        self.write(f"{STATE}/faults/{name}", text)

    def mend(self, *names: str) -> None:
        """Take these faults away, or all of them."""
        folder = self.path(f"{STATE}/faults")
        for file in [folder / name for name in names] or list(folder.glob("*")):
            file.unlink(missing_ok=True)

    def cut(self) -> None:
        """Pull its network cable."""
        self.network.set_link(self.index, up=False)

    def plug(self) -> None:
        """Put the cable back."""
        self.network.set_link(self.index, up=True)

    def log_xid(self, xid: int, told: str = "GPU has fallen off the bus.") -> None:
        """The driver reports an XID in the kernel's log."""
        line = f"NVRM: Xid (PCI:0000:1b:00): {xid}, pid=4242, name=python3, {told}\n"
        with self.path(f"{STATE}/kernel.log").open("a", encoding="utf-8") as log:
            log.write(f"[{time.monotonic():12.6f}] {line}")

    def fill(self, folder: str = "/var") -> None:
        """Leave no space in the file system that a folder is on: `/var`, or `/` with the rest."""
        own = self._store(folder)
        told = os.statvfs(own)
        used = (told.f_blocks - told.f_bfree) * told.f_frsize
        self._resize(own, used)

    def empty(self, folder: str = "/var") -> None:
        """Take back what `fill` did."""
        self._resize(self._store(folder), _SIZE)

    def _store(self, folder: str) -> Path:
        return self.folder / ("var" if folder.startswith("/var") else "root")

    def _resize(self, own: Path, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(own)], check=True)

    def hold_gpu(self) -> subprocess.Popen[bytes]:
        """A process of the host that has a GPU open, until the caller ends it."""
        root = self._root()
        assert root is not None, f"{self.name} is off"
        enter = ["nsenter", f"--target={root.parent.name}", "--mount", "--pid", f"--root={root}"]
        holder = ["setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c"]
        script = "exec 3< /dev/nvidia0 && exec sleep 3600"
        return subprocess.Popen([*enter, "--", *holder, script], stdin=subprocess.DEVNULL)

    def set_fact(self, name: str, value: str) -> None:
        """Change a fact of the hardware, such as `vbios`, `gpus`, `secure_boot`, `key_enrolled`."""
        self.write(f"{STATE}/{name}", value + "\n")

    def driver(self) -> str:
        """The version of the loaded driver; empty where none is loaded."""
        file = self.path("/sys/module/nvidia/version")
        return file.read_text(encoding="utf-8").strip() if file.exists() else ""

    def remove(self) -> None:
        """Let its storage go."""
        for name in _STORES:
            subprocess.run(["umount", "--lazy", str(self.folder / name)], check=False)
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)
