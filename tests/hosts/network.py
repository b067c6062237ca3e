"""The lab's network: a bridge in the machine's namespace, a namespace and a veth for each host."""

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAMESPACES: Final = Path("/run/netns")
_PREFIX: Final = 24


class CannotMake(Exception):
    """Why there is no network of this kind here, for the skip."""


@dataclass(frozen=True)
class Network:
    """The names and addresses of one lab; `number` is the third byte of its subnet."""

    number: int

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """All of its addresses."""
        return ipaddress.IPv4Network(f"10.213.{self.number}.0/{_PREFIX}")

    @property
    def bridge(self) -> str:
        """The bridge's name."""
        return f"gf{self.number}"

    @property
    def address(self) -> str:
        """The machine's own address on the bridge."""
        return str(self.subnet[1])

    def host_address(self, index: int) -> str:
        """Of the host with this number, from 1."""
        return str(self.subnet[10 + index])

    def namespace(self, index: int) -> str:
        """The name of a host's network namespace, and of the veth's end at the bridge."""
        return f"gf{self.number}-{index:03d}"

    def namespace_file(self, index: int) -> Path:
        """What `nsenter --net` takes."""
        return _NAMESPACES / self.namespace(index)

    def is_free(self) -> bool:
        """Whether no other interface of the machine has addresses of this subnet."""
        told = json.loads(_run(["ip", "-json", "-4", "address", "show"]))
        mine = self.subnet
        return not any(
            ipaddress.ip_address(entry["local"]) in mine
            for link in told
            if link.get("ifname") != self.bridge
            for entry in link.get("addr_info", [])
        )

    def make(self, hosts: int) -> None:
        """Make the bridge and each host's end.

        Raises:
            CannotMake: the machine refuses.
        """
        commands = [
            f"link add {self.bridge} type bridge",
            f"address add {self.address}/{_PREFIX} dev {self.bridge}",
            f"link set {self.bridge} up",
        ]
        for index in range(1, hosts + 1):
            name = self.namespace(index)
            commands += [
                f"netns add {name}",
                f"link add {name} type veth peer name eth0 netns {name}",
                f"link set {name} master {self.bridge} up",
                f"-n {name} address add {self.host_address(index)}/{_PREFIX} dev eth0",
                f"-n {name} link set eth0 up",
                f"-n {name} link set lo up",
            ]
        for command in commands:
            _run(["ip", *command.split()])

    def set_link(self, index: int, *, up: bool) -> None:
        """Plug a host's cable in, or pull it."""
        _run(["ip", "link", "set", self.namespace(index), "up" if up else "down"])

    def remove(self) -> None:
        """Remove all of it that is there, whoever left it."""
        for file in sorted(_NAMESPACES.glob(f"{self.bridge}-*")):
            _run(["ip", "netns", "delete", file.name], check=False)
        told = json.loads(_run(["ip", "-json", "link", "show"]))
        for link in told:
            if link["ifname"] == self.bridge or link["ifname"].startswith(f"{self.bridge}-"):
                _run(["ip", "link", "delete", link["ifname"]], check=False)


def _run(command: Sequence[str], *, check: bool = True) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise CannotMake(f"`{' '.join(command)}`: {done.stderr.strip()[:200]}")
    return done.stdout
