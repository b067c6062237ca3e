"""Prometheus' own promtool: whether a configuration and its rules are sound."""

import subprocess
from pathlib import Path

from gpufleet.spec.errors import Failed


def check_config(promtool: Path, config: Path) -> None:
    """Check a configuration with every file that it names, rules among them.

    Raises:
        Failed: with what promtool says.
    """
    told = subprocess.run(
        [promtool, "check", "config", config],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise Failed(f"promtool refuses it: {told.stdout}{told.stderr}", where=str(config))
