"""gpufleet's own snapshots as a process, as the peers are: `ours.py take|restore ...`."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from gpufleet.edges.object_client import Place
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.spec.progress import SnapshotProgress


def quiet(_: SnapshotProgress) -> None:
    """The others are told to be quiet as well."""


def main() -> None:
    """Do one thing, and print its report."""
    what, bucket, name, folder, state = sys.argv[1:]
    place = Place(os.environ["ENDPOINT"], "here", "test", "test-secret")
    store = SnapshotStore(SnapshotObjects(SnapshotPlace(place, bucket)))
    if what == "take":
        order = TakeOrder(Path(folder), name)
        taken = take(store, order, Path(state) / "read.db", lambda: datetime.now(UTC), quiet)
        print(json.dumps(vars(taken)))
    else:
        print(json.dumps(vars(restore(store, RestoreOrder(name, Path(folder)), quiet))))


if __name__ == "__main__":
    main()
