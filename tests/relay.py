"""A port in front of another one, which is away for as many connections as a file says."""

import contextlib
import socket
import struct
import threading
from pathlib import Path
from typing import Final, Self

ALWAYS: Final = 1_000_000
"""Connections: nobody makes as many."""
_RESET: Final = struct.pack("ii", 1, 0)


class Relay:
    """Passes connections on to a port of this machine.

    Args:
        port: where they go.
        away: a file with the number of connections that are reset in place of that; each takes one
            away from it. Nothing is reset while it is not there.
    """

    def __init__(self, port: int, away: Path) -> None:
        self._target = port
        self._away = away
        self._server = socket.create_server(("127.0.0.1", 0))
        self.refused = 0
        """Connections that were reset."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes up whoever waits for a connection.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._is_away():
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=(one, other), daemon=True).start()

    def _is_away(self) -> bool:
        try:
            left = int(self._away.read_text(encoding="ascii") or "0")
        except (FileNotFoundError, ValueError):
            return False
        if left <= 0:
            return False
        self._away.write_text(str(left - 1), encoding="ascii")
        self.refused += 1
        return True


def _copy(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := one.recv(65536):
            other.sendall(content)
    for each in (one, other):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
