"""Eight hosts on one machine, each with an address, a Debian and a boot of its own, over real SSH.

    with Lab() as lab:
        lab.ssh("gpu-001", "nvidia-smi")

`python -m tests.hosts.lab FOLDER [HOSTS]` starts one, writes its fleet file into the folder, and
keeps it until it is interrupted. What a killed lab left is removed by the next one on this machine.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.hosts.bmc import Controllers
from tests.hosts.debian_root import USER, layers
from tests.hosts.fleet import GROUP, HOSTS, fleet, write_fleet
from tests.hosts.host import STATE, Host
from tests.hosts.network import Network
from tests.hosts.packages import KEYRING, repository
from tests.hosts.slots import Slot, take_slot

_UID: Final = 1000
"""Of the first user that a Debian makes."""
_NEW_KEY_WITHIN_S: Final = 30
_DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL", "--")


class _Files(SimpleHTTPRequestHandler):
    """The apt repository, without a line for each request, and the power button of each host."""

    protocol_version = "HTTP/1.1"

    def __init__(self, lab: "Lab", *given: Any, directory: str) -> None:  # noqa: ANN401
        self._lab = lab
        super().__init__(*given, directory=directory)

    def do_GET(self) -> None:
        """A file, or whether a host is on."""
        if (host := self._host()) is None:
            return super().do_GET()
        return self._answer("On" if host.is_on else "Off")

    def do_PUT(self) -> None:
        """What a management controller orders."""
        host = self._host()
        order = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if host is not None:
            host.obey(order)
        self._answer(order)

    def _host(self) -> Host | None:
        path = self.path.strip("/")
        return self._lab.hosts.get(path.removeprefix("power/")) if "power/" in path else None

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Nothing."""


class Lab:
    """Running hosts by name: `gpu-001` and so on.

    Args:
        hosts: how many there are in the node group `gpu`.
        others: how many there are in other node groups.
    """

    def __init__(self, hosts: int = HOSTS, **others: int) -> None:
        counts = {GROUP: hosts, **others}
        self._names = [f"{g}-{n:03d}" for g, count in counts.items() for n in range(1, count + 1)]
        self._cleanup = contextlib.ExitStack()
        self._slot: Slot
        self.hosts: dict[str, Host] = {}
        self.controllers: Controllers
        self._server: ThreadingHTTPServer | None = None
        self._public = ""
        self._host_keys: dict[str, str] = {}
        self.repository_url = ""
        self.environment: dict[str, str] = {}
        """Variables for Ansible, ssh and gpufleet: the agent's socket, and the BMCs' password."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def folder(self) -> Path:
        """What the lab keeps while it lives."""
        return self._slot.folder

    @property
    def network(self) -> Network:
        """Its bridge and addresses."""
        return self._slot.network

    @property
    def key_file(self) -> Path:
        """The client's private key; the agent has it too."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The hosts' keys."""
        return self.folder / "known_hosts"

    def _start(self) -> None:
        debian, over = layers()
        self._slot = self._cleanup.enter_context(take_slot())
        self.network.make(len(self._names))
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(_new_key(), encoding="utf-8")
        self._public = _public(self.key_file.read_text(encoding="utf-8"))
        self.serve(repository())
        for index, name in enumerate(self._names, 1):
            host = Host(name, index, self.network, self.folder / name, f"{over}:{debian}")
            self._host_keys[name] = _new_key()
            host.make()
            self._furnish(host)
            self.hosts[name] = host
        lines = [f"{h.address} {_public(self._host_keys[n])}\n" for n, h in self.hosts.items()]
        self.known_hosts.write_text("".join(lines), encoding="utf-8")
        for host in self.hosts.values():
            self._cleanup.callback(host.power_off)
            host.power_on()
        self._start_agent()
        self.controllers = self._cleanup.enter_context(
            Controllers.started(
                self.folder / "bmc", self.network.address, list(self.hosts), self.repository_url
            )
        )
        self._slot.remember(self.controllers.pid)
        self.environment |= self.controllers.environment
        for host in self.hosts.values():
            host.wait()

    def renew(self, *names: str) -> None:
        """Make hosts and their controllers as they were at the start, with the same keys.

        Args:
            names: of those that are made anew; all where none is named.
        """
        chosen = [self.hosts[name] for name in names or self.hosts]
        for host in chosen:
            host.power_off()
            host.plug()
            self.controllers.renew(host.name)
            host.remove()
            host.make()
            self._furnish(host)
            host.power_on()
        self.serve(repository())
        for host in chosen:
            host.wait()

    def _furnish(self, host: Host) -> None:
        """Give a host its own name, keys and package source."""
        host.write("/etc/hostname", f"{host.name}\n")
        host.write("/etc/hosts", f"127.0.0.1 localhost\n{host.address} {host.name}\n")
        host.write("/etc/resolv.conf", "")
        for unit in ("nvidia-fabricmanager", "nvidia-dcgm"):
            host.write(f"{STATE}/units/{unit}", "enabled")
        host.write("/etc/ssh/ssh_host_ed25519_key", self._host_keys[host.name], mode=0o600)
        for home, uid in ((f"/home/{USER}", _UID), ("/root", 0)):
            host.write(f"{home}/.ssh/authorized_keys", f"{self._public}\n", mode=0o600)
            file = host.path(f"{home}/.ssh/authorized_keys")
            for each in (file, file.parent):
                os.chown(each, uid, uid)
            for each in (file.parent, file.parent.parent):
                each.chmod(0o700)
            os.chown(file.parent.parent, uid, uid)
        ring = host.path(f"/etc/apt/keyrings/{KEYRING}")
        ring.parent.mkdir(parents=True, exist_ok=True)
        ring.write_bytes((repository() / KEYRING).read_bytes())
        signed = f"deb [signed-by=/etc/apt/keyrings/{KEYRING}] {self.repository_url}"
        lines = f"{signed} ./\n{signed}security/ ./\n"
        host.write("/etc/apt/sources.list.d/gpu-stub.list", lines)

    def serve(self, folder: Path) -> None:
        """Serve a repository to the hosts; again with another folder: from now on that one."""
        handler = partial(_Files, self, directory=str(folder))
        if self._server is not None:
            self._server.RequestHandlerClass = handler
            return
        self._server = server = ThreadingHTTPServer((self.network.address, 0), handler)
        server.daemon_threads = True
        self.repository_url = f"http://{self.network.address}:{server.server_port}/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._cleanup.callback(server.server_close)
        self._cleanup.callback(server.shutdown)

    def _start_agent(self) -> None:
        socket = self.folder / "agent.sock"
        agent = subprocess.Popen(
            [*_DIES_WITH_US, "ssh-agent", "-D", "-a", str(socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._slot.remember(agent.pid)
        self._cleanup.callback(agent.wait)
        self._cleanup.callback(agent.kill)
        self.environment = {"SSH_AUTH_SOCK": str(socket)}
        while not socket.exists():
            assert agent.poll() is None, "ssh-agent ended at once"
            threading.Event().wait(0.01)
        subprocess.run(
            ["ssh-add", "-q", str(self.key_file)],
            check=True,
            env={**os.environ, **self.environment},
        )

    def ssh(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on a host as its user, over the network, with its key checked."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "ConnectTimeout": "5",
        }
        given = [f"-o{key}={value}" for key, value in options.items()]
        done = subprocess.run(
            ["ssh", "-F", "none", *given, f"{USER}@{self.hosts[name].address}", "--", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def new_host_key(self, name: str) -> None:
        """Give a host another key than the known one, as a stranger in its place would have."""
        host, key = self.hosts[name], _new_key()
        host.write("/etc/ssh/ssh_host_ed25519_key", key, mode=0o600)
        host.run("/bin/sh", "-c", "kill -HUP $(cat /run/sshd.pid)")
        offered, deadline = "", time.monotonic() + _NEW_KEY_WITHIN_S
        while _public(key) not in offered:
            assert time.monotonic() < deadline, f"{name} still has its old key"
            command = ["ssh-keyscan", "-T", "2", "-t", "ed25519", host.address]
            offered = subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def fleet(self, **changes: object) -> dict[str, Any]:
        """A fleet file's content whose node groups are these hosts."""
        addresses = {name: host.address for name, host in self.hosts.items()}
        return fleet(addresses, self.controllers.endpoint) | changes

    def write_fleet(self, folder: Path, **changes: object) -> Path:
        """Write that fleet file, and the files that it refers to, into a folder."""
        content = self.fleet(**changes)
        return write_fleet(folder, content, self.known_hosts, self.controllers.authority)


def _new_key() -> str:
    """A new private key."""
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode()
    )


def _public(private: str) -> str:
    """The public key of a private one, in a line."""
    key = serialization.load_ssh_private_key(private.encode(), None)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode()


def main() -> None:
    """Keep a lab until this process is interrupted: FOLDER of its fleet file, number of HOSTS."""
    folder, *count = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Lab(*map(int, count)) as lab, contextlib.suppress(KeyboardInterrupt):
        file = lab.write_fleet(Path(folder))
        sys.stdout.write(f"GPUFLEET_FLEET={file}\n")
        for name, value in lab.environment.items():
            sys.stdout.write(f"{name}={value}\n")
        sys.stdout.write("\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
