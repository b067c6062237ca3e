"""Recording the requests of a batch, and keeping the records where those of the gateway are."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Final

from gpufleet.core.batch_records import Served
from gpufleet.core.gateway.audit import segment_of
from gpufleet.core.gateway.routes import routes_of
from gpufleet.core.serving import PoolAtSite
from gpufleet.edges.clock import system_clock
from gpufleet.flows.audit_shipping import audit_stores, keep_segment
from gpufleet.flows.ground import Ground
from gpufleet.spec.batches import BatchOrder
from gpufleet.spec.errors import Failed

_SEGMENT_RECORDS: Final = 10_000
_SALT_FILE: Final = "salt"


def served_by(ground: Ground, order: BatchOrder, pool: PoolAtSite) -> Served:
    """What answers a batch, as its records say it."""
    planned = routes_of(ground.fleet).pools.get(order.pool)
    return Served(
        data_class=ground.fleet.use_cases[order.use_case].data_class,
        model=pool.model_name,
        digest=pool.model.digest,
        cost_per_million_tokens=(planned and planned.cost_per_million_tokens) or Decimal(0),
        salt=_salt(ground),
    )


def keep_records(ground: Ground, order: BatchOrder, lines: Iterable[bytes]) -> int:
    """Bring records to the object stores, locked; returns how many. The same again add nothing.

    Raises:
        Retryable: no store takes them.
        Failed: they may be kept nowhere.
    """
    stores, count = audit_stores(ground), 0
    for part in _parts(lines):
        segment = segment_of(part)
        if segment is None:
            raise Failed("its records cannot be read", where=f"batch {order.id}")
        content = b"".join(line + b"\n" for line in part)
        keep_segment(ground, stores, segment, content, system_clock())
        count += len(part)
    return count


def _parts(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    left = iter(lines)
    while part := list(islice(left, _SEGMENT_RECORDS)):
        yield part


def _salt(ground: Ground) -> bytes | None:
    """The gateway's, where it runs beside this worker; None elsewhere."""
    file = ground.state.gateway / _SALT_FILE
    return file.read_bytes().strip() if file.is_file() else None
