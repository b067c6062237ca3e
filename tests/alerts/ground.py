"""Alerts on what pools and gateway stand on."""

from typing import Final

from tests.alerts.case import Case, Cases, one

from gpufleet.core.monitoring.platform import (
    FREEZE_KNOWN_UNTIL,
    PROTECTED_AT,
    PROTECTED_RPO_S,
    SNAPSHOT_AT,
    SNAPSHOT_RPO_S,
)

_CHAT: Final = 'revision="chat",store="fra1"'
_FRA1: Final = '{job="worker",site="fra1"}'
CASES: Final[dict[tuple[str, str], Cases]] = {
    ("TargetDown", "ticket"): one(
        {'up{job="keda",instance="a:1"}': "0x60"},
        {'up{job="keda",instance="a:1"}': "1x60", 'up{job="gateway",instance="a:2"}': "0x60"},
        {"job": "keda", "instance": "a:1"},
    ),
    ("RuleFailures", "ticket"): one(
        {'prometheus_rule_evaluation_failures_total{rule_group="g"}': "0+1x60"},
        # One, as Prometheus restarts.
        {'prometheus_rule_evaluation_failures_total{rule_group="g"}': "5x53 6x7"},
        {"rule_group": "g"},
    ),
    ("WorkerDown", "ticket"): Cases(
        fires=(Case({'up{job="worker"}': "0x60"}, {}), Case({}, {})),
        quiet=(Case({'up{job="worker"}': "1x60"}, None),),
    ),
    ("FreezeSyncStale", "ticket"): one(
        {'gpufleet_chore_last_success_timestamp_seconds{chore="freeze"}': "0+60x30 1800x30"},
        {'gpufleet_chore_last_success_timestamp_seconds{chore="freeze"}': "0+60x60"},
        {},
    ),
    ("PatchOverdue", "ticket"): one(
        {'gpufleet_patch_overdue_seconds{component="driver"}': "0+60x60"},
        {
            'gpufleet_patch_overdue_seconds{component="driver"}': "0x60",
            'gpufleet_patch_overdue_seconds{component="firmware"}': "0x60",
        },
        {"component": "driver"},
    ),
    ("SnapshotOlderThanRPO", "ticket"): Cases(
        fires=(
            # Of two workers the one that has looked last counts.
            Case(
                {
                    f'{SNAPSHOT_AT}{{{_CHAT},instance="a"}}': "0x60",
                    f'{SNAPSHOT_AT}{{{_CHAT},instance="b"}}': "600x60",
                    f'{SNAPSHOT_RPO_S}{{{_CHAT},instance="a"}}': "1800x60",
                },
                {"revision": "chat", "store": "fra1"},
            ),
        ),
        quiet=(
            Case(
                {f"{SNAPSHOT_AT}{{{_CHAT}}}": "0x60", f"{SNAPSHOT_RPO_S}{{{_CHAT}}}": "7200x60"},
                None,
            ),
            Case(
                {
                    f"{SNAPSHOT_AT}{{{_CHAT}}}": "0+60x60",
                    f"{SNAPSHOT_RPO_S}{{{_CHAT}}}": "1800x60",
                    # Another store's limit is its own.
                    f'{SNAPSHOT_RPO_S}{{revision="chat",store="ams1"}}': "60x60",
                },
                None,
            ),
        ),
    ),
    ("ProtectionOlderThanRPO", "page"): Cases(
        fires=(
            # One store of two has missed what the other has.
            Case(
                {
                    f'{PROTECTED_AT}{{store="fra1"}}': "0+60x60",
                    f'{PROTECTED_AT}{{store="ams1"}}': "0+60x30 1800x30",
                    f'{PROTECTED_RPO_S}{{store="fra1"}}': "300x60",
                    f'{PROTECTED_RPO_S}{{store="ams1"}}': "300x60",
                },
                {"store": "ams1"},
            ),
        ),
        quiet=(
            Case(
                {
                    f'{PROTECTED_AT}{{store="fra1"}}': "0+60x60",
                    f'{PROTECTED_RPO_S}{{store="fra1"}}': "300x60",
                },
                None,
            ),
        ),
    ),
    ("DrillOverdue", "ticket"): one(
        {'gpufleet_drill_due_timestamp_seconds{scenario="site-lost",target="fra1"}': "0x60"},
        {
            'gpufleet_drill_due_timestamp_seconds{scenario="site-lost",target="fra1"}': "86400x60",
            'gpufleet_drill_due_timestamp_seconds{scenario="restore",target="a@fra1"}': "86400x60",
        },
        {"scenario": "site-lost", "target": "fra1"},
    ),
    ("DrillForReal", "ticket"): one(
        {'gpufleet_drill_for_real{scenario="site-lost",target="fra1"}': "1x60"},
        {'gpufleet_drill_for_real{scenario="site-lost",target="fra1"}': "0x60"},
        {"scenario": "site-lost", "target": "fra1"},
    ),
    ("FreezeStateStale", "ticket"): one(
        {f"{FREEZE_KNOWN_UNTIL}{_FRA1}": "90+60x30 1890x30"},
        # Renewed a while ahead each minute.
        {f"{FREEZE_KNOWN_UNTIL}{_FRA1}": "90+60x60"},
        {"job": "worker", "site": "fra1"},
    ),
    ("ChoresFail", "ticket"): Cases(
        fires=(
            Case(
                {'gpufleet_chore_failures_total{job="worker",chore="anchor"}': "0+1x60"},
                {"job": "worker", "chore": "anchor"},
            ),
            Case(
                {
                    'gpufleet_chore_failures_total{job="worker",chore="seldom"}': (
                        "0x9 1x9 2x9 3x9 4x9 5x9"
                    ),
                    'gpufleet_chore_last_success_timestamp_seconds{job="worker",chore="seldom"}': (
                        "0x60"
                    ),
                },
                {"job": "worker", "chore": "seldom"},
            ),
        ),
        quiet=(
            Case({'gpufleet_chore_failures_total{job="worker",chore="anchor"}': "9x60"}, None),
            # It failed for a while, as at the first start of all, and then ended well.
            Case({'gpufleet_chore_failures_total{job="gateway",chore="a"}': "0x50 9x10"}, None, 58),
        ),
    ),
}

ON_CLUSTER: Final[dict[tuple[str, str], Cases]] = {
    ("HostSwapping", "ticket"): one(
        {
            'node_vmstat_pswpin{instance="n1"}': "0+9000x60",
            'node_vmstat_pswpout{instance="n1"}': "0+9000x60",
        },
        {
            'node_vmstat_pswpin{instance="n1"}': "0+60x60",
            'node_vmstat_pswpout{instance="n1"}': "0+60x60",
        },
        {"instance": "n1"},
    ),
}
