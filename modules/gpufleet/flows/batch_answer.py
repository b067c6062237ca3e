"""What the pod of a batch does: answers its shard by the engine beside it."""

import signal
import threading
from dataclasses import dataclass
from typing import Final

from gpufleet.core.batch_answers import answer, read, written
from gpufleet.core.batch_jobs import ShardKeys
from gpufleet.core.batch_requests import read_shard
from gpufleet.edges.batch_shard import Engine, Form, Shard
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.spec.errors import BadInput

FORM: Final = Form(requests=read_shard, answers=read, written=written, answer=answer)


@dataclass(frozen=True)
class Duty:
    """What a pod is told by its arguments; its keys for the store come by AWS' variables."""

    bucket: str
    batch: str
    index: int
    engine: str
    concurrency: int
    endpoint: str
    region: str


def duty_of(numbers: tuple[str, str], **texts: str) -> Duty:
    """The arguments of a pod as they may be.

    Args:
        numbers: index of the shard, and requests in flight, as text.
        texts: the others.

    Raises:
        BadInput: naming the option.
    """
    for option, text in zip(("--index", "--concurrency"), numbers, strict=True):
        if not text.isdecimal():
            raise BadInput("is not a whole number", where=f"{option} {text}")
    for name, text in texts.items():
        if not text:
            raise BadInput("is needed", where=f"--{name}")
    index, concurrency = (int(text) for text in numbers)
    return Duty(index=index, concurrency=max(1, concurrency), **texts)


def unanswered(duty: Duty) -> int:
    """Requests of the shard without an answer; changes nothing.

    Raises:
        Failed: there is no such shard.
        Retryable: the store does not answer.
    """
    return _shard(duty).left()


def answer_shard(duty: Duty) -> bool:
    """Answer a shard; told to end by SIGTERM, it keeps what it has, and returns False.

    Raises:
        Failed: there is no such shard.
        Retryable: store or engine do not answer.
    """
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    engine = Engine(duty.engine, duty.concurrency)
    return _shard(duty).answer(engine, told_to_end.is_set)


def _shard(duty: Duty) -> Shard:
    name = f"{duty.batch}-{duty.index}"
    store = ObjectStore(Place(duty.endpoint, duty.region))
    return Shard(name, store, duty.bucket, ShardKeys(duty.batch, duty.index), FORM)
