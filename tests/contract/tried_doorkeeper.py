"""The gateway's doorkeeper, in the gateway's own Python: one question a line on stdin.

`python tried_doorkeeper.py ROUTES KEYS LEAST_INTERVAL_S`; a question is JSON with
`authorization` and `now_s`; an answer is JSON with the caller, or status, kind and message.
"""

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from gpufleet.spec.gateway import Keys, Routes
from gpufleet_gateway.identity import Denied, Doorkeeper
from gpufleet_gateway.issuer import Issuer


class Watched:
    """A file that is read again when it changes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = 0
        self._keys = Keys(at=0, keys=[])

    def __call__(self) -> Keys:
        """What it says."""
        at = self._file.stat().st_mtime_ns
        if at != self._at:
            self._at, self._keys = at, Keys.model_validate_json(self._file.read_bytes())
        return self._keys


async def _answer(door: Doorkeeper, question: dict[str, Any]) -> dict[str, Any]:
    try:
        caller = await door.identify(question["authorization"], question["now_s"])
    except Denied as denied:
        return {"status": denied.status, "kind": denied.kind, "message": denied.message}
    found = dataclasses.asdict(caller)
    return {**found, "use_cases": sorted(found["use_cases"])}


async def main(routes: Routes, keys: Watched, least_interval_s: str) -> None:
    """Answer until stdin ends."""
    door = Doorkeeper(lambda: routes, keys)
    if routes.gateway.oidc is not None:
        interval_s = float(least_interval_s)
        door._issuer = Issuer(routes.gateway.oidc.issuer, least_interval_s=interval_s)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer = await _answer(door, json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    told = Routes.model_validate_json(Path(sys.argv[1]).read_bytes())
    asyncio.run(main(told, Watched(Path(sys.argv[2])), sys.argv[3]))
