"""What a simulated engine answers: the same to the same prompt by the same revision, and marked."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

from gpufleet.local.engine.asked import Asked

FINGERPRINT: Final = "simulated"
"""`system_fingerprint` of every answer."""
_P95: Final = NormalDist().inv_cdf(0.95)
_MARK: Final = "[simulated]"
_TEXT: Final = (
    "the a of to and in is for on with as by at from it that this an be are was or not but all "
    "more one can time which when each other some than then its only into over also after our "
    "work first well way even new want because any these give day most us node rack site model "
    "token queue batch cache replica gateway request answer prompt limit budget latency window "
    "peak load spare power price memory weight layer head step chunk stream route pool wave "
    "drain probe alert metric trace error retry region fleet team owner record plan"
)
_WORDS: Final = tuple(_TEXT.split())


@dataclass(frozen=True)
class Lengths:
    """How long answers are where the client does not say: log-normal, by mean and 95th percentile.

    Of the two log-normals that have both, the narrower one.
    """

    mean_tokens: float
    p95_tokens: float

    def of(self, share: float) -> int:
        """The length that a share of the answers stays below, tokens; at least one."""
        ratio = max(1.0, self.p95_tokens / self.mean_tokens)
        sigma = _P95 - math.sqrt(max(0.0, _P95**2 - 2 * math.log(ratio)))
        mu = math.log(self.mean_tokens) - sigma**2 / 2
        return max(1, round(math.exp(mu + sigma * NormalDist().inv_cdf(share))))


@dataclass(frozen=True)
class Answer:
    """One answer, token by token."""

    tokens: Sequence[str]
    is_cut: bool
    """Whether it would have been longer without a limit."""

    @property
    def finish_reason(self) -> str:
        """`length` or `stop`, as OpenAI names them."""
        return "length" if self.is_cut else "stop"

    def text(self, begin: int = 0, end: int | None = None) -> str:
        """The text of some of its tokens."""
        return "".join(self.tokens[begin:end])


def answer_to(asked: Asked, digest: str, lengths: Lengths, variant: str = "") -> Answer:
    """The answer to a request.

    Args:
        asked: what was asked.
        digest: of the revision that answers: another revision answers otherwise.
        lengths: of answers whose length the client leaves open.
        variant: changes every answer, where it is not empty.
    """
    seed = hashlib.blake2b(f"{digest}\0{variant}\0{asked.prompt}".encode("utf-8", "replace"))
    number = int.from_bytes(seed.digest()[:16], "big")
    share = (number % 10_007 + 0.5) / 10_007
    natural = max(lengths.of(share), asked.least_tokens)
    count = min(natural, asked.max_tokens)
    stride = 2 * (number >> 16 & 0xFFFF) + 1
    begin = number >> 32 & 0xFFFF
    words = (f" {_WORDS[(begin + stride * at) % len(_WORDS)]}" for at in range(1, count))
    is_cut = natural > asked.max_tokens or asked.least_tokens == asked.max_tokens
    return Answer((_MARK, *words), is_cut)


@dataclass(frozen=True)
class Envelope:
    """What stands around the text in every message of one answer."""

    asked: Asked
    id: str
    model: str
    created: int

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer in one message."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish_reason}
        if self.asked.is_chat:
            choice["message"] = {"role": "assistant", "content": answer.text()}
        else:
            choice["text"] = answer.text()
        kind = "chat.completion" if self.asked.is_chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": self._usage(answer)}

    def part(self, text: str, *, finish_reason: str | None = None, first: bool = False) -> bytes:
        """One event of a stream; the first of a chat names the role."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
        if self.asked.is_chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": text}
        else:
            choice["text"] = text
        return event({**self._head(self._part_kind), "choices": [choice]})

    def usage_part(self, answer: Answer) -> bytes:
        """The event that ends a stream whose client wants the usage."""
        head = self._head(self._part_kind)
        return event({**head, "choices": [], "usage": self._usage(answer)})

    @property
    def _part_kind(self) -> str:
        return "chat.completion.chunk" if self.asked.is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def _usage(self, answer: Answer) -> dict[str, int]:
        prompt, output = self.asked.prompt_tokens, len(answer.tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        }


END_OF_STREAM: Final = b"data: [DONE]\n\n"


def event(message: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"
