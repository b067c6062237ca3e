"""Free loopback ports, chosen once for each site and kept as long as nobody else takes them."""

import random
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from gpufleet.local.files import read_json, write_json
from gpufleet.spec.errors import Failed

FIRST: Final = 18_000
LAST: Final = 32_000
"""Below the range from which Linux takes the ports of outgoing connections."""
NAMES: Final = (
    "etcd",
    "etcd-peer",
    "etcd-metrics",
    "apiserver",
    "controller-manager",
    "scheduler",
    "kwok",
    "lws-webhook",
    "lws-health",
    "lws-metrics",
    "kueue-webhook",
    "kueue-health",
    "kueue-metrics",
    "keda-metrics-service",
    "keda-health",
    "keda-metrics",
    "keda-adapter",
    "keda-adapter-metrics",
    "keda-webhooks",
    "keda-webhooks-health",
    "keda-webhooks-metrics",
    "prometheus",
    "s3",
    "agent",
)


def is_complete(file: Path, names: Sequence[str] = NAMES) -> bool:
    """Whether a port is kept for every name: an earlier version had fewer processes."""
    return set(names) <= set(read_json(file) or {})


def choose(file: Path, taken: set[int], names: Sequence[str] = NAMES) -> dict[str, int]:
    """The ports of a site: those of the last time if all are free, else new ones for the lost.

    Args:
        file: where they are kept.
        taken: ports of other sites; the chosen ones are added.
        names: what each is for; those of a site where they are not given.

    Call it only while the site's own processes are not running: they hold their ports.
    """
    kept = read_json(file) or {}
    ports = {
        name: port
        for name in names
        if isinstance(port := kept.get(name), int) and port not in taken and is_free(port)
    }
    taken.update(ports.values())
    for name in names:
        if name not in ports:
            ports[name] = _free_port(taken)
            taken.add(ports[name])
    write_json(file, ports)
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket() as probe:
        # As Go's listeners do: a port whose last connections are closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(taken: Iterable[int]) -> int:
    # At random, so that two clones that start at once do not try the same ones.
    for port in random.sample(range(FIRST, LAST), 500):
        if port not in taken and is_free(port):
            return port
    raise Failed(
        f"no free port on 127.0.0.1 between {FIRST} and {LAST}",
        mend="end what holds them (ss -ltnp), then run this again",
    )
