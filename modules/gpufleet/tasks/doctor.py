"""Check the machine."""

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace

_SIGNS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "bad": ("✗", "red")}


@command({"fleet": FLEET_HELP, "json": JSON_HELP})
def doctor(_: Context, fleet: str = "", json: bool = False) -> None:
    """Check every prerequisite of this machine, and tell how to mend what is missing.

    Example: ./fleet doctor --json
    """
    from gpufleet.flows.diagnose import diagnose
    from gpufleet.spec.errors import Failed
    from gpufleet.tasks.console import facts

    here = workspace()
    findings = diagnose(here, here.find_fleet(fleet or None))
    bad = [finding.what for finding in findings if finding.level == "bad"]
    if json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            sign, style = _SIGNS[finding.level]
            facts.print(f"{sign} {finding.what}: {finding.seen}", style=style)
            if finding.mend:
                facts.print(f"    {finding.mend}", soft_wrap=True)
    if bad and not json:
        raise Failed(f"this machine is not ready: {', '.join(bad)}")
    if bad:
        from invoke.exceptions import Exit

        raise Exit(code=Failed.exit_code)
