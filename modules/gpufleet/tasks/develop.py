"""Check the project itself: lint, test, docs."""

from invoke import Context

from gpufleet.tasks import ROOT
from gpufleet.tasks.command import command

_KINDS = ("unit", "contract", "e2e", "faults", "hosts")
_LONG = "slow or hosts"
_WITH_SERVERS = ["tests", "--ignore=tests/unit"]
_NO_TESTS = 5


@command()
def lint(_: Context) -> None:
    """Every static check: ruff, mypy, layers, shellcheck, hadolint, promtool, go vet, docs.

    Example: ./fleet lint
    """
    _lint()


@command(
    {
        "all": "Also what takes long: slow and host tests.",
        "only": "Only one kind: unit, contract, e2e, faults or hosts; without lint.",
        "select": "Only tests that match, as pytest -k; without lint.",
    },
    name="test",
)
def gate(_: Context, all: bool = False, only: str = "", select: str = "") -> None:  # noqa: A002 - the flag
    """The gate: lint, then unit, contract, fault and end-to-end tests on real engines.

    Example: ./fleet test --only unit --select freeze
    """
    from gpufleet.edges.project_checks import run_pytest
    from gpufleet.spec.errors import BadInput, Failed

    if only and only not in _KINDS:
        raise BadInput(f"there is no kind {only!r}", where="--only", mend=f"one of {_KINDS}")
    if not (only or select):
        _lint()
    arguments = ["-k", select] if select else []
    arguments += [] if all or only == "hosts" else ["-m", f"not ({_LONG})"]
    # Tests with servers of their own share nothing, but the processor: one after the other.
    suites = [[f"tests/{only}"]] if only else [["tests/unit", "-n", "auto"], _WITH_SERVERS]
    codes = {run_pytest(ROOT, [*suite, *arguments]) for suite in suites}
    if codes == {_NO_TESTS}:
        raise Failed("no test was run", mend="look at --only and --select")
    if failed := codes - {0, _NO_TESTS}:
        raise Failed(f"tests failed (pytest's exit code {max(failed)})")


@command({"check": "Change nothing; exit 1 if a generated file is stale."})
def docs(_: Context, check: bool = False) -> None:
    """Generate the reference documentation: fleet file, schema, tasks.

    Example: ./fleet docs --check
    """
    from gpufleet.spec.errors import Failed
    from gpufleet.tasks.console import facts
    from gpufleet.tasks.reference import stale, write

    if not check:
        for file in write(ROOT):
            facts.print(f"wrote {file.relative_to(ROOT)}")
        return
    if old := stale(ROOT):
        names = ", ".join(str(file.relative_to(ROOT)) for file in old)
        raise Failed(f"stale: {names}", mend="run ./fleet docs and commit the result")


def _lint() -> None:
    """Run every check, and tell each as it ends.

    Raises:
        Failed: names those that failed.
    """
    from gpufleet.edges.project_checks import checks, run_all
    from gpufleet.spec.errors import Failed
    from gpufleet.tasks.console import facts

    failed: list[str] = []
    for outcome in run_all(checks(ROOT)):
        why = f": {outcome.output}" if outcome.state == "skipped" else ""
        facts.print(f"{outcome.state:8}{outcome.seconds:6.1f} s  {outcome.check}{why}")
        if outcome.state == "failed":
            failed.append(outcome.check)
            facts.print(outcome.output, markup=False, soft_wrap=True)
    if failed:
        raise Failed(f"lint failed: {', '.join(failed)}")
