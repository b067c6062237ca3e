"""What a month's hosted APIs have cost outlives the gateway that has spent it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from gpufleet.edges.database import Database
from gpufleet.edges.hosted_spend_table import HostedSpendTable
from gpufleet.edges.spend_ledger import LEDGER_FILE, SpendLedger, SpendUnknown
from gpufleet.spec.errors import Retryable

GONE_AFTER: Final = timedelta(minutes=2)
"""A gateway that has told nothing for so long is taken to be replaced."""


def share_spend(database: Database, folder: Path, pods: int, now: datetime) -> None:
    """Tell the database what this gateway has spent, and its ledger what others had that are gone.

    Each of the gateways that are there counts its part of it, as it has its part of the caps.

    Args:
        database: of the environment.
        folder: of the gateway.
        pods: gateways that share the caps.
        now: the system's time, which the ledger goes by too.

    Raises:
        Retryable: the database or the ledger does not answer; workers go by what they know.
    """
    ledger = SpendLedger(folder / LEDGER_FILE)
    table = HostedSpendTable(database)
    try:
        name, own = ledger.name, ledger.sums(now.timestamp())
        # Also without any spend: who is there is known by what it tells.
        table.keep(name, own or {(now.astimezone(UTC).strftime("%Y-%m"), ""): 0}, now)
        gone = table.of_gone(name, pods - 1, now - GONE_AFTER)
        ledger.put_gone({key: -(-micro // pods) for key, micro in gone.items() if micro})
    except SpendUnknown as error:
        raise Retryable(str(error), where="hosted spend") from None
