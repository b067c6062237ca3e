"""The gateway: its control process, how it is, and a question by the way that clients take."""

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}


@command(
    {
        "fleet": FLEET_HELP,
        "port": "Port of /metrics and /readyz; 0 for none.",
        "listen": "Address of that port; another than loopback inside a pod only.",
        "folder": "Of the gateway; that of the embedded platform where it is not given.",
    }
)
def control(
    _: Context, fleet: str = "", port: int = 0, listen: str = "127.0.0.1", folder: str = ""
) -> None:
    """Tell the gateway's workers replicas, routes and keys until SIGTERM; `up` starts one itself.

    Example: ./fleet gateway.control --fleet fleets/article/production.yaml --port 9100
    """
    from pathlib import Path

    from gpufleet.flows.gateway_control import control as run

    here = workspace()
    file = here.find_fleet(fleet or None)
    run(here, file, Path(folder) if folder else None, port or None, listen)


@command({"text": "The question.", "use-case": "What it is for.", **_HELP})
def ask(_: Context, text: str, use_case: str, fleet: str = "", json: bool = False) -> None:
    """Ask one question with a key that is made for it and revoked at once.

    Example: ./fleet gateway.ask --use-case answers --fleet fleets/article/production.yaml "Why?"
    """
    from gpufleet.flows.gateway_answers import ask as asked
    from gpufleet.tasks import gateway_view

    here = workspace()
    answer = asked(here, here.find_fleet(fleet or None), use_case, text)
    if json:
        print_json(answer.model_dump())
    else:
        gateway_view.show_answer(answer)


@command(_HELP)
def status(_: Context, fleet: str = "", json: bool = False) -> None:
    """Pools and use cases as the gateway sees them: queues, requests in flight, hosted spend.

    Example: ./fleet gateway.status --fleet fleets/article/production.yaml
    """
    from gpufleet.flows.gateway_status import status as observed
    from gpufleet.tasks import gateway_view

    here = workspace()
    report = observed(here, here.find_fleet(fleet or None))
    if json:
        print_json(report.model_dump())
    else:
        gateway_view.show_gateway(report)
