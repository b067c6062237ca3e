"""What a simulated replica is: model, speed, room; kept in a file, and read when it starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gpufleet.core.capacity.replica import Evidence, ReplicaSpeed
from gpufleet.core.serving import Probe
from gpufleet.local.engine.answers import Lengths
from gpufleet.local.engine.series import TODAY
from gpufleet.local.files import read_json, write_rows

ENGINES_FILE: Final = "engines.json"
STAND_IN_TOKENS: Final = 1_000_000
"""KV cache of a replica of which nothing is known."""


@dataclass(frozen=True)
class EngineSpec:
    """What the fleet file makes of the replicas of a pool on a node group."""

    speed: ReplicaSpeed
    load_s: float
    """From the start of the process to the first token."""
    lengths: Lengths


@dataclass(frozen=True)
class EngineSettings:
    """One engine, as it starts."""

    model: str
    digest: str
    concurrency_limit: int
    context_tokens: int
    """Longest prompt and answer together."""
    spec: EngineSpec
    metric_names: str = TODAY
    """The vLLM version by whose names it tells its series."""


@dataclass(frozen=True)
class Probes:
    """When a replica that does not answer is taken out, and when it is started again."""

    startup: Probe
    readiness: Probe
    liveness: Probe


def probe_budget(declared: dict[str, int] | None, otherwise: Probe) -> Probe:
    """A probe of a pod's container, as Kubernetes fills it in.

    Args:
        declared: the container's probe; None where it has none.
        otherwise: then.
    """
    if declared is None:
        return otherwise
    return Probe(
        declared.get("periodSeconds", otherwise.period_s),
        declared.get("timeoutSeconds", otherwise.timeout_s),
        declared.get("failureThreshold", otherwise.failures),
    )


def stand_in(limit: int, why: str) -> ReplicaSpeed:
    """The speed of a replica of which nothing is known: 20 ms a step, 0.1 ms a prompt token.

    About a model of 8e9 parameters on one GPU of the H100's kind; nothing is planned with it.
    """
    return ReplicaSpeed(
        decode_s=tuple(0.02 + 0.0002 * count for count in range(limit + 1)),
        kv_token_s=0.0,
        prefill_token_s=0.0001,
        attention_s=0.0,
        first_token_s=0.01,
        kv_capacity_tokens=STAND_IN_TOKENS,
        chunk_tokens=8192,
        evidence=Evidence.ROOFLINE,
        source=f"a stand-in: {why}",
    )


def write_engines(
    folder: Path, engines: Mapping[tuple[str, str], EngineSpec], *, only: str = ""
) -> bool:
    """Keep what replicas are, by pool and node group; False if it was just that already.

    Args:
        folder: of the site.
        engines: of each pool and node group.
        only: how the names of the pools begin that are told of; all others stay as they are.
    """
    rows = [
        {"pool": pool, "node_group": group, **asdict(spec)}
        for (pool, group), spec in engines.items()
    ]
    return write_rows(folder / ENGINES_FILE, rows, only)


class EngineFile:
    """What replicas are, read again when it was written anew."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / ENGINES_FILE
        self._read: tuple[int, int] | None = None
        self._engines: dict[tuple[str, str], EngineSpec] = {}

    def of(self, pool: str, group: str) -> EngineSpec | None:
        """What a replica of a pool on a node group is; None where nobody wrote it."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        if (found.st_mtime_ns, found.st_ino) != self._read:
            rows: list[dict[str, Any]] = read_json(self._file) or []
            self._engines = {(row["pool"], row["node_group"]): _spec(row) for row in rows}
            self._read = (found.st_mtime_ns, found.st_ino)
        return self._engines.get((pool, group))


def _spec(row: dict[str, Any]) -> EngineSpec:
    speed = row["speed"]
    return EngineSpec(
        speed=ReplicaSpeed(
            **{
                **speed,
                "decode_s": tuple(speed["decode_s"]),
                "evidence": Evidence(speed["evidence"]),
            }
        ),
        load_s=row["load_s"],
        lengths=Lengths(**row["lengths"]),
    )
