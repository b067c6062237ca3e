"""Alerts on what pools and gateway stand on."""

from typing import Final

from tests.alerts.case import Case, Cases, one

from gpufleet.core.monitoring.platform import FREEZE_KNOWN_UNTIL

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
