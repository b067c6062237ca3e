"""Simulated engines in a process of their own, which hang when they are told to.

    engines.py POOL=ADDRESS,ADDRESS ...

Lines on stdin: `hang ADDRESS` and `heal ADDRESS`.
"""

import asyncio
import sys
from pathlib import Path

from gpufleet.local.engine.engine import Engine
from gpufleet.local.engine.faults import Faults
from gpufleet.local.engine.server import EngineServer
from gpufleet.local.engine.settings import EngineSettings
from gpufleet.local.engine_specs import engine_specs
from gpufleet.spec import load_fleet

ROOT = Path(__file__).resolve().parents[2]


async def serve(pools: dict[str, list[str]]) -> None:
    """Run the engines, each as fast as the article's, until stdin ends."""
    fleet = load_fleet(ROOT / "fleets" / "article" / "production.yaml")
    spec = engine_specs(fleet, "main")["answers", "h100"]
    engines = {}
    for pool, addresses in pools.items():
        settings = EngineSettings(pool, "sha256:0", spec.speed.concurrency_limit, 8192, spec)
        for address in addresses:
            engines[address] = Engine(settings, Faults())
            await EngineServer(engines[address]).open(address)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, address = line.split()
        engine = engines[address]
        if verb == "hang":
            engine.hang()
        else:
            engine.go_on()
        print("done", flush=True)


asyncio.run(serve({name: found.split(",") for name, found in (a.split("=") for a in sys.argv[1:])}))
