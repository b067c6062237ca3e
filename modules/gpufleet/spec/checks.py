"""Checks that span sections of a fleet file: memory, exclusive node groups, classes, residency.

Each check is a generator of problems, with the path of the field at fault, so that the loader can
point at its line.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

from gpufleet.spec.approvals import ROLES, Action
from gpufleet.spec.cluster_checks import cluster_problems
from gpufleet.spec.drills import DRILL_PREFIX
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster, NodeGroup
from gpufleet.spec.plan_checks import planned_problems
from gpufleet.spec.problem import Problem
from gpufleet.spec.references import reference, references
from gpufleet.spec.serving import POOL_ARGUMENTS, ModelRevision, Placement, Pool, UseCase
from gpufleet.spec.snapshot_schedule import SOONEST_S
from gpufleet.spec.source import FieldPath
from gpufleet.spec.usage import NOBODY, SHARED

GIB: Final = 2**30
MINIMUM_KV_TOKENS: Final = 8192
"""A replica that cannot hold one context of this length serves nothing useful."""
MAX_LABEL: Final = 63
"""Longest value of a Kubernetes label; objects carry the fleet's slug as one."""


def problems(fleet: Fleet) -> Iterator[Problem]:
    """Every problem of a fleet whose sections are valid each by itself."""
    for check in _CHECKS:
        yield from check(fleet)


def _slug(fleet: Fleet) -> Iterator[Problem]:
    if len(fleet.slug) > MAX_LABEL:
        what = f"`{fleet.slug}` is longer than {MAX_LABEL} characters"
        yield Problem(("fleet",), what, mend="shorten `fleet` or `environment`")


def _reserved(fleet: Fleet) -> Iterator[Problem]:
    """Names that costs and drills have a meaning of their own for."""
    for section, name, why in (
        ("use_cases", SHARED, "rows of usage name all use cases of a pool together so"),
        ("teams", NOBODY, "costs name so what no team can be charged for"),
    ):
        if name in getattr(fleet, section):
            yield Problem((section, name), f"is reserved: {why}", mend="choose another name")
    for section in ("use_cases", "pools"):
        for name in getattr(fleet, section):
            if name.startswith(DRILL_PREFIX):
                what = f"is reserved: names that begin with `{DRILL_PREFIX}` are those of drills"
                yield Problem((section, name), what, mend="choose another name")


def _models(fleet: Fleet) -> Iterator[Problem]:
    for name, model in fleet.models.items():
        for flag in model.engine.arguments:
            if flag in POOL_ARGUMENTS:
                path = ("models", name, "engine", "arguments", flag)
                yield Problem(path, "follows from the pool", mend="remove it here")


def _targets(fleet: Fleet) -> Iterator[Problem]:
    for name, use_case in fleet.use_cases.items():
        slo, tokens = use_case.slo, use_case.tokens
        if slo.ttft_p95_s > slo.p95_s:
            what = f"is above `p95_s`, the whole answer ({slo.ttft_p95_s:g} s > {slo.p95_s:g} s)"
            yield Problem(("use_cases", name, "slo", "ttft_p95_s"), what)
        if tokens.output_max < tokens.output_p95:
            what = f"is below `output_p95` ({tokens.output_max} < {tokens.output_p95:g})"
            yield Problem(("use_cases", name, "tokens", "output_max"), what)


def _pools(fleet: Fleet) -> Iterator[Problem]:
    claimed: dict[str, str] = {}
    for name, pool in fleet.pools.items():
        at: FieldPath = ("pools", name)
        yield from reference((*at, "model"), "model revision", pool.model, fleet.models)
        sites: dict[str, str] = {}
        for group_name, placement in pool.placements.items():
            path = (*at, "placements", group_name)
            yield from reference(path, "node group", group_name, fleet.node_groups)
            if (other := claimed.setdefault(group_name, name)) != name:
                yield Problem(
                    path,
                    f"pool `{other}` has claimed this node group already",
                    mend="a node group belongs to one pool; split the group",
                )
            if (group := fleet.node_groups.get(group_name)) is None:
                continue
            if (other := sites.setdefault(group.site, group_name)) != group_name:
                yield Problem(
                    path,
                    f"the pool stands on `{other}` at site {group.site} already",
                    mend="one node group for each site and pool; make a second pool",
                )
            yield from _placement(fleet, path, pool, placement, group)


def _placement(
    fleet: Fleet, path: FieldPath, pool: Pool, placement: Placement, group: NodeGroup
) -> Iterator[Problem]:
    if placement.ceiling < placement.replicas:
        yield Problem(
            (*path, "max_replicas"),
            f"is below `replicas` ({placement.ceiling} < {placement.replicas})",
        )
    if placement.gpus_per_node > group.gpus_per_node:
        yield Problem(
            (*path, "gpus_per_node"),
            f"is {placement.gpus_per_node}, and a node here has {group.gpus_per_node} GPUs",
        )
        return
    fits = replicas_that_fit(placement, group)
    for field, wanted in (
        ("replicas", placement.replicas),
        ("max_replicas", placement.max_replicas),
    ):
        if wanted is not None and wanted > fits:
            yield Problem(
                (*path, field),
                f"is {wanted}, and {fits} fit: {group.nodes} nodes of {group.gpus_per_node} GPUs, "
                f"{placement.nodes_per_replica} x {placement.gpus_per_node} GPUs a replica",
            )
    if (model := fleet.models.get(pool.model)) and (gpu := fleet.gpus.get(group.gpu_type)):
        needed = _memory_bytes(model, pool)
        for_each = gpu.memory_bytes * pool.memory_utilization
        if needed > for_each * placement.gpus_per_replica:
            yield Problem(
                path,
                f"model `{pool.model}` needs {needed / GIB:.1f} GiB (weights "
                f"{model.size_bytes / GIB:.1f}, the rest KV cache), and "
                f"{placement.gpus_per_replica} {group.gpu_type} offer "
                f"{for_each * placement.gpus_per_replica / GIB:.1f} GiB",
                mend=f"give a replica at least {math.ceil(needed / for_each)} GPUs of this type",
            )


def replicas_that_fit(placement: Placement, group: NodeGroup) -> int:
    """Most replicas that a node group holds, when no replica is cut across a node's boundary."""
    slots = group.nodes * (group.gpus_per_node // placement.gpus_per_node)
    return slots // placement.nodes_per_replica


def _memory_bytes(model: ModelRevision, pool: Pool) -> int:
    """What one replica needs at least: the weights, and KV cache for one long request."""
    tokens = min(MINIMUM_KV_TOKENS, pool.max_model_length_tokens or model.max_context_tokens)
    return model.size_bytes + model.kv_bytes_per_token * tokens


def _routes(fleet: Fleet) -> Iterator[Problem]:
    routed: dict[str, str] = {}
    for name, pool in fleet.pools.items():
        for index, use_case_name in enumerate(pool.use_cases):
            path: FieldPath = ("pools", name, "use_cases", index)
            yield from reference(path, "use case", use_case_name, fleet.use_cases)
            if (other := routed.setdefault(use_case_name, name)) != name:
                yield Problem(
                    path, f"use case `{use_case_name}` is routed to pool `{other}` already"
                )
            if use_case := fleet.use_cases.get(use_case_name):
                yield from _route(fleet, path, use_case_name, use_case, pool)
    for name in fleet.use_cases:
        if name not in routed:
            yield Problem(("use_cases", name), "no pool lists this use case in its `use_cases`")


def _route(
    fleet: Fleet, path: FieldPath, name: str, use_case: UseCase, pool: Pool
) -> Iterator[Problem]:
    if use_case.class_ is not pool.class_:
        yield Problem(
            path,
            f"use case `{name}` is {use_case.class_}, the pool {pool.class_}",
            mend="a pool never mixes classes; route it to a pool of its own class",
        )
    if use_case.model != pool.model:
        yield Problem(path, f"use case `{name}` wants `{use_case.model}`, not `{pool.model}`")
    if not _stands_in(fleet, pool, use_case):
        allowed = ", ".join(use_case.residency)
        what = f"use case `{name}` may be served in {allowed} only, and the pool is not there"
        yield Problem(path, what)
    if (model := fleet.models.get(pool.model)) is None:
        return
    context = min(
        pool.max_model_length_tokens or model.max_context_tokens, model.max_context_tokens
    )
    needed = math.ceil(use_case.tokens.prompt_p95) + use_case.tokens.output_max
    if needed > context:
        yield Problem(
            path,
            f"use case `{name}` needs a context of {needed} tokens (`prompt_p95` and `output_max`),"
            f" and the pool accepts {context}",
        )


def _stands_in(fleet: Fleet, pool: Pool, use_case: UseCase) -> bool:
    """Whether a pool has a placement where a use case may be served; what is unknown passes."""
    groups = [fleet.node_groups[group] for group in pool.placements if group in fleet.node_groups]
    regions = {fleet.sites[group.site].region for group in groups if group.site in fleet.sites}
    return not regions or not regions.isdisjoint(use_case.residency)


def _fallbacks(fleet: Fleet) -> Iterator[Problem]:
    for name, use_case in fleet.use_cases.items():
        if use_case.fallback not in fleet.models:
            continue
        serving = [pool for pool in fleet.pools.values() if pool.model == use_case.fallback]
        allowed = [
            pool
            for pool in serving
            if pool.class_ is use_case.class_ and _stands_in(fleet, pool, use_case)
        ]
        if not allowed:
            where = f" for {use_case.class_} work in {', '.join(use_case.residency)}"
            what = f"no pool serves `{use_case.fallback}`{where if serving else ''}"
            yield Problem(("use_cases", name, "fallback"), what)


def _approvers(fleet: Fleet) -> Iterator[Problem]:
    """Whether a change that one of them asks for could ever be approved by the others."""
    needed = fleet.governance.approvals_required
    able = [
        name
        for name, identity in fleet.identities.items()
        if not ROLES[Action.CHANGE].isdisjoint(identity.roles)
    ]
    others = len(able) if len(fleet.identities) > len(able) else max(0, len(able) - 1)
    if needed > others:
        roles = ", ".join(sorted(ROLES[Action.CHANGE]))
        yield Problem(
            ("governance", "approvals_required"),
            f"asks for {needed} approvals, and {others} identities could give one",
            mend=f"declare identities with one of the roles {roles}, or ask for fewer",
        )


def _calendars(fleet: Fleet) -> Iterator[Problem]:
    for name, calendar in fleet.freeze_calendars.items():
        path: FieldPath = ("freeze_calendars", name)
        if (calendar.file is None) == (calendar.url is None):
            what = "has both `file` and `url`" if calendar.file else "has neither `file` nor `url`"
            yield Problem(path, what, mend="name one of them")
        if calendar.sites and calendar.pools:
            there = {pool for site in calendar.sites for pool in fleet.pools_at(site)}
            for index, pool in enumerate(calendar.pools):
                if pool in fleet.pools and pool not in there:
                    what = f"pool `{pool}` stands at none of the calendar's sites"
                    yield Problem((*path, "pools", index), what, mend="so it would never hold")


def _scheduled(fleet: Fleet) -> Iterator[Problem]:
    """Whoever takes a snapshot has to reach its files, and know whose store keeps it."""
    yield from _protected(fleet)
    on_cluster = not any(isinstance(s.cluster, EmbeddedCluster) for s in fleet.sites.values())
    for name, revision in fleet.snapshot_schedule.revisions.items():
        path: FieldPath = ("snapshot_schedule", "revisions", name)
        if revision.site is not None:
            yield from reference((*path, "site"), "site", revision.site, fleet.sites)
        if on_cluster and revision.claim is None:
            yield Problem(
                (*path, "source"),
                "is in no volume, and the worker runs on a cluster",
                mend="name the PersistentVolumeClaim that holds the files: `claim`",
            )
        if revision.limit_s < revision.every_s:
            what = f"is below `every_s` ({revision.limit_s:g} s < {revision.every_s:g} s)"
            yield Problem((*path, "rpo_s"), what, mend="take snapshots more often")


def _protected(fleet: Fleet) -> Iterator[Problem]:
    """No set can be as young as an objective that is shorter than the time between two."""
    every_s = fleet.snapshot_schedule.protect_every_s
    for name, case in fleet.use_cases.items():
        if every_s is not None and case.rpo_s < every_s:
            what = f"is above the `rpo_s` of `{name}` ({every_s:g} s > {case.rpo_s:g} s)"
            path: FieldPath = ("snapshot_schedule", "protect_every_s")
            yield Problem(path, what, mend="take protected sets more often")
            return
        if case.rpo_s < SOONEST_S:
            yield Problem(
                ("use_cases", name, "rpo_s"),
                f"is below {SOONEST_S:g} s, the shortest time between two protected sets",
                mend=f"{SOONEST_S:g} s is the shortest that can be kept",
            )


_CHECKS: Final[tuple[Callable[[Fleet], Iterator[Problem]], ...]] = (
    references,
    _slug,
    _reserved,
    _models,
    _targets,
    _pools,
    _routes,
    _fallbacks,
    _approvers,
    _calendars,
    _scheduled,
    planned_problems,
    cluster_problems,
)
