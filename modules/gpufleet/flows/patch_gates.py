"""What has to be true during a soak, asked of the Prometheus of each site."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from gpufleet.core.patching.gates import GateVerdict, verdict
from gpufleet.edges.prometheus import Prometheus
from gpufleet.flows.ground import Ground
from gpufleet.local.platform import embedded_sites
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.patching import Gate


def demand_addresses(fleet: Fleet, gates: Sequence[Gate], address: str) -> None:
    """Refuse gates that nobody could ask.

    Raises:
        BadInput: a site that is not embedded has no address of a Prometheus.
    """
    unknown = {gate.site for gate in gates} - set(embedded_sites(fleet))
    if unknown and not address:
        raise BadInput(
            f"the Prometheus of {', '.join(sorted(unknown))} has to be named",
            where="--prometheus",
            mend="--prometheus https://prometheus.example.com",
        )
    if address:
        Prometheus(address).close()


def read_gates(ground: Ground, gates: Sequence[Gate], address: str) -> list[GateVerdict]:
    """What each gate says now.

    Raises:
        Retryable: a Prometheus does not answer.
        Failed: it refuses a query.
    """
    found = []
    servers: dict[str, Prometheus] = {}
    try:
        for gate in gates:
            if gate.site not in servers:
                servers[gate.site] = Prometheus(address or _embedded(ground, gate.site))
            series = servers[gate.site].now(gate.query)
            values = [value for each in series for value in each.values.values()]
            found.append(verdict(gate, values))
    finally:
        for server in servers.values():
            server.close()
    return found


def unanswered(gates: Sequence[Gate], why: str) -> list[GateVerdict]:
    """Gates that nobody could answer: those that have to be known do not hold."""
    return [
        GateVerdict(gate, None, f"{gate.name} at {gate.site}: {why}" if gate.required else "")
        for gate in gates
    ]


def as_told(verdicts: Sequence[GateVerdict]) -> list[dict[str, JsonValue]]:
    """As the report keeps them."""
    return [
        {
            "name": each.gate.name,
            "site": each.gate.site,
            "value": each.value,
            "at_most": each.gate.at_most,
            "reason": each.reason,
        }
        for each in verdicts
    ]


def broken(told: Sequence[Mapping[str, JsonValue]]) -> str:
    """Why gates do not hold, as the report has kept them; empty where all do."""
    return "; ".join(str(each["reason"]) for each in told if each["reason"])


def _embedded(ground: Ground, site: str) -> str:
    return f"http://127.0.0.1:{ground.state.port(site, 'prometheus')}"
