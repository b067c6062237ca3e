"""A worker of the site that batches are tested on: `python -m tests.contract.batch_worker FOLDER`.

Its shards are small, so that a batch has several.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from gpufleet.core import batch_requests
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import open_database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import batch  # noqa: F401 - importing a flow declares it
from gpufleet.flows.durable import Host
from gpufleet.flows.ground import Ground
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.serving import Pool, ServingClass

SITE: Final = "main"
USE_CASE: Final = "nightly"
SHARD_REQUESTS: Final = 40


def batch_fleet() -> Fleet:
    """The article's fleet with a batch pool: a node of 8 GPUs, which two replicas of 4 fill."""
    base = load_fleet(PROJECT_ROOT / "fleets" / "article" / "production.yaml")
    pool = Pool.model_validate(
        {
            "class": "batch",
            "model": "llama-3.1-8b",
            "use_cases": [USE_CASE],
            "concurrency_limit": 8,
            "placements": {"nightly": {"replicas": 2, "gpus_per_node": 4}},
        }
    )
    use_case = base.use_cases["answers"].model_copy(update={"class_": ServingClass.BATCH})
    group = base.node_groups["h100"].model_copy(update={"nodes": 1})
    return base.model_copy(
        update={
            "node_groups": {**base.node_groups, "nightly": group},
            "pools": {**base.pools, "nightly": pool},
            "use_cases": {**base.use_cases, USE_CASE: use_case},
        }
    )


def ground_in(folder: Path) -> Ground:
    """The environment whose state is in a folder."""
    state = EnvironmentDir(folder)
    database = open_database(state)
    database.migrate()
    workspace, file = Workspace(PROJECT_ROOT), folder / "fleet.yaml"
    return Ground(workspace, file, batch_fleet(), state, database, system_clock)


def main(folder: Path) -> None:
    """Work until killed."""
    vars(batch_requests)["SHARD_REQUESTS"] = SHARD_REQUESTS
    host = Host(ground_in(folder), f"w-{os.getpid()}")
    host.start()
    (folder / f"ready-{os.getpid()}").touch()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.wait(0.2):
        host.adopt()
    host.stop()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
