"""The highest fencing token that was seen for a target, kept beside what it guards."""

import json
from pathlib import Path

from filelock import FileLock

from gpufleet.spec.errors import Failed
from gpufleet.spec.fence import Fence


def demand_newest(folder: Path, fence: Fence) -> None:
    """Let a fence pass, and none with a lower token after it.

    Args:
        folder: where the tokens are kept.
        fence: of whoever is about to act.

    Raises:
        Failed: a later holder of the lease has acted already.
    """
    file = folder / f"{fence.target}.fence"
    with FileLock(folder / f".{fence.target}.fence.lock"):
        seen = json.loads(file.read_text(encoding="ascii")) if file.is_file() else 0
        if fence.token < seen:
            raise Failed(
                f"token {fence.token} is older than {seen}: another worker has taken over",
                where=f"lease `{fence.target}`",
                mend="nothing more is done here; ./fleet flows.list shows where it goes on",
            )
        if fence.token > seen:
            temporary = file.with_suffix(".new")
            temporary.write_text(json.dumps(fence.token), encoding="ascii")
            temporary.replace(file)
