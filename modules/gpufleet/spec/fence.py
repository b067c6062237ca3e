"""The proof that an operator still holds what it changes; edges ask for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fence:
    """A held lease: whoever meets a lower token for a target than it has seen refuses it."""

    target: str
    owner: str
    token: int
