"""Starts the gateway: `python -m gpufleet_gateway --folder FOLDER --port N`."""

import argparse
import os
import secrets
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn
import yaml

from gpufleet.core.gateway.drain import drain_s
from gpufleet.edges.in_flight import Board
from gpufleet.spec.errors import FleetError
from gpufleet.spec.gateway import ROUTES_FILE
from gpufleet_gateway.configuration import configuration, environment
from gpufleet_gateway.folder import (
    AUDIT,
    BOARD,
    CONFIGURATION,
    FOLDER_VARIABLE,
    METRICS,
    SALT,
    Folder,
    metrics_folder,
    secret_file,
)

_ROUTES_WITHIN_S: Final = 30.0
_MARGIN_S: Final = 15
"""For what is interrupted in the end: an error event, and its record."""
_BACKLOG: Final = 1024
_KEEP_ALIVE_S: Final = 75
BAD_INPUT: Final = 2


def main() -> int:
    """Start the workers and stay with them; the exit code."""
    arguments = _arguments()
    folder = Folder(arguments.folder.resolve())
    deadline_s = time.monotonic() + _ROUTES_WITHIN_S
    while not folder.has_routes:
        if time.monotonic() > deadline_s:
            sys.stderr.write(
                f"{folder.path / ROUTES_FILE}: missing, or not what the gateway reads\n"
            )
            return BAD_INPUT
        time.sleep(0.1)
    try:
        _prepare(folder)
    except (OSError, FleetError) as error:
        # A full disk, most of the time.
        sys.stderr.write(f"the gateway cannot write what it needs in {folder.path}: {error}\n")
        return BAD_INPUT
    # Only now: LiteLLM and the metrics read their settings when they are imported.
    from gpufleet_gateway.app import application
    from gpufleet_gateway.connection import Connection
    from gpufleet_gateway.workers import Workers

    drained_s = drain_s(folder.routes())
    server = uvicorn.Config(
        application,
        factory=True,
        host=arguments.host,
        port=arguments.port,
        loop="uvloop",
        http=Connection,
        ws="none",
        interface="asgi3",
        lifespan="on",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=drained_s,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
    )
    listening = server.bind_socket()
    count = arguments.workers or folder.routes().gateway.workers
    work = partial(uvicorn.Server(server).run, sockets=[listening])
    Workers(count, work, drained_s + _MARGIN_S, listening).run()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpufleet_gateway", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the gateway's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--workers", type=int, help="processes; as the fleet file says if left out")
    parser.add_argument("--certificate", help="PEM file with the chain; TLS where it is given")
    parser.add_argument("--key", help="PEM file with the certificate's key")
    arguments = parser.parse_args()
    if bool(arguments.certificate) != bool(arguments.key):
        parser.error("--certificate and --key belong together")
    return arguments


def _prepare(folder: Folder) -> None:
    """Write what the workers read, and set what they inherit."""
    metrics = metrics_folder(folder.path / METRICS)
    (folder.path / AUDIT).mkdir(exist_ok=True)
    secret_file(folder.path / SALT)
    Board(folder.path / BOARD, writes=False).close()
    file = folder.path / CONFIGURATION
    file.write_text(yaml.safe_dump(configuration(folder.routes()), sort_keys=False))
    # Nobody needs to know it: it only keeps LiteLLM's own doors shut.
    master_key = f"sk-{secrets.token_urlsafe(32)}"
    os.environ.update(environment(master_key, str(file)))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    os.environ[FOLDER_VARIABLE] = str(folder.path)


if __name__ == "__main__":
    sys.exit(main())
