"""The ground: the worker, freezes, scrape targets, hosts, Prometheus itself."""

from typing import Final

from gpufleet.core.gateway import series
from gpufleet.core.monitoring.objectives import GATEWAY_JOB
from gpufleet.core.monitoring.rules import Alert, Group, Severity, selector

WORKER_JOB: Final = "worker"
CHORE_AT: Final = "gpufleet_chore_last_success_timestamp_seconds"
CHORE_FAILURES: Final = "gpufleet_chore_failures_total"
FLOWS: Final = "gpufleet_flows"
PATCH_OVERDUE_S: Final = "gpufleet_patch_overdue_seconds"
"""By component: how long it has been due; 0 while it is not."""
DRILL_FOR_REAL: Final = "gpufleet_drill_for_real"
DRILL_DUE_AT: Final = "gpufleet_drill_due_timestamp_seconds"
"""By scenario (or `restore`) and target: when it has to be proven again at the latest."""
OLDEST_CRITICAL_S: Final = "gpufleet_oldest_critical_seconds"
"""How long the oldest critical vulnerability that is still installed has been known; 0 without."""
SNAPSHOT_AT: Final = "gpufleet_snapshot_newest_good_timestamp_seconds"
"""By revision and store: when the newest good snapshot was created."""
SNAPSHOT_RPO_S: Final = "gpufleet_snapshot_rpo_seconds"
"""By the same: age above which it is too old."""
PROTECTED_AT: Final = "gpufleet_protected_newest_timestamp_seconds"
"""By store: the recovery point of the newest protected set."""
PROTECTED_RPO_S: Final = "gpufleet_protected_rpo_seconds"
"""By the same: age above which it is too old."""
WEIGHTS_MISSING: Final = "gpufleet_prewarm_weights_missing_nodes"
"""By pool, site and window: nodes on which pulling weights ahead of a declared peak failed, or
that were not done when its replicas started."""
FREEZE_KNOWN_UNTIL: Final = "gpufleet_freeze_known_until_timestamp_seconds"
_FREEZE_STALE_S: Final = 120
_PREWARM_STALE_S: Final = 300
"""The worker looks at declared peaks every ten seconds, and waits for a token from each replica."""
_RULE_FAILURES: Final = 3
"""A single one is a Prometheus that has just restarted."""
_CHORE_FAILURES: Final = 3
_CHORE_LATE_S: Final = 1800
_SWAPPED_PAGES_PER_S: Final = 100


def platform_alerts(
    *, has_worker: bool, has_gateway: bool, has_peaks: bool, embedded: bool
) -> Group:
    """Alerts on what pools and gateway stand on.

    Args:
        has_worker: whether the environment's worker is watched here.
        has_gateway: whether the gateway is.
        has_peaks: whether replicas are started ahead of declared peaks.
        embedded: whether there is no node exporter, since hosts are simulated.
    """
    return Group(
        "gpufleet-platform",
        (
            *_scraping(),
            *((_chores(),) if has_worker or has_gateway else ()),
            *((*_worker(), _patch_overdue(), *_snapshots(), *_drills()) if has_worker else ()),
            *((_prewarm_stale(),) if has_worker and has_peaks else ()),
            *(() if embedded else (_swapping(),)),
        ),
    )


def _scraping() -> tuple[Alert, ...]:
    others = selector(job=f"!~{GATEWAY_JOB}|{WORKER_JOB}")
    return (
        Alert(
            name="TargetDown",
            expr=f"up{others} == 0",
            severity=Severity.TICKET,
            for_s=600,
            runbook="platform#targets",
            summary="{{ $labels.job }} {{ $labels.instance }}: tells no metrics",
            description="Alerts on it are blind until it does.",
        ),
        Alert(
            name="RuleFailures",
            expr=(
                "sum by (rule_group) (increase(prometheus_rule_evaluation_failures_total[10m])) "
                f">= {_RULE_FAILURES}"
            ),
            severity=Severity.TICKET,
            for_s=300,
            runbook="platform#rules",
            summary="{{ $labels.rule_group }}: Prometheus cannot evaluate a rule",
            description="Its alerts are blind; Prometheus' log says which and why.",
        ),
    )


def _worker() -> tuple[Alert, ...]:
    up = f"up{selector(job=WORKER_JOB)}"
    freeze = f"max({CHORE_AT}{selector(chore='freeze')})"
    return (
        Alert(
            name="WorkerDown",
            expr=f"max({up}) == 0 or absent({up})",
            severity=Severity.TICKET,
            for_s=300,
            runbook="platform#worker",
            summary="The worker does not answer",
            description="Flows and schedules stand still; clusters soon count as frozen.",
        ),
        Alert(
            name="FreezeSyncStale",
            expr=f"time() - {freeze} > {_FREEZE_STALE_S}",
            severity=Severity.TICKET,
            for_s=60,
            runbook="platform#freeze-sync",
            summary="Clusters have not been told of freezes for {{ $value | humanizeDuration }}",
            description="Once their state is too old they count as frozen.",
        ),
        Alert(
            name="FreezeStateStale",
            expr=f"time() - {FREEZE_KNOWN_UNTIL} > 0",
            severity=Severity.TICKET,
            for_s=60,
            runbook="platform#freeze-state",
            summary=(
                # The worker's own label, where a target's of the same name takes its place.
                "{{ or $labels.exported_site $labels.site }}: its cluster counts as frozen, since "
                "nobody has told it otherwise for {{ $value | humanizeDuration }}"
            ),
            description="The worker runs, and cannot tell this cluster whether a freeze holds.",
        ),
        Alert(
            name="PrewarmMissing",
            expr=f"{series.PREWARM_MISSING} > 0",
            severity=Severity.PAGE,
            runbook="pools#prewarm",
            summary=(
                # The worker's own label, where a target's of the same name takes its place.
                "{{ $labels.pool }} at {{ or $labels.exported_site $labels.site }}: "
                "{{ $value }} replicas are not warm "
                "for {{ $labels.window }}"
            ),
            description="A declared peak begins soon, and it has fewer warm replicas than planned.",
        ),
        Alert(
            name="PrewarmWeightsMissing",
            expr=f"{WEIGHTS_MISSING} > 0",
            severity=Severity.TICKET,
            for_s=60,
            runbook="pools#prewarm-weights",
            summary=(
                "{{ $labels.pool }} at {{ or $labels.exported_site $labels.site }}: "
                "{{ $value }} nodes lack the weights for {{ $labels.window }}"
            ),
            description=(
                "They were not pulled ahead of a declared peak: replicas that start there restore "
                "their own, and take longer."
            ),
        ),
    )


def _patch_overdue() -> Alert:
    return Alert(
        name="PatchOverdue",
        expr=f"max by (component) ({PATCH_OVERDUE_S}) > 0",
        severity=Severity.TICKET,
        for_s=600,
        runbook="platform#patching",
        summary="{{ $labels.component }}: overdue for {{ $value | humanizeDuration }}",
        description=(
            "A component was not brought up to date within its declared cadence, or a critical "
            "vulnerability is still installed after critical_within_s."
        ),
    )


def _snapshots() -> tuple[Alert, ...]:
    """The store is a label of the worker's own: `site` is the scrape target's."""

    def older(at: str, rpo: str, by: str) -> str:
        return f"time() - max by ({by}) ({at}) > max by ({by}) ({rpo})"

    return (
        Alert(
            name="SnapshotOlderThanRPO",
            expr=older(SNAPSHOT_AT, SNAPSHOT_RPO_S, "revision, store"),
            severity=Severity.TICKET,
            for_s=120,
            runbook="platform#snapshots",
            summary=(
                "{{ $labels.revision }} at {{ $labels.store }}: the newest good snapshot is "
                "{{ $value | humanizeDuration }} old"
            ),
            description="More would be lost than is allowed: its schedule or its store fails.",
        ),
        Alert(
            name="ProtectionOlderThanRPO",
            expr=older(PROTECTED_AT, PROTECTED_RPO_S, "store"),
            severity=Severity.PAGE,
            for_s=120,
            runbook="platform#protection",
            summary=(
                "{{ $labels.store }}: the newest protected set is "
                "{{ $value | humanizeDuration }} old"
            ),
            description=(
                "If the database or the stacks' states were lost now, more would be lost than the "
                "shortest rpo_s of the use cases allows."
            ),
        ),
    )


def _drills() -> tuple[Alert, ...]:
    return (
        Alert(
            name="DrillOverdue",
            expr=f"time() - max by (scenario, target) ({DRILL_DUE_AT}) > 0",
            severity=Severity.TICKET,
            for_s=600,
            runbook="platform#drills",
            summary=(
                "{{ $labels.scenario }} of {{ $labels.target }}: not proven, overdue for "
                "{{ $value | humanizeDuration }}"
            ),
            description=(
                "Nobody has proven for longer than declared that service comes back from it."
            ),
        ),
        Alert(
            name="DrillForReal",
            expr=f"max by (scenario, target) ({DRILL_FOR_REAL}) > 0",
            severity=Severity.TICKET,
            for_s=0,
            runbook="platform#drills",
            summary="{{ $labels.scenario }} of {{ $labels.target }} is drilled for real",
            description=(
                "Others have approved it: other alerts of what it hits are its doing. It ends when "
                "production was given back. The worker tells of it: while none runs, ask "
                "./fleet status and look for `drilled-by` at the workloads."
            ),
        ),
    )


def _prewarm_stale() -> Alert:
    looked = f"{CHORE_AT}{selector(chore='prewarm')}"
    return Alert(
        name="PrewarmStale",
        expr=f"time() - max({looked}) > {_PREWARM_STALE_S} or absent({looked})",
        severity=Severity.PAGE,
        for_s=300,
        runbook="pools#prewarm",
        summary="Nobody looks whether replicas are warm for declared peaks",
        description=(
            "The worker does not run, or its chore fails: a replica that is not warm in time would "
            "not be told of. Only of fleets that declare peaks."
        ),
    )


def _chores() -> Alert:
    by = "by (job, chore)"
    failed = f"sum {by} (increase({CHORE_FAILURES}[15m])) > {_CHORE_FAILURES}"
    # What failed until something else was there is over as soon as it ends well.
    lately = f"sum {by} (increase({CHORE_FAILURES}[2m])) > 0"
    # Some chores are done once in ten minutes.
    seldom = (
        f"sum {by} (increase({CHORE_FAILURES}[1h])) > {_CHORE_FAILURES} "
        f"and time() - max {by} ({CHORE_AT}) > {_CHORE_LATE_S}"
    )
    return Alert(
        name="ChoresFail",
        expr=f"({failed} and {lately}) or ({seldom})",
        severity=Severity.TICKET,
        for_s=300,
        runbook="platform#worker",
        summary="{{ $labels.job }}, {{ $labels.chore }}: fails again and again",
        description="A chore of the worker or of the gateway's control process; its log says why.",
    )


def _swapping() -> Alert:
    return Alert(
        name="HostSwapping",
        expr=(
            f"rate(node_vmstat_pswpin[5m]) + rate(node_vmstat_pswpout[5m]) > {_SWAPPED_PAGES_PER_S}"
        ),
        severity=Severity.TICKET,
        for_s=600,
        runbook="platform#swap",
        summary="{{ $labels.instance }}: swaps {{ $value | humanize }} pages/s",
        description="Weights load and tokens come many times slower. See what takes its memory.",
    )
