"""Alerts on the gateway and what passes through it."""

from typing import Final

from tests.alerts.case import Case, Cases, one, requests
from tests.alerts.promises import SEEN, UP, scraped

CASES: Final[dict[tuple[str, str], Cases]] = {
    ("GatewayDown", "page"): Cases(
        fires=(
            Case(scraped("1x100 0x20"), {}, 60, 0.5),
            # The control process outlives the workers.
            Case({UP: "1x60", SEEN: "0+60x50 3000x10"}, {}),
            Case({UP: "1x60"}, {}),
            Case({}, {}),
        ),
        quiet=(
            Case(scraped("1x120"), None, 60, 0.5),
            # Every second scrape fails.
            Case(
                {UP: "1 0 " * 60, SEEN: " ".join(f"{60 * n} _" for n in range(60))}, None, 58, 0.5
            ),
        ),
    ),
    ("GatewayFilesStale", "page"): one(
        {'gpufleet_gateway_file_age_seconds{file="keys"}': "5x30 300x30"},
        {'gpufleet_gateway_file_age_seconds{file="keys"}': "5x60"},
        {"file": "keys"},
    ),
    # promtool's clock begins at 0: the hour is 3600.
    ("CertificateExpiresSoon", "ticket"): one(
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "864000x60"},
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "2592000x60"},
        {"name": "gateway"},
    ),
    ("CertificateExpires", "page"): one(
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "86400x60"},
        {'gpufleet_certificate_expiry_timestamp_seconds{name="gateway"}': "864000x60"},
        {"name": "gateway"},
    ),
    ("RequestsRefused", "ticket"): Cases(
        fires=(Case(requests("ok", 54) | requests("refused", 6), {"use_case": "answers"}),),
        quiet=(
            Case(requests("ok", 59) | requests("refused", 1), None),
            Case(requests("ok", 0.4) | requests("refused", 0.6), None),
            # By the limits of its own key.
            Case(requests("ok", 54) | requests("limited", 30), None),
        ),
    ),
    ("RequestsOverflow", "ticket"): one(
        requests("ok", 40) | requests("ok", 20, route="fallback"),
        requests("ok", 58) | requests("ok", 2, route="fallback"),
        {"use_case": "answers"},
    ),
    ("HostedSpendFast", "ticket"): Cases(
        # Two hours of January are gone.
        fires=(
            Case(
                {
                    'gpufleet_gateway_hosted_spend{use_case="answers",pod="a"}': "60x180",
                    'gpufleet_gateway_hosted_spend{use_case="answers",pod="b"}': "60x180",
                    'gpufleet_gateway_hosted_cap{use_case="answers",pod="a"}': "1000x180",
                    'gpufleet_gateway_hosted_cap{use_case="answers",pod="b"}': "1000x180",
                },
                {"use_case": "answers"},
                120,
            ),
        ),
        quiet=(
            Case(
                {
                    'gpufleet_gateway_hosted_spend{use_case="answers"}': "50x180",
                    'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x180",
                },
                None,
                120,
            ),
            # Ten days of the month are gone, and a third of the money.
            Case(
                {
                    'gpufleet_gateway_hosted_spend{use_case="answers"}': "330x3000",
                    'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x3000",
                },
                None,
                14_400,
                5,
            ),
        ),
    ),
    ("HostedCapNear", "ticket"): one(
        # Each pod tells what it has spent, and the cap of all.
        {
            f'gpufleet_gateway_hosted_{name}{{use_case="answers",pod="{pod}"}}': f"{value}x60"
            for pod in ("a", "b")
            for name, value in (("spend", 475), ("cap", 1000))
        },
        {
            'gpufleet_gateway_hosted_spend{use_case="answers"}': "850x60",
            'gpufleet_gateway_hosted_cap{use_case="answers"}': "1000x60",
        },
        {"use_case": "answers"},
    ),
    ("AuditGaps", "page"): one(
        {'gpufleet_gateway_audit_gaps_total{use_case="answers"}': "0x55 1x5"},
        {'gpufleet_gateway_audit_gaps_total{use_case="answers"}': "3x60"},
        {"use_case": "answers"},
    ),
    ("AuditUnshipped", "ticket"): one(
        {"gpufleet_gateway_audit_unshipped_seconds": "0+60x60"},
        {"gpufleet_gateway_audit_unshipped_seconds": "60x60"},
        {},
    ),
}
