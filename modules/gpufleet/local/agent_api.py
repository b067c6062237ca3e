"""The node agent's own port on loopback: metrics, readiness, and the faults of drills and tests."""

from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from gpufleet.local.agent_metrics import AgentMetrics
from gpufleet.local.engine.host import Host
from gpufleet.local.gpu_board import GpuBoard
from gpufleet.local.monitoring import GPU_METRICS
from gpufleet.spec.gpu_faults import GpuFault
from gpufleet.spec.simulation import Fault

_JSON = "application/json"


class AgentApi:
    """Runs in the loop of the engines: it answers as long as they do."""

    def __init__(
        self, host: Host, metrics: AgentMetrics, gpus: GpuBoard, is_ready: Callable[[], bool]
    ) -> None:
        self._host = host
        self._metrics = metrics
        self._gpus = gpus
        self._is_ready = is_ready

    async def open(self, address: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: somebody else does.
        """
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._tell_metrics),
                web.get("/readyz", self._tell_ready),
                web.get("/replicas", self._tell_replicas),
                web.post("/faults", self._inject),
                web.delete("/faults", self._clear),
                web.get(GPU_METRICS, self._tell_gpus),
                web.post("/gpu-faults", self._inject_gpu),
                web.delete("/gpu-faults", self._clear_gpus),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address, port).start()

    async def _tell_metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _tell_ready(self, _: web.Request) -> web.Response:
        ready = self._is_ready()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return web.Response(text="ready\n" if ready else "not ready\n", status=status)

    async def _tell_replicas(self, _: web.Request) -> web.Response:
        return web.json_response([each.model_dump(mode="json") for each in self._host.seen()])

    async def _inject(self, request: web.Request) -> web.Response:
        if request.content_type != _JSON:
            # A page in somebody's browser cannot send this without asking first.
            return _refused("the body has to be application/json")
        try:
            fault = Fault.model_validate_json(await request.read())
        except ValidationError as error:
            return _refused(_faulty(error))
        hit = self._host.inject(fault)
        return web.json_response([each.model_dump(mode="json") for each in hit])

    async def _tell_gpus(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._gpus.text().encode(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _inject_gpu(self, request: web.Request) -> web.Response:
        if request.content_type != _JSON:
            return _refused("the body has to be application/json")
        try:
            fault = GpuFault.model_validate_json(await request.read())
        except ValidationError as error:
            return _refused(_faulty(error))
        self._gpus.inject(fault)
        return web.json_response(fault.model_dump(mode="json"))

    async def _clear_gpus(self, _: web.Request) -> web.Response:
        self._gpus.clear()
        return web.json_response({})

    async def _clear(self, _: web.Request) -> web.Response:
        self._host.clear()
        return await self._tell_replicas(_)


def _faulty(error: ValidationError) -> str:
    return "; ".join(f"{_place(each['loc'])}{each['msg']}" for each in error.errors())


def _place(location: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""


def _refused(why: str) -> web.Response:
    return web.json_response({"error": why}, status=HTTPStatus.BAD_REQUEST)
