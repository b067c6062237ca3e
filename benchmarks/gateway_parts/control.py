"""What the gateway's control process does without a cluster: engines polled, replicas published.

control.py FOLDER POOL=ADDRESS,ADDRESS ...
"""

import asyncio
import sys
import time
from pathlib import Path

from gpufleet.core.gateway.discovery import Found, Watched, reading_of, replica_of
from gpufleet.edges.engine_poll import EnginePoller
from gpufleet.edges.gateway_files import publish
from gpufleet.spec.gateway import REPLICAS_FILE, Replicas

PAUSE_S, ROUND_S, TIMEOUT_S = 0.7, 0.5, 2.5
"""As in `flows/gateway_control.py`."""


async def run(folder: Path, pools: dict[str, list[str]]) -> None:
    """Until the process is ended."""
    found = [
        Found(pool, f"{pool}-{index}", f"{pool}-{index}", address, ready=True)
        for pool, addresses in pools.items()
        for index, address in enumerate(addresses)
    ]
    watched = {each.uid: Watched() for each in found}
    async with EnginePoller(TIMEOUT_S) as poller:
        while True:
            engines = {each.uid: each.url for each in found}
            for uid, read in (await poller.read_all(engines, ROUND_S)).items():
                if reading := reading_of(read.text, read.at_s):
                    watched[uid].add(reading, read.wall_s)
            now_s, wall_s = time.monotonic(), time.time()
            replicas = {
                pool: [
                    replica_of(each, "main", watched[each.uid], now_s)
                    for each in found
                    if each.pool == pool
                ]
                for pool in pools
            }
            told = Replicas(at=wall_s, pools=replicas)
            publish(folder / REPLICAS_FILE, told.model_dump_json(by_alias=True))
            await asyncio.sleep(PAUSE_S)


pools = {name: found.split(",") for name, found in (each.split("=") for each in sys.argv[2:])}
asyncio.run(run(Path(sys.argv[1]), pools))
