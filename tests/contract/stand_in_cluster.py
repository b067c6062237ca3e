"""A cluster that stands in for a real one, where only what is made and removed matters."""

from dataclasses import dataclass, field
from typing import Any

from gpufleet.spec.errors import Retryable


@dataclass
class StandIn:
    """A cluster that keeps objects by their path; with its namespace goes what is in it."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_silent: bool = False
    at_once: list[str] = field(default_factory=list)
    """What was deleted without a grace."""
    held: set[str] = field(default_factory=set)
    """What does not go otherwise, and keeps its namespace."""
    doomed: set[str] = field(default_factory=set)
    """What goes as soon as it may."""

    def get(self, path: str) -> dict[str, Any] | None:
        if self.is_silent:
            raise Retryable("does not answer")
        return self.objects.get(path)

    def apply(self, path: str, body: dict[str, Any]) -> None:
        self.objects[path] = body

    def items(self, path: str, *, labels: str = "") -> list[dict[str, Any]]:
        wanted = dict(each.split("=") for each in labels.split(",") if each)
        return [
            each
            for at, each in self.objects.items()
            if at.rpartition("/")[0] == path
            and wanted.items() <= each["metadata"].get("labels", {}).items()
        ]

    def create(self, path: str, body: dict[str, Any]) -> bool:
        at = f"{path}/{body['metadata']['name']}"
        return self.objects.setdefault(at, body) is body

    def delete(self, path: str, *, at_once: bool = False) -> None:
        if at_once:
            self.at_once.append(path)
            self.held.discard(path)
        self.doomed.add(path.removeprefix("/api/v1"))
        self.objects = {p: each for p, each in self.objects.items() if self._stays(p)}
        if not self.held:
            self.doomed.clear()

    def _stays(self, path: str) -> bool:
        is_doomed = any(gone in path for gone in self.doomed)
        return not is_doomed or any(each.startswith(path) for each in self.held)

    def merge(self, path: str, body: dict[str, Any]) -> None:
        for part, content in body.items():
            self.objects.setdefault(path, {}).setdefault(part, {}).update(content)

    def close(self) -> None:
        """Nothing is open."""
