"""What playbooks need to reach hosts and their controllers, kept of whoever runs `up`.

The worker inherits no variable of its caller; and it is not started anew for these.
"""

import os
from collections.abc import Mapping
from typing import Final

from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.local.files import read_json, write_json

_VARIABLES: Final = ("SSH_AUTH_SOCK", "GPUFLEET_BMC_USER", "GPUFLEET_BMC_PASSWORD")
_FILE: Final = "host-access.json"


def keep_host_access(state: EnvironmentDir, given: Mapping[str, str]) -> None:
    """Keep the socket of the SSH agent, and user and password of controllers, in a private file.

    Args:
        state: of the environment.
        given: the caller's variables; of those that it does not have, the last ones stay.
    """
    found = {name: given[name] for name in _VARIABLES if given.get(name)}
    if found:
        write_json(state.root / _FILE, {**(read_json(state.root / _FILE) or {}), **found})


def host_access(state: EnvironmentDir) -> dict[str, str]:
    """What was kept, without what this process has of its own."""
    kept = read_json(state.root / _FILE) or {}
    return {name: value for name, value in kept.items() if not os.environ.get(name)}
