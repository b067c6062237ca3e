"""What an environment that is protected holds, for tests."""

import json
import time
from datetime import timedelta

from tests.snapshot_bench import now

from gpufleet.flows.ground import Ground


def state_of(outputs: dict[str, object]) -> bytes:
    resource = {"urn": "urn:pulumi:x::y::z::w", "type": "x:y:Z", "outputs": outputs}
    return json.dumps({"checkpoint": {"latest": {"resources": [resource]}}}).encode()


def note(ground: Ground, count: int) -> None:
    for number in range(count):
        ground.note("test.noted", actor="somebody", number=number)


def next_second() -> None:
    """Wait until it is another second: snapshots are told apart by the second of their ID."""
    begun = now().replace(microsecond=0)
    while now() < begun + timedelta(seconds=1):
        time.sleep(0.01)
