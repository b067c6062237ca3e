"""A pool of replicas with continuous batching, simulated event by event; the same every time.

What it does at each replica, as vLLM does: decoding goes on in every step, prompts are prefilled in
chunks with the tokens that the step has left, in the order of arrival; whoever finds no place
waits, first in first out, and nobody overtakes. A request goes to the replica with the fewest
requests in flight and queued, as the gateway sends it.

A request gets its place where the KV cache has room for prompt and whole answer. vLLM admits with
room for the prompt alone, and computes some requests again when the cache runs over: reserving the
whole is the careful side, since it waits where vLLM would do work twice.
"""

import math

import numpy as np

from gpufleet.core.capacity.replica import ReplicaSpeed
from gpufleet.core.capacity.requests import FAILED, SERVED, Limits, Outcome, Requests


def simulate(requests: Requests, speed: ReplicaSpeed, replicas: int, limits: Limits) -> Outcome:
    """What becomes of requests at a pool of equal replicas.

    A request whose prompt and answer are larger than the whole KV cache fails.

    Args:
        requests: in the order of their arrival; lengths of at least one token.
        speed: of one replica.
        replicas: at least 1.
        limits: of the pool.
    """
    # Numba takes half a second to import, which only those pay who simulate.
    from gpufleet.core.capacity import kernel  # noqa: PLC0415

    def _line(size: int) -> kernel.Line:
        return kernel.Line(np.empty(size, kernel.TURN), np.zeros(2, np.int64))

    count = len(requests)
    if not count:
        nothing = np.empty(0)
        return Outcome(requests, np.empty(0, np.int64), nothing, nothing, nothing, 0.0)
    width = speed.concurrency_limit
    leaves = 2 ** max(1, math.ceil(math.log2(replicas)))
    state = kernel.State(
        replicas=np.zeros(replicas, kernel.REPLICA),
        slots=np.zeros((replicas, width), kernel.SLOT),
        leaves=np.zeros(leaves, kernel.LEAF),
        by_end=_tree(leaves),
        by_load=_tree(leaves),
        requests=np.zeros(count, kernel.REQUEST),
    )
    state.leaves["end_s"] = np.inf
    state.leaves["load"][replicas:] = np.iinfo(np.int64).max
    state.requests["arrival_s"] = requests.arrival_s
    state.requests["prompt"] = requests.prompt_tokens
    state.requests["output"] = requests.output_tokens
    state.requests["status"] = FAILED
    for column in ("e2e_s", "ttft_s", "wait_s"):
        state.requests[column] = np.nan
    kernel.run(
        kernel.Engine(
            decode_s=np.array(speed.decode_s, float),
            kv_token_s=float(speed.kv_token_s),
            prefill_token_s=float(speed.prefill_token_s),
            attention_s=float(speed.attention_s),
            first_token_s=float(speed.first_token_s),
            kv_capacity_tokens=int(speed.kv_capacity_tokens),
            chunk_tokens=int(speed.chunk_tokens),
            queue_limit=int(limits.queue_limit),
            timeout_s=float(limits.timeout_s),
            retries=int(limits.retries),
            retry_after_s=float(limits.retry_after_s),
        ),
        state,
        kernel.Lines(
            again=_line(count if limits.retries else 1),
            patience=_line(count if limits.timeout_s < math.inf else 1),
        ),
    )
    ended = state.requests
    lost = ended["status"] != SERVED
    ended["ttft_s"][lost] = ended["wait_s"][lost] = np.nan
    span_s = requests.arrival_s[-1] - requests.arrival_s[0]
    busy_s = float(state.replicas["busy_s"].sum())
    return Outcome(
        requests=requests,
        status=ended["status"].astype(np.int64),
        e2e_s=ended["e2e_s"].copy(),
        ttft_s=ended["ttft_s"].copy(),
        wait_s=ended["wait_s"].copy(),
        busy_share=busy_s / (replicas * span_s) if span_s > 0 else 0.0,
    )


def _tree(leaves: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A tournament tree whose leaves are all equal: the lowest index stands in every node."""
    tree = np.concatenate([np.zeros(leaves, np.int64), np.arange(leaves)])
    for node in range(leaves - 1, 0, -1):
        tree[node] = tree[2 * node]
    return tree
