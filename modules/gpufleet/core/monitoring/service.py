"""The gateway: whether it runs, where requests go, what is spent and recorded."""

from typing import Final

from gpufleet.core.gateway import series
from gpufleet.core.monitoring.objectives import COUNTED, GATEWAY_JOB, gateway_down
from gpufleet.core.monitoring.rules import Alert, Group, Severity, selector

_STALE_S: Final = 30
"""The files are written every few seconds; a key that was revoked works until they are."""
_REFUSED: Final = 0.05
_OVERFLOWED: Final = 0.2
_REQUESTS: Final = 20
"""Fewer in the window say little about shares."""
_PACE: Final = 1.2
_PACE_FROM: Final = 0.1
"""Of the cap: before that a few requests on the first day of a month would count."""
_CAP_NEAR: Final = 0.9
_UNSHIPPED_S: Final = 900
_DAY_S: Final = 86400
_MONTH_GONE: Final = (
    "(day_of_month(vector(time())) - 1 + hour(vector(time())) / 24) / days_in_month(vector(time()))"
)


def gateway_alerts() -> Group:
    """Alerts on the gateway and what passes through it."""
    return Group("gpufleet-gateway", (*_running(), *_routes(), *_money(), *_records()))


def _running() -> tuple[Alert, ...]:
    up = f"up{selector(job=GATEWAY_JOB)}"
    return (
        Alert(
            name="GatewayDown",
            expr=f"{gateway_down()} > 0 or absent({up})",
            severity=Severity.PAGE,
            for_s=60,
            runbook="gateway#down",
            summary="The gateway does not work",
            description="None of its workers does, or its control process tells no metrics.",
        ),
        Alert(
            name="GatewayFilesStale",
            expr=f"max by (file) ({series.FILE_AGE_S}) > {_STALE_S}",
            severity=Severity.PAGE,
            for_s=120,
            runbook="gateway#stale-files",
            summary=(
                "The gateway works with {{ $labels.file }} of {{ $value | humanizeDuration }} ago"
            ),
            description=(
                "Its control process writes nothing: requests go on by the last good files, but a "
                "revoked key still works, and new replicas get nothing."
            ),
        ),
        Alert(
            name="CertificateExpiresSoon",
            expr=f"{series.CERTIFICATE_EXPIRES} - time() < {14 * _DAY_S}",
            severity=Severity.TICKET,
            runbook="gateway#certificates",
            summary="{{ $labels.name }}: its certificate ends in {{ $value | humanizeDuration }}",
            description="Renew it before clients refuse the connection.",
        ),
        Alert(
            name="CertificateExpires",
            expr=f"{series.CERTIFICATE_EXPIRES} - time() < {2 * _DAY_S}",
            severity=Severity.PAGE,
            runbook="gateway#certificates",
            summary="{{ $labels.name }}: its certificate ends in {{ $value | humanizeDuration }}",
            description="Clients refuse the connection from then on.",
        ),
    )


def _routes() -> tuple[Alert, ...]:
    asked, refused, overflowed = (
        f"sum by (use_case) (increase({series.REQUESTS}{selector(use_case='!', **of)}[10m]))"
        for of in (
            {"outcome": COUNTED},
            {"outcome": "refused"},
            {"route": "~fallback|hosted|summary"},
        )
    )
    enough = f"and {asked} >= {_REQUESTS}"
    return (
        Alert(
            name="RequestsRefused",
            expr=f"{refused} / {asked} > {_REFUSED} {enough}",
            severity=Severity.TICKET,
            for_s=300,
            runbook="gateway#refusals",
            summary="{{ $labels.use_case }}: {{ $value | humanizePercentage }} of requests refused",
            description=(
                "By the limit of the use case, or since every step of the ladder is full."
            ),
        ),
        Alert(
            name="RequestsOverflow",
            expr=f"{overflowed} / {asked} > {_OVERFLOWED} {enough}",
            severity=Severity.TICKET,
            for_s=900,
            runbook="gateway#overflow",
            summary=(
                "{{ $labels.use_case }}: {{ $value | humanizePercentage }} of requests are not "
                "answered by its own pool"
            ),
            description="By the smaller model, a hosted API, or in short: the pool is too small.",
        ),
    )


def _money() -> tuple[Alert, ...]:
    # Each pod has its share of the cap, and tells what it has spent of it.
    spent = f"sum by (use_case) ({series.HOSTED_SPEND})"
    cap = f"(max by (use_case) ({series.HOSTED_CAP}) > 0)"
    return (
        Alert(
            name="HostedSpendFast",
            expr=(
                f"{spent} / {cap} > on () group_left () ({_PACE} * {_MONTH_GONE}) "
                f"and {spent} / {cap} > {_PACE_FROM}"
            ),
            severity=Severity.TICKET,
            for_s=3600,
            runbook="gateway#hosted-spend",
            summary=(
                "{{ $labels.use_case }}: {{ $value | humanizePercentage }} of the month's cap for "
                "hosted APIs is spent, more than the share of the month that is gone"
            ),
            description="At this pace the cap is reached before the month ends.",
        ),
        Alert(
            name="HostedCapNear",
            expr=f"{spent} / {cap} >= {_CAP_NEAR}",
            severity=Severity.TICKET,
            runbook="gateway#hosted-spend",
            summary=(
                "{{ $labels.use_case }}: {{ $value | humanizePercentage }} of the month's cap for "
                "hosted APIs is spent"
            ),
            description="Once it is spent, overload leads to shorter answers and refusals.",
        ),
    )


def _records() -> tuple[Alert, ...]:
    return (
        Alert(
            name="AuditGaps",
            expr=f"sum by (use_case) (increase({series.AUDIT_GAPS}[15m])) > 0",
            severity=Severity.PAGE,
            runbook="gateway#audit",
            summary="{{ $labels.use_case }}: requests were served and could not be recorded",
            description="Classes that require audit are refused meanwhile; see the disk.",
        ),
        Alert(
            name="AuditUnshipped",
            expr=f"max({series.AUDIT_UNSHIPPED_S}) > {_UNSHIPPED_S}",
            severity=Severity.TICKET,
            for_s=300,
            runbook="gateway#audit",
            summary="Audit records of {{ $value | humanizeDuration }} ago are not in the store yet",
            description="Until they are, a lost disk loses them. See the object store.",
        ),
    )
