"""Weights of a pool's pod: where they come from, and what bringing them came to."""

from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """How weights come to a pod."""

    THERE = "there"
    """An earlier run brought them, and nobody has touched them since."""
    CACHE = "cache"
    """By a link to the tree in the node's cache."""
    STORE = "store"
    """From the object store."""


@dataclass(frozen=True)
class WeightsPlan:
    """What bringing weights would do."""

    snapshot: str
    revision: str
    digest: str
    to: str
    way: Way
    """By the paths and lengths of what is in the cache; its bytes are not read for a plan."""
    files: int
    bytes_total: int


@dataclass(frozen=True)
class WeightsReport:
    """What bringing weights came to; every byte of them was verified."""

    snapshot: str
    revision: str
    digest: str
    to: str
    way: Way
    files: int
    bytes_total: int
    bytes_fetched: int
    """Read from the store."""
    bytes_local: int
    """Taken from what was there: the cache, or an interrupted run."""
    seconds: float
    cache: str = ""
    """Why the cache's tree was not used; empty where it was, or none was asked for."""
