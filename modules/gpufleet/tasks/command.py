"""What every task shares: errors become one message and a documented exit code."""

import errno
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from invoke import task
from invoke.exceptions import Exit

from gpufleet.tasks import ROOT

if TYPE_CHECKING:
    from gpufleet.edges.workspace import Workspace
    from gpufleet.flows.ground import Ground
    from gpufleet.spec.errors import FleetError

FLEET_HELP = (
    "Fleet file, such as fleets/sample/staging.yaml. Default: fleets/sample/production.yaml."
)
JSON_HELP = "Print JSON alone on stdout; everything else goes to stderr."
APPLY_HELP = "Do it; without this flag only the plan is shown."
_SHOWN = 200
"""Characters of a message that nobody wrote for people."""


def command(
    options: Mapping[str, str] | None = None,
    name: str | None = None,
    iterable: Sequence[str] = (),
) -> Callable[[Callable[..., None]], Any]:
    """An invoke task whose failures are told as people need them.

    Args:
        options: help for each flag.
        name: of the task, where it is not the function's.
        iterable: flags that may be given again.

    A `FleetError` is one message on stderr (with `--json` one object on stdout) and its exit code;
    any other exception is our fault: one line, and the traceback in a file.
    """

    def wrap(body: Callable[..., None]) -> Any:  # noqa: ANN401 - invoke's own types
        @functools.wraps(body)
        def run(*arguments: Any, **keywords: Any) -> None:  # noqa: ANN401 - as invoke passes them
            from gpufleet.spec.errors import FleetError

            try:
                body(*arguments, **keywords)
            except FleetError as error:
                told = error
            except (Exit, KeyboardInterrupt, BrokenPipeError):
                raise
            except Exception as error:
                if os.environ.get("GPUFLEET_TRACEBACK"):
                    raise
                told = _explained(error)
            else:
                return
            if keywords.get("json"):
                print_json(told.as_json())
                raise Exit(code=told.exit_code)
            raise Exit(f"fleet: {told}", code=told.exit_code)

        # A copy: invoke takes out of it what it has used.
        return task(run, name=name, help=dict(options or {}), iterable=list(iterable))

    return wrap


def workspace() -> "Workspace":
    """The clone that this code is in."""
    from gpufleet.edges.workspace import Workspace

    return Workspace(ROOT)


def opened_ground(fleet: str) -> "Ground":
    """The environment of a fleet file, as `--fleet` names it; the default one where it is empty.

    Raises:
        FleetError: the fleet file is not valid, or its database cannot be had.
    """
    from gpufleet.flows.ground import Ground

    here = workspace()
    return Ground.open(here, here.find_fleet(fleet or None))


def print_json(value: object) -> None:
    """One JSON value on stdout, and nothing else; money is a number, as it was rounded."""
    sys.stdout.write(json.dumps(value, indent=2, default=_plain) + "\n")


def _plain(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else str(value)


def _explained(error: Exception) -> "FleetError":
    """An error that nobody foresaw, as people need it; its traceback is kept in a file."""
    from gpufleet.spec.errors import Failed, Retryable

    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        where = str(error.filename or "")
        return Retryable("the disk is full", where=where, mend="free some, then run it again")
    what = f"unexpected {type(error).__name__}: {str(error)[:_SHOWN]}"
    return Failed(what, mend=f"this is a fault of gpufleet; {_kept_traceback()}")


def _kept_traceback() -> str:
    folder = ROOT / ".fleet" / "logs"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    file = folder / f"traceback-{stamp}-{os.getpid()}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        return f"its traceback could not be kept ({error}): GPUFLEET_TRACEBACK=1 shows it"
    return f"please report it with {file.relative_to(ROOT)}"
