"""How an attempt has ended, and whose doing it was."""

import asyncio
import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from gpufleet_gateway.answers import CLIENT_GONE, Refused
from gpufleet_gateway.exchange import Answer
from gpufleet_gateway.proxy import Reached

SERVER_ERROR: Final = 500
CLIENT_ERROR: Final = 400
_NOT_ITS_FAULT: Final = frozenset({401, 402, 403, 404, 408, 409, 429, CLIENT_GONE})
"""Answers of a hosted API, or of an engine, that are not the client's fault."""


class Verdict(Enum):
    """Whose doing an attempt's end was."""

    GOOD = auto()
    CLIENT_GONE = auto()
    AT_FAULT = auto()
    """The engine finds fault with the request."""
    UNSENT = auto()
    """LiteLLM does, and has sent it to nobody: no other target would see it either."""
    FAILED = auto()
    """The target has failed."""


@dataclass(frozen=True)
class Ending:
    """An attempt that is over, or that is not waited for any more."""

    answer: Answer
    task: asyncio.Task[None]
    reached: Reached
    client_gone: bool

    @property
    def verdict(self) -> Verdict:
        """Whose doing it was."""
        task = self.task
        broken = not task.done() or task.cancelled() or task.exception() is not None
        if not broken and self.answer.good:
            return Verdict.GOOD
        if self.client_gone:
            return Verdict.CLIENT_GONE
        if task.done() and not task.cancelled() and not self.reached.opened:
            return Verdict.UNSENT
        if not broken and _is_clients_fault(self.answer.status):
            return Verdict.AT_FAULT
        return Verdict.FAILED

    @property
    def failure(self) -> str:
        """How a target has failed, in a few words."""
        if not self.task.done():
            return "timeout"
        if self.task.cancelled():
            return "hung"
        return self.answer.error or f"status {self.answer.status}"

    @property
    def fault(self) -> Refused:
        """What is said of a request that is at fault, without whose words they are."""
        try:
            error = json.loads(b"".join(self.answer.content))["error"]
            message = str(error["message"])
        except (ValueError, KeyError, TypeError):
            message = "The request is not acceptable."
        for marker in ("OpenAIException - ", "Exception - "):
            message = message.rpartition(marker)[2]
        message = message.partition("\n\nLiteLLM: ")[0]
        status = self.answer.status if _is_clients_fault(self.answer.status) else CLIENT_ERROR
        return Refused(status, "invalid_request", message[:1000])


def _is_clients_fault(status: int) -> bool:
    return CLIENT_ERROR <= status < SERVER_ERROR and status not in _NOT_ITS_FAULT
