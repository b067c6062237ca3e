"""Load on a gateway, a replica, or any OpenAI endpoint, and what it tells of their speed."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.observed import is_ready
from gpufleet.core.serving import ENGINE_PORT, PoolAtSite, pools_at
from gpufleet.core.serving_bench import evidence
from gpufleet.core.serving_bench.prompts import Prompts
from gpufleet.core.serving_bench.results import (
    Targets,
    level,
    observed_levels,
    summary,
    vegeta_lines,
)
from gpufleet.core.serving_bench.schedule import Arrivals, arrivals_of, sendings
from gpufleet.edges.load_generator import CHAT, Levels, Load, Target, closed_load, open_load
from gpufleet.edges.whole_files import write_whole
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.gateway_answers import address_of
from gpufleet.flows.recorded import trace_of
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, FleetError, Retryable, TargetMissed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.load import load_declared
from gpufleet.spec.serving import Tokens
from gpufleet.spec.serving_bench import (
    BenchReport,
    LevelRow,
    LoadProgress,
    LoadTime,
    SavedMeasurement,
    Sending,
)

KEY_VARIABLE: Final = "GPUFLEET_API_KEY"
MEASURED: Final = "measured"
"""Name of the shared part that saved measurements stand in."""
DEFAULT_LEVELS: Final = (1, 4, 16, 64)
_MOST_IN_FLIGHT: Final = 4096
_LONGEST_LEVEL_S: Final = 3600.0


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line; empty where it was left out."""

    url: str = ""
    pool: str = ""
    site: str = ""
    use_case: str = ""
    model: str = ""
    rate: str = ""
    duration_s: str = ""
    arrivals: str = ""
    concurrency: str = ""
    prompt_tokens: str = ""
    output_tokens: str = ""
    stream_share: str = ""
    slo_p95_s: str = ""
    slo_ttft_s: str = ""
    timeout_s: str = ""
    seed: str = ""
    key_file: str = ""
    ca_file: str = ""
    whole_lengths: bool = False
    save: str = ""
    requests_file: str = ""


@dataclass(frozen=True)
class Subject:
    """A pool whose one replica is measured, and its replicas' load times."""

    fleet: Fleet
    pool: PoolAtSite
    url: str
    load_times: list[LoadTime] = field(default_factory=list)

    @property
    def simulated(self) -> bool:
        """Whether its engines are simulated."""
        return isinstance(self.fleet.sites[self.pool.site].cluster, EmbeddedCluster)


@dataclass(frozen=True)
class Order:
    """A load, understood: open where there is an arrival process, else closed."""

    target: Target
    tokens: Tokens
    duration_s: float
    targets: Targets
    seed: int
    arrivals: Arrivals | None
    rate_rps: float
    stream_share: float
    levels: tuple[int, ...]
    subject: Subject | None
    save: str
    requests_file: Path | None
    """Every request as a line of JSON that `vegeta report` reads."""


def order_of(workspace: Workspace, fleet_file: Path | None, asked: Asked) -> Order:
    """Understand a load before anything is sent.

    Args:
        workspace: the clone.
        fleet_file: the fleet, where a use case, a pool or `save` is named.
        asked: the options.

    Raises:
        BadInput: an option, with what would be right.
        Failed: the embedded gateway, which a use case alone means, was never up.
        Retryable: the cluster of the pool does not answer.
    """
    fleet = load_fleet(fleet_file) if fleet_file else None
    use_case = None
    if fleet is not None and asked.use_case:
        if asked.use_case not in fleet.use_cases:
            raise _unknown(asked.use_case, "--use-case", "use case", list(fleet.use_cases))
        use_case = fleet.use_cases[asked.use_case]
    subject = _subject(workspace, fleet, asked) if fleet is not None and asked.pool else None
    url, authority = _endpoint(workspace, fleet, asked, subject)
    model = asked.model or (subject.pool.model_name if subject else asked.use_case)
    if not model:
        raise BadInput("needs --model NAME or --use-case NAME", mend="the model that is asked for")
    closed = bool(asked.concurrency) or (subject is not None and not asked.rate)
    if closed and (asked.rate or asked.arrivals):
        raise BadInput(
            "a load has either a rate or numbers of requests in flight",
            where="--concurrency",
            mend="leave out --rate and --arrivals, or --concurrency",
        )
    if asked.save and not (closed and subject is not None):
        raise BadInput(
            "only levels that were held at one replica of a pool are evidence",
            where="--save",
            mend="give --pool NAME and --concurrency 1,4,16",
        )
    tokens = _tokens(asked, use_case.tokens if use_case else None)
    rate = _number(asked.rate, "--rate", 1e5) if asked.rate else 0.0
    return Order(
        target=Target(
            url=_base(url),
            model=model,
            key=_key(asked.key_file),
            ca_file=Path(authority) if authority else None,
            timeout_s=_number(asked.timeout_s or "600", "--timeout-s", 86_400),
            whole_lengths=asked.whole_lengths or (closed and subject is not None),
        ),
        tokens=tokens,
        duration_s=_number(
            asked.duration_s or ("20" if closed else "60"),
            "--duration-s",
            _LONGEST_LEVEL_S if closed else 86_400,
        ),
        targets=Targets(
            _optional(asked.slo_p95_s, "--slo-p95-s") or (use_case.slo.p95_s if use_case else None),
            _optional(asked.slo_ttft_s, "--slo-ttft-s")
            or (use_case.slo.ttft_p95_s if use_case else None),
        ),
        seed=_whole(asked.seed or "1", "--seed", 2**31),
        arrivals=None if closed else arrivals_of(asked.arrivals or "poisson"),
        rate_rps=rate or (use_case.traffic.rate_rps if use_case else 1.0),
        stream_share=_share(asked.stream_share or "0.33", "--stream-share"),
        levels=_levels(asked.concurrency, subject) if closed else (),
        subject=subject,
        save=asked.save,
        requests_file=_new_file(asked.requests_file),
    )


def run_load(order: Order, on_progress: Callable[[LoadProgress], None]) -> BenchReport:
    """Send it all, and report; Ctrl-C ends it with what was measured.

    Raises:
        BadInput: the trace, or the certificate authority's file.
        Retryable: nothing was answered.
    """
    begun = datetime.now(UTC)
    prompts = Prompts(order.seed)
    levels: list[LevelRow]
    if order.arrivals is not None:
        trace = trace_of(Path(order.arrivals.file)) if order.arrivals.file else None
        planned = sendings(
            order.arrivals,
            rate_rps=order.rate_rps,
            duration_s=order.duration_s,
            tokens=order.tokens,
            stream_share=order.stream_share,
            seed=order.seed,
            trace=trace,
        )
        load = open_load(order.target, planned, prompts.text, on_progress)
        levels = observed_levels(load.outcomes)
        duration_s = load.elapsed_s if load.interrupted else order.duration_s
        counted = load.outcomes
    else:
        load, held = closed_load(
            order.target,
            Levels(order.levels, _fixed(order.tokens), order.duration_s),
            prompts.text,
            on_progress,
        )
        levels = [level(str(each.concurrency), each.outcomes, each.held_s) for each in held]
        duration_s = load.elapsed_s
        counted = [outcome for each in held for outcome in each.outcomes]
    _demand_answers(order, load)
    if order.requests_file:
        lines = vegeta_lines(
            load.outcomes, begun, url=f"{order.target.url}{CHAT}", name=order.target.model
        )
        write_whole(order.requests_file, "".join(f"{line}\n" for line in lines))
    subject = order.subject
    return BenchReport(
        url=order.target.url,
        model=order.target.model,
        mode="closed" if order.arrivals is None else "open",
        begun=begun.isoformat(timespec="seconds"),
        arrivals=str(order.arrivals or ""),
        rate_rps=order.rate_rps if order.arrivals else None,
        duration_s=duration_s,
        interrupted=load.interrupted,
        seed=order.seed,
        levels=levels,
        load_times=subject.load_times if subject else [],
        server=load.server,
        simulated=(subject is not None and subject.simulated) or "(simulated)" in load.server,
        cpu_share=load.cpu_share,
        **summary(counted, duration_s, order.targets),
    )


def demand_kept(report: BenchReport) -> None:
    """Say so where the load was not what was declared, or the targets were missed.

    Raises:
        TargetMissed: the one or the other.
    """
    if not report.kept_up:
        raise TargetMissed(
            f"the generator could not keep up: {report.late} of {report.requests} requests were "
            f"sent too late, by up to {report.late_worst_s:.2f} s",
            mend="lower --rate, or run it on a machine of its own; latencies are from the time at "
            "which a request was due, so that they are too long rather than too short",
        )
    if report.slo_kept is False:
        raise TargetMissed(
            f"the targets were not kept: {report.within_slo:.1%} of the requests were answered "
            "within them"
        )


def save(order: Order, report: BenchReport, fleet_file: Path, *, apply: bool) -> SavedMeasurement:
    """Keep a measurement beside the fleet file, in a part of its own; nothing without `apply`.

    Raises:
        BadInput: the load is no evidence, or the name is taken.
    """
    subject = order.subject
    assert subject is not None  # noqa: S101 - `order_of` has demanded it
    if report.interrupted:
        raise BadInput("a load that was interrupted is no evidence", where="--save")
    made = evidence.measurement(
        subject.pool,
        subject.fleet.node_groups[subject.pool.group_name].gpu_type,
        report.levels,
        output_tokens=_fixed(order.tokens).output_tokens,
        day=datetime.fromisoformat(report.begun).date(),
        simulated=report.simulated,
    )
    file = fleet_file.parent / "shared" / f"{MEASURED}.yaml"
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    text = evidence.file_with(before, order.save, made, where=str(file))
    declared, document = load_declared(fleet_file)
    included = MEASURED in document.data.get("include", [])
    path = ("measurements", order.save)
    if order.save in declared.measurements and document.positions[path].file != str(file):
        raise BadInput(
            f"there is a measurement `{order.save}` already",
            where=str(document.positions[path]),
            mend="take another name",
        )
    if apply:
        file.parent.mkdir(exist_ok=True)
        write_whole(file, text)
    return SavedMeasurement(
        file=str(file),
        name=order.save,
        block=evidence.block(order.save, made),
        written=apply,
        include_missing=not included,
    )


def _endpoint(
    workspace: Workspace, fleet: Fleet | None, asked: Asked, subject: Subject | None
) -> tuple[str, str]:
    """Address and authority's file: as they are given, of a replica, or of the embedded gateway."""
    if asked.url or subject:
        return asked.url or (subject.url if subject else ""), asked.ca_file
    if fleet is not None and asked.use_case and embedded_sites(fleet):
        gateway = address_of(workspace.for_fleet(fleet))
        return gateway.url, asked.ca_file or str(gateway.authority)
    raise BadInput("needs --url URL or --pool NAME", mend="see ./fleet --help bench.serve")


def _subject(workspace: Workspace, fleet: Fleet, asked: Asked) -> Subject:
    if asked.pool not in fleet.pools:
        raise _unknown(asked.pool, "--pool", "pool", list(fleet.pools))
    found = [
        pool
        for site in fleet.sites
        if asked.site in {"", site}
        for pool in pools_at(fleet, site)
        if pool.name == asked.pool
    ]
    if not found:
        raise _unknown(asked.site, "--site", f"site of pool {asked.pool}", list(fleet.sites))
    pool = found[0]
    if asked.url:
        return Subject(fleet, pool, asked.url)
    if not isinstance(fleet.sites[pool.site].cluster, EmbeddedCluster):
        raise BadInput(
            f"a pod of {pool.site} cannot be reached from here",
            where="--pool",
            mend=f"kubectl port-forward POD {ENGINE_PORT}, and give its address with --url beside",
        )
    cluster = cluster_of(fleet, workspace.for_fleet(fleet), pool.site)
    try:
        pods = cluster.items("/api/v1/pods", labels=f"{names.POOL}={pool.name}")
    finally:
        cluster.close()
    ready = [pod for pod in pods if is_ready(pod) and _serves(pod)]
    if not ready:
        raise Retryable(
            "has no ready replica", where=f"pool {pool.name} at {pool.site}", mend="./fleet status"
        )
    address = ready[0]["status"]["podIP"]
    return Subject(fleet, pool, f"http://{address}:{ENGINE_PORT}/v1", evidence.load_times(ready))


def _serves(pod: dict[str, dict[str, dict[str, str]]]) -> bool:
    """Whether a pod answers requests: a replica over several nodes does so at its first."""
    return pod["metadata"]["labels"].get(names.WORKER_INDEX, "0") == "0"


def _demand_answers(order: Order, load: Load) -> None:
    if load.outcomes and all(each.error for each in load.outcomes):
        kinds = sorted({each.error for each in load.outcomes})
        raise Retryable(
            f"not one of {len(load.outcomes)} requests was answered: {', '.join(kinds)}",
            where=order.target.url,
            mend="is it the right address, model and key? http_401 is a key that is not accepted",
        )


def _fixed(tokens: Tokens) -> Sending:
    """A request of the mean lengths, streamed."""
    return Sending(0.0, round(tokens.prompt_mean), round(tokens.output_mean), streamed=True)


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")) or "@" in url:
        raise BadInput(
            "is not an address such as http://127.0.0.1:4000", where="--url", mend="see --help"
        )
    trimmed = url.rstrip("/")
    return trimmed if trimmed.endswith("/v1") else f"{trimmed}/v1"


def _key(file: str) -> str:
    if not file:
        return os.environ.get(KEY_VARIABLE, "").strip()
    try:
        key = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read: {error}", where=file) from None
    if not key or any(character.isspace() for character in key):
        raise BadInput("has to hold one key, and nothing else", where=file)
    return key


def _new_file(text: str) -> Path | None:
    if not text:
        return None
    file = Path(text)
    if not file.parent.is_dir() or file.is_dir():
        raise BadInput("is no file that can be written", where=f"--requests-file {text:.200}")
    return file


def _tokens(asked: Asked, known: Tokens | None) -> Tokens:
    prompt = _lengths(asked.prompt_tokens, "--prompt-tokens")
    output = _lengths(asked.output_tokens, "--output-tokens")
    if known is None:
        prompt, output = prompt or (500.0, 500.0), output or (100.0, 100.0)
    prompt_mean, prompt_p95 = prompt or (known.prompt_mean, known.prompt_p95)  # type: ignore[union-attr]
    if output is None and known is not None:
        output_mean, output_p95, output_max = known.output_mean, known.output_p95, known.output_max
    else:
        output_mean, output_p95 = output or (100.0, 100.0)
        output_max = math.ceil(output_p95 if output_p95 <= output_mean else 4 * output_p95)
    return Tokens(
        prompt_mean=prompt_mean,
        prompt_p95=prompt_p95,
        output_mean=output_mean,
        output_p95=output_p95,
        output_max=output_max,
    )


def _lengths(text: str, flag: str) -> tuple[float, float] | None:
    """`MEAN` for equal lengths, or `MEAN:P95`."""
    if not text:
        return None
    mean, _, p95 = text.partition(":")
    return _number(mean, flag, 1e6), _number(p95 or mean, flag, 1e6)


def _levels(text: str, subject: Subject | None) -> tuple[int, ...]:
    if text:
        parts = text.split(",")
        return tuple(_whole(part, "--concurrency", _MOST_IN_FLIGHT) for part in parts)
    most = subject.pool.concurrency_limit if subject else DEFAULT_LEVELS[-1]
    return tuple(each for each in DEFAULT_LEVELS if each <= most)


def _number(text: str, flag: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise BadInput(f"`{text:.40}` is not a number above 0, up to {most:g}", where=flag)
    return value


def _optional(text: str, flag: str) -> float | None:
    return _number(text, flag, 86_400) if text else None


def _share(text: str, flag: str) -> float:
    return 0.0 if text in {"0", "0.0"} else _number(text, flag, 1.0)


def _whole(text: str, flag: str, most: int) -> int:
    value = _number(text, flag, most)
    if value != int(value):
        raise BadInput(f"`{text:.40}` is not a whole number", where=flag)
    return int(value)


def _unknown(given: str, flag: str, kind: str, known: list[str]) -> FleetError:
    what = f"there is no {kind} `{given:.60}`"
    return BadInput(what, where=flag, mend=f"there are: {', '.join(known)}")
