"""What every task shares: errors become one message and a documented exit code."""

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import task
from invoke.exceptions import Exit

from gpufleet.tasks import ROOT

if TYPE_CHECKING:
    from gpufleet.edges.workspace import Workspace

FLEET_HELP = (
    "Fleet file, such as fleets/sample/staging.yaml. Default: fleets/sample/production.yaml."
)
JSON_HELP = "Print JSON alone on stdout; everything else goes to stderr."


def command(
    options: Mapping[str, str] | None = None, name: str | None = None
) -> Callable[[Callable[..., None]], Any]:
    """An invoke task whose failures are told as people need them.

    Args:
        options: help for each flag.
        name: of the task, where it is not the function's.

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
                if keywords.get("json"):
                    print_json(error.as_json())
                    raise Exit(code=error.exit_code) from None
                raise Exit(f"fleet: {error}", code=error.exit_code) from None
            except (Exit, KeyboardInterrupt, BrokenPipeError):
                raise
            except Exception as error:
                if os.environ.get("GPUFLEET_TRACEBACK"):
                    raise
                raise Exit(_our_fault(error), code=1) from None

        # A copy: invoke takes out of it what it has used.
        return task(run, name=name, help=dict(options or {}))

    return wrap


def workspace() -> "Workspace":
    """The clone that this code is in."""
    from gpufleet.edges.workspace import Workspace

    return Workspace(ROOT)


def print_json(value: object) -> None:
    """One JSON value on stdout, and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def _our_fault(error: Exception) -> str:
    folder = ROOT / ".fleet" / "logs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    file = Path(folder, f"traceback-{stamp}-{os.getpid()}.txt")
    file.write_text(traceback.format_exc(), encoding="utf-8")
    return (
        f"fleet: unexpected {type(error).__name__}: {str(error)[:200]}\n"
        f"  this is a fault of gpufleet; please report it with {file.relative_to(ROOT)}"
    )
