"""What a load teaches a capacity plan: points of a pool's speed, and how long replicas load."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

import yaml

from gpufleet.core.serving import PoolAtSite
from gpufleet.spec.errors import BadInput
from gpufleet.spec.evidence import MeasuredPoint, Measurement
from gpufleet.spec.serving_bench import LevelRow, LoadTime

FEWEST_ANSWERS: Final = 5
"""Of a level, for its mean to count."""
LENGTH_TOLERANCE: Final = 0.1
"""Mean answers may be this much shorter or longer than asked for: a point says one length."""
_HEAD: Final = """\
# Measured by `./fleet bench.serve --save`. A fleet file uses it by `include: [measured]`.
"""


def measurement(  # noqa: PLR0913 - what was measured, of what, when, by what
    pool: PoolAtSite,
    gpu_type: str,
    levels: Sequence[LevelRow],
    *,
    output_tokens: int,
    day: date,
    simulated: bool,
) -> Measurement:
    """Evidence of level 2 for a pool's revision on its GPUs.

    Args:
        pool: whose one replica was measured.
        gpu_type: name of its GPUs in the fleet file.
        levels: of a closed load.
        output_tokens: that were asked for.
        day: of the measurement.
        simulated: whether the engine is simulated; the source then says so first.

    Raises:
        BadInput: a level has failed requests, too few answers, or answers of other lengths.
    """
    points = [_point(row, output_tokens) for row in levels]
    what = (
        f"bench.serve on one replica of pool {pool.name} at {pool.site}: revision "
        f"{pool.model.digest}, engine {pool.model.engine.image}, {len(points)} levels held"
    )
    told = "SIMULATED engine, timed by gpufleet's own capacity model: " if simulated else ""
    return Measurement(
        model=pool.model_name,
        gpu_type=gpu_type,
        gpus_per_node=pool.gpus_per_node,
        nodes_per_replica=pool.nodes_per_replica,
        points=points,
        measured=day,
        source=f"{told}{what}",
    )


def _point(row: LevelRow, asked: int) -> MeasuredPoint:
    where = f"{row.in_flight} in flight"
    if row.failed:
        raise BadInput(f"{row.failed} of {row.requests} requests failed", where=where)
    if (
        row.requests < FEWEST_ANSWERS
        or row.ttft_s is None
        or row.tpot_s is None
        or row.prompt_tokens_mean is None
        or row.output_tokens_mean is None
    ):
        what = f"only {row.requests} answers; a point is the mean of {FEWEST_ANSWERS} at least"
        raise BadInput(what, where=where, mend="hold the levels longer: --duration-s")
    if abs(row.output_tokens_mean - asked) > LENGTH_TOLERANCE * asked:
        raise BadInput(
            f"answers had {row.output_tokens_mean:.0f} tokens, and {asked} were asked for",
            where=where,
            mend="the engine has to answer at full length: vLLM does with --whole-lengths",
        )
    return MeasuredPoint(
        prompt_tokens=max(1, round(row.prompt_tokens_mean)),
        output_tokens=round(row.output_tokens_mean),
        concurrency=int(row.in_flight),
        ttft_s=row.ttft_s.mean,
        tpot_s=row.tpot_s.mean,
    )


def block(name: str, made: Measurement) -> str:
    """A measurement as a fleet file has it below `measurements:`."""
    return _dumped({"measurements": {name: _plain(made)}})


def file_with(text: str, name: str, made: Measurement, *, where: str) -> str:
    """The file of measurements with one added, or put in place of one of the same name.

    Args:
        text: the file as it is; empty where there is none.
        name: of the measurement.
        made: the measurement.
        where: the file, for messages.

    Raises:
        BadInput: the file holds what this cannot write again.
    """
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"is not YAML: {str(error)[:200]}", where=where) from None
    measured = found.get("measurements", {}) if isinstance(found, dict) else None
    if not isinstance(measured, dict) or found.keys() - {"measurements"}:
        raise BadInput(
            "holds more than measurements, which a saved one would not keep",
            where=where,
            mend="move the rest into a shared part of its own",
        )
    return _HEAD + _dumped({"measurements": {**measured, name: _plain(made)}})


def load_times(pods: Iterable[Mapping[str, Any]]) -> list[LoadTime]:
    """From the start of each ready pod's engine to its readiness, by Kubernetes' whole seconds."""
    found = []
    for pod in pods:
        status = pod.get("status", {})
        ready = [
            each["lastTransitionTime"]
            for each in status.get("conditions") or []
            if each["type"] == "Ready"
            and each["status"] == "True"
            and each.get("lastTransitionTime")
        ]
        running = [
            each["state"]["running"]["startedAt"]
            for each in status.get("containerStatuses") or []
            if each["name"] == "engine" and each.get("state", {}).get("running")
        ]
        if ready and running:
            seconds = (_moment(ready[0]) - _moment(running[0])).total_seconds()
            found.append(LoadTime(pod=pod["metadata"]["name"], seconds=max(0.0, seconds)))
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _plain(made: Measurement) -> dict[str, Any]:
    plain = made.model_dump(exclude_none=True)
    plain["points"] = [dict(point) for point in plain["points"]]
    return plain


def _dumped(data: object) -> str:
    return yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True)
