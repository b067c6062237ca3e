"""What others ask of a site's node agent: its simulated replicas, and their faults."""

from http import HTTPStatus
from typing import Any, Final

import httpx
from pydantic import TypeAdapter

from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.local.process import LOOPBACK
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.simulation import Fault, SimulatedReplica

_TIMEOUT_S: Final = 10.0
_REPLICAS: Final = TypeAdapter(list[SimulatedReplica])


class AgentClient:
    """The node agent of one embedded site.

    Every call raises `Retryable` where it does not answer, and `Failed` where the site was never
    up or the agent refuses.
    """

    def __init__(self, state: EnvironmentDir, site: str) -> None:
        self.site = site
        self._url = f"http://{LOOPBACK}:{state.port(site, 'agent')}"

    def replicas(self) -> list[SimulatedReplica]:
        """Every simulated replica of the site."""
        return self._call("GET", "/replicas")

    def inject(self, fault: Fault) -> list[SimulatedReplica]:
        """Let something go wrong; returns whom it hits, as they were before."""
        return self._call("POST", "/faults", fault.model_dump(mode="json"))

    def clear(self) -> list[SimulatedReplica]:
        """End every fault; returns all replicas."""
        return self._call("DELETE", "/faults")

    def _call(self, method: str, path: str, body: Any = None) -> list[SimulatedReplica]:  # noqa: ANN401 - JSON
        try:
            response = httpx.request(
                method, self._url + path, json=body, timeout=_TIMEOUT_S, trust_env=False
            )
        except httpx.HTTPError as error:
            raise Retryable(
                f"the node agent does not answer: {error}",
                where=f"site {self.site}",
                mend="./fleet up starts what does not run",
            ) from None
        if response.status_code != HTTPStatus.OK:
            raise Failed(
                f"the node agent refused: {response.text[:200]}", where=f"site {self.site}"
            )
        found = _REPLICAS.validate_json(response.content)
        return [each.model_copy(update={"site": self.site}) for each in found]
