"""A request that is interrupted, in the gateway's own Python: `tried_interruption.py FOLDER KEY`.

What stands where LiteLLM would never answers. Prints what the client was sent, as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from gpufleet.edges.audit_log import AuditLog
from gpufleet.edges.in_flight import Board
from gpufleet.edges.spend_ledger import SpendLedger
from gpufleet_gateway.batches import Batches
from gpufleet_gateway.door import Door
from gpufleet_gateway.folder import Folder
from gpufleet_gateway.identity import Doorkeeper
from gpufleet_gateway.traffic import Traffic


async def _interrupted(path: Path, key: str) -> list[dict[str, Any]]:
    folder, log = Folder(path), AuditLog(path / "audit", "gateway")
    traffic = Traffic(folder, Board(path / "board"), SpendLedger(path / "spend"))
    asked, for_ever = asyncio.Event(), asyncio.get_running_loop().create_future()
    sent: list[dict[str, Any]] = []

    async def never(*_: object) -> None:
        asked.set()
        await for_ever

    message = {"role": "user", "content": "hello"}
    body = json.dumps({"model": "assist", "messages": [message], "stream": True}).encode()
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not coming:
            await for_ever
        return coming.pop()

    async def send(part: dict[str, Any]) -> None:
        sent.append(part)

    keeper = Doorkeeper(folder.routes, folder.keys)
    door = Door(never, traffic, keeper, log, b"salt", Batches(path))
    headers = [
        (b"authorization", f"Bearer {key}".encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {
        "type": "http",
        "asgi": {},
        "path": "/v1/chat/completions",
        "method": "POST",
        "headers": headers,
    }
    task = asyncio.ensure_future(door(scope, receive, send))
    await asyncio.wait_for(asked.wait(), 20)
    task.cancel()
    await asyncio.wait({task})
    log.close()
    return sent


if __name__ == "__main__":
    told = asyncio.run(_interrupted(Path(sys.argv[1]), sys.argv[2]))
    status = next(part["status"] for part in told if "status" in part)
    content = b"".join(part.get("body", b"") for part in told).decode()
    sys.stdout.write(json.dumps({"status": status, "content": content}) + "\n")
