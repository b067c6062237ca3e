"""What one request leaves behind: its audit record and its metrics."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from gpufleet.core.gateway.audit import salted
from gpufleet.core.gateway.ladder import Way
from gpufleet.spec.gateway import Route
from gpufleet_gateway.answers import CLIENT_GONE

_OK: Final = 200
_SERVER_ERROR: Final = 500


class Log(Protocol):
    """Where records go: `gpufleet.edges.audit_log.AuditLog`."""

    def begin(self, request_id: str, opening: dict[str, Any]) -> None:
        """Note that a request has come."""

    def end(self, request_id: str, closing: dict[str, Any]) -> object:
        """Write its record."""

    def missed(self, opening: dict[str, Any], *, served: bool = True) -> None:
        """Count one that cannot be recorded."""

    def refused(self, opening: dict[str, Any]) -> None:
        """Count one more that was refused since nobody was recognized."""


@dataclass
class Record:
    """One request's facts, put in as they become known."""

    request_id: str
    began_s: float = field(default_factory=time.monotonic)
    at_s: float = field(default_factory=time.time)
    key_id: str = ""
    team: str = ""
    use_case: str = ""
    route: Route | None = None
    """Of the use case; None where there is none."""
    prompt: str = ""
    answer: str = ""
    model: str = ""
    digest: str = ""
    way: str = Way.NONE.value
    reason: str = ""
    replica: str = ""
    status: int = 0
    error: str = ""
    limited: bool = False
    """Whether it was refused for what the caller did, and not for want of service."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float | None = None
    cost: Decimal = Decimal(0)
    begun: bool = False
    """Whether the audit log knows of it."""
    missed: bool = False
    """Whether it was counted as a gap, for it can have no record."""

    def opening(self, salt: bytes) -> dict[str, Any]:
        """What is known when its work begins."""
        return {
            "at": datetime.fromtimestamp(self.at_s, UTC).isoformat(timespec="milliseconds"),
            "key_id": self.key_id,
            "team": self.team,
            "use_case": self.use_case,
            "prompt_hash": salted(salt, self.prompt),
            **({"data_class": self.route.data_class.value} if self.route else {}),
        }

    def closing(self, salt: bytes) -> dict[str, Any]:
        """What is known when it has ended."""
        content = {}
        if self.route is not None and self.route.content_kept:
            content = {"prompt": self.prompt, "answer": self.answer}
        return {
            "model": self.model,
            "digest": self.digest,
            "route": self.way,
            "reason": self.reason,
            "replica": self.replica,
            "status": self.status,
            "error": self.error,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "ttft_s": self.ttft_s,
            "latency_s": round(time.monotonic() - self.began_s, 6),
            "cost": str(self.cost),
            "answer_hash": salted(salt, self.answer),
            **content,
        }

    @property
    def outcome(self) -> str:
        """As `series.REQUESTS` counts it."""
        if self.status == CLIENT_GONE:
            return "cancelled"
        if self.status == _OK:
            return "error" if self.error else "ok"
        if self.status >= _SERVER_ERROR:
            return "error"
        return "limited" if self.limited else "refused"
