"""A worker that pulls weights ahead of peaks: `python -m tests.contract.pulling_worker FOLDER`.

The folder holds the environment: `state` with kubeconfig, store and database, and the files `name`,
`digest` and `now`, so that a test declares another content and moves the clock.
"""

import itertools
import os
import sys
import threading
from datetime import datetime
from pathlib import Path

from tests.conftest import small_fleet
from tests.contract.caching_nodes import GROUP, SITE

from gpufleet.core.prewarming import Window
from gpufleet.edges.database import open_database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.flows.prewarm_weights import WeightsKeeper
from gpufleet.spec.errors import FleetError
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import Prewarm

POOL = "answers"


def pulling_fleet(name: str, digest: str) -> Fleet:
    """One site whose pool has a peak each morning at eight, UTC, and a model of that digest."""
    fleet = small_fleet(SITE)
    pool = fleet.pools[POOL]
    peak = Prewarm(
        name="morning",
        recurrence="FREQ=DAILY;BYHOUR=8",
        lead_s=600,
        duration_s=3600,
        replicas={GROUP: pool.placements[GROUP].ceiling},
    )
    pools = {POOL: pool.model_copy(update={"prewarm": [peak]})}
    model = fleet.models[pool.model].model_copy(update={"digest": digest})
    models = {**fleet.models, pool.model: model}
    return fleet.model_copy(update={"fleet": name, "pools": pools, "models": models})


def ground_in(folder: Path) -> Ground:
    """The environment of a folder."""
    state = EnvironmentDir(folder / "state").make()
    database = open_database(state)
    database.migrate()

    def clock() -> datetime:
        return datetime.fromisoformat((folder / "now").read_text())

    file = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
    fleet = pulling_fleet((folder / "name").read_text(), (folder / "digest").read_text())
    return Ground(Workspace(PROJECT_ROOT), file, fleet, state, database, clock)


def nobody(_: Window, __: int | None) -> None:
    """Take no notice of what is missing."""


def main(folder: Path) -> None:
    """Look again and again until killed."""
    keeper = WeightsKeeper(LiveGround(ground_in(folder)), f"w-{os.getpid()}", nobody)
    pause = threading.Event()
    for looks in itertools.count(1):
        try:
            keeper.keep()
        except FleetError as error:
            sys.stderr.write(f"{error}\n")
        (folder / f"looks-{os.getpid()}").write_text(f"{looks}")
        pause.wait(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
