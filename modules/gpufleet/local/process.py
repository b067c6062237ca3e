"""What the supervisor has to know of one process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Process:
    """One process under the supervisor.

    `ready` is a URL that answers 200 once it serves; None for a step that runs once and ends.
    `after` names processes of the same site, or `SITE.PROCESS` of another. `reads` are the files
    that it reads at its start only: a change in one starts it anew. `environment` holds
    `NAME=value` for each variable that it gets beside the supervisor's own.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    ready: str | None = None
    reads: tuple[Path, ...] = ()
    environment: tuple[str, ...] = ()
