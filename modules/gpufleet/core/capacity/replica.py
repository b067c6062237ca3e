"""A replica's speed and room, in the form that the simulator runs and every evidence gives."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

UNBOUNDED_TOKENS: Final = 2**62
"""KV cache of a replica whose memory nothing is known of."""


class Evidence(StrEnum):
    """What a replica's speed is known from, best first."""

    MEASURED_RATE = "measured-rate"
    MEASURED_POINTS = "measured-points"
    ROOFLINE = "roofline"


@dataclass(frozen=True)
class ReplicaSpeed:
    """One replica: an engine with continuous batching and chunked prefill.

    A step in which `n` sequences decode, `k` tokens stand in the KV cache, and `p` prompt tokens
    are prefilled behind `c` tokens of the same prompt takes::

        decode_s[n] + kv_token_s * k + prefill_token_s * p + attention_s * p * (c + p / 2)

    and gives `n` tokens. A prompt's last chunk gives its first token.
    """

    decode_s: tuple[float, ...]
    """Seconds of a step by the number of decoding sequences, from 0 to the concurrency limit."""
    kv_token_s: float
    """Seconds that each token of the KV cache adds to a step."""
    prefill_token_s: float
    """Seconds that each prompt token adds to the step that it is prefilled in."""
    attention_s: float
    """Seconds for each pair of a prompt token and a token before it."""
    first_token_s: float
    """Seconds that a request waits outside the steps: network, tokenizer, scheduling."""
    kv_capacity_tokens: int
    """Tokens that the KV cache holds."""
    chunk_tokens: int
    """Most tokens of a step, decoded and prefilled together (vLLM: max-num-batched-tokens)."""
    evidence: Evidence
    source: str
    """Where the numbers come from, as a person would cite it."""

    @property
    def concurrency_limit(self) -> int:
        """Most requests in flight."""
        return len(self.decode_s) - 1
