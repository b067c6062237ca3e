"""The worker process."""

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, command, workspace


@command(
    {
        "fleet": FLEET_HELP,
        "port": "Port of /metrics and /readyz; 0 for none.",
        "listen": "Address of that port; another than loopback inside a pod only.",
    }
)
def worker(_: Context, fleet: str = "", port: int = 0, listen: str = "127.0.0.1") -> None:
    """Run flows, schedules and chores of an environment until SIGTERM; `up` starts one itself.

    Example: ./fleet worker --fleet fleets/sample/staging.yaml --port 9100
    """
    from gpufleet.flows.worker import work

    here = workspace()
    work(here, here.find_fleet(fleet or None), port or None, listen)
