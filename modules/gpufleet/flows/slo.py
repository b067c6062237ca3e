"""Promises to users: how they stand, and the rules that watch them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpufleet.core.monitoring.objectives import Objective, objectives_of
from gpufleet.core.monitoring.site_rules import (
    CLUSTER_RETENTION_S,
    retention_s,
    rules_file,
)
from gpufleet.core.monitoring.standing import Answers, budget_window, questions, row_of
from gpufleet.edges.engines import OnProgress, resolve
from gpufleet.edges.prometheus import Prometheus, Series
from gpufleet.edges.promtool import check_config
from gpufleet.flows.ground import Ground
from gpufleet.local import ports
from gpufleet.local.files import write_private
from gpufleet.local.monitoring import write_config, write_rules
from gpufleet.local.platform import embedded_sites
from gpufleet.local.site_files import SCRAPES_AS, SiteFiles
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.slo_reports import SeriesValue, SloReport


def slo_status(ground: Ground, *, use_case: str = "", url: str = "") -> SloReport:
    """How every promise stands, or those of one use case.

    Args:
        ground: the environment.
        use_case: only this one.
        url: of a Prometheus; that of the first embedded site where it is not given.

    Raises:
        BadInput: no such use case, or no Prometheus is known.
        Retryable: it does not answer.
    """
    fleet = ground.fleet
    site = "" if url else _embedded_site(fleet)
    kept_s = retention_s(fleet, site) if site else CLUSTER_RETENTION_S
    with _prometheus(ground, site, url) as server:
        return standing(fleet, server, kept_s, use_case)


def answers_to(ground: Ground, query: str, *, site: str = "", url: str = "") -> list[SeriesValue]:
    """What a Prometheus answers to a query now, sorted by labels.

    Args:
        ground: the environment.
        query: PromQL.
        site: whose Prometheus; that of the first embedded site where it is not given.
        url: of a Prometheus, in place of a site's.

    Raises:
        BadInput: no such embedded site, or no Prometheus is known.
        Failed: it refuses the query.
        Retryable: it does not answer.
    """
    with _prometheus(ground, "" if url else _embedded_site(ground.fleet, site), url) as server:
        found = [
            SeriesValue(labels=dict(series.labels), value=value)
            for series in server.now(query)
            for value in series.values.values()
        ]
    return sorted(found, key=lambda each: sorted(each.labels.items()))


def standing(fleet: Fleet, server: Prometheus, kept_s: int, use_case: str = "") -> SloReport:
    """How the promises of a fleet stand, by a Prometheus that keeps its series for so long.

    Raises:
        BadInput: no such use case.
        Retryable: it does not answer.
    """
    if use_case and use_case not in fleet.use_cases:
        raise BadInput(
            "there is no such use case",
            where=f"--use-case {use_case}",
            mend=f"one of {', '.join(fleet.use_cases)}",
        )
    window = budget_window(kept_s)
    wanted = [each for each in objectives_of(fleet) if use_case in {"", each.use_case}]
    return SloReport(
        fleet=fleet.fleet,
        environment=fleet.environment,
        source=server.url,
        window=window,
        rows=[row_of(each, _ask(server, each, window)) for each in wanted],
    )


def rules_of(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """The rules of every site, as Prometheus reads them."""
    return {site: rules_file(fleet, site) for site in fleet.sites}


def check_rules(fleet: Fleet, on_progress: OnProgress) -> int:
    """Check each site's rules, in the configuration of an embedded Prometheus; how many there are.

    Raises:
        Failed: with what promtool says.
    """
    engines = resolve(on_progress, ["prometheus"])
    count = 0
    with tempfile.TemporaryDirectory() as made:
        for site in fleet.sites:
            folder = Path(made) / site
            chosen = dict(zip(ports.NAMES, range(20_000, 30_000), strict=False))
            files = SiteFiles(
                site,
                folder,
                chosen,
                engines.paths,
                engines.files,
                fleet=fleet.slug,
                worker_port=19_999,
                gateway_port=19_998,
            )
            config = write_config(files)
            # A token that the platform's bootstrap asks for; only its file is looked at.
            write_private(folder / SCRAPES_AS, "")
            write_rules(folder, fleet, site)
            check_config(engines.path("promtool"), config)
            count += sum(len(group["rules"]) for group in rules_file(fleet, site)["groups"])
    return count


def _prometheus(ground: Ground, site: str, url: str) -> Prometheus:
    return Prometheus(url or f"http://127.0.0.1:{ground.state.port(site, 'prometheus')}")


def _embedded_site(fleet: Fleet, wanted: str = "") -> str:
    sites = embedded_sites(fleet)
    if wanted and wanted not in fleet.sites:
        raise BadInput(
            "there is no such site",
            where=f"--site {wanted}",
            mend=f"one of {', '.join(fleet.sites)}",
        )
    if not sites or (wanted and wanted not in sites):
        raise BadInput(
            "the Prometheus of a site that is not embedded has to be named",
            where="--prometheus",
            mend="--prometheus https://prometheus.example.com",
        )
    return wanted or sites[0]


def _ask(server: Prometheus, objective: Objective, window: str) -> Answers:
    asked = questions(objective, window)

    def value(query: str) -> float | None:
        return _of(server.now(query), objective.use_case)

    return Answers(
        bad=value(asked.bad),
        burn_1h=value(asked.burn_1h),
        burn_6h=value(asked.burn_6h),
        current=value(asked.current),
        requests=value(asked.requests),
    )


def _of(found: Sequence[Series], use_case: str) -> float | None:
    """The value of the one series that is about a use case."""
    for series in found:
        if series.labels.get("use_case", use_case) == use_case:
            for value in series.values.values():
                return value
    return None
