"""Facts about the machine that gpufleet runs on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What was seen of a machine."""

    python: tuple[int, int]
    go: tuple[int, int] | None
    engines_missing: tuple[str, ...]
    engines_from_path: tuple[str, ...]
    cache_free_bytes: int
    state_free_bytes: int
    cache_writable: bool
    state_writable: bool
    memory_free_bytes: int
    loopback_block: bool
    """Whether a server can listen on 127.77.0.1: all of 127.0.0.0/8 is this machine's."""
    time_zones: bool
    ssh_keygen: bool
    sites: int
