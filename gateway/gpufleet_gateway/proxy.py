"""Where the plugin meets LiteLLM: its application, who asks, which replica, what is left out."""

import logging
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx
import litellm
from fastapi import Request
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from litellm.proxy import hooks, proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.router import CustomRoutingStrategyBase

from gpufleet.spec.gateway import Routes
from gpufleet_gateway.configuration import model_list

TARGET: Final[ContextVar[dict[str, Any] | None]] = ContextVar("target", default=None)
"""The deployment that this request was given; only the plugin sets it."""
REACHED: Final[ContextVar["Reached | None"]] = ContextVar("reached", default=None)
"""Of the attempt that is under way; only the plugin sets it."""
_LEFT_OUT: Final = frozenset(
    {
        "AdmissionControlMiddleware",
        "BillableRequestMetricsMiddleware",
        "BudgetReservationReleaseMiddleware",
        "CORSMiddleware",
        "GZipBufferedResponseMiddleware",
        "InFlightRequestsMiddleware",
        "LazyFeatureMiddleware",
        "PrometheusAuthMiddleware",
        "RedisRequestBatchMiddleware",
        "RequestSizeLimitMiddleware",
        "SecurityHeadersMiddleware",
    }
)
"""What LiteLLM puts around every request for its database, its UI and limits that are ours."""


_STREAM_END: Final = b"[DONE]"
_TAIL_BYTES: Final = 64
_CONNECT_S: Final = 5.0
"""LiteLLM passes a longer limit with each request; this is for those that have none."""


@dataclass
class Reached:
    """How far an attempt has come."""

    opened: bool = False
    """Whether LiteLLM has sent anything, or has tried to: from then on a failure may be the
    target's."""


class NoTarget(RuntimeError):
    """A request reached LiteLLM without the plugin."""


class Chosen(CustomRoutingStrategyBase):  # type: ignore[misc]
    """LiteLLM's routing strategy: the deployment that the plugin has chosen for this request."""

    async def async_get_available_deployment(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - LiteLLM's own signature says None
        """The deployment of the request that is under way."""
        return _target()

    def get_available_deployment(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - as above
        """The same, for LiteLLM's synchronous ways."""
        return _target()


async def authenticated(request: Request, api_key: str) -> UserAPIKeyAuth:
    """LiteLLM's `custom_auth`: a request is known exactly if the plugin has let it in."""
    del request, api_key
    _target()
    return UserAPIKeyAuth(api_key="gpufleet")


def application() -> Callable[..., Any]:
    """LiteLLM's application, without what only its own features need.

    It was not started yet: its lifespan reads the configuration.
    """
    hooks.PROXY_HOOKS.clear()
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        # It logs a traceback for every answer that is an error; the record says what happened.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    proxy: Any = proxy_server.app
    proxy.user_middleware = [
        each for each in proxy.user_middleware if getattr(each.cls, "__name__", "") not in _LEFT_OUT
    ]
    return cast("Callable[..., Any]", proxy)


def follow(routes: Routes) -> None:
    """Tell LiteLLM's router the use cases as they are now."""
    router = proxy_server.llm_router
    if router is None:
        raise NoTarget("LiteLLM has no router: its configuration has no use case")
    router.set_model_list(model_list(routes))
    router.set_custom_routing_strategy(Chosen())


async def connect() -> None:
    """Give LiteLLM one pool of connections for all replicas; has to run in the loop that serves."""
    litellm.aclient_session = httpx.AsyncClient(
        transport=Whole(AsyncHTTPHandler.create_async_transport()),
        follow_redirects=False,
        timeout=_CONNECT_S,
        trust_env=False,
    )


class Whole(httpx.AsyncBaseTransport):
    """A transport that does not take a stream of events for whole that lacks its end.

    LiteLLM closes such a stream with a `stop` of its own.

    Args:
        inner: does the work.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        reached = REACHED.get()
        if reached is not None:
            reached.opened = True
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = _ToItsEnd(cast("httpx.AsyncByteStream", response.stream))
        return response

    async def aclose(self) -> None:
        """Close its connections."""
        await self._inner.aclose()


class _ToItsEnd(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        tail = b""
        async for part in self._inner:
            tail = (tail + part)[-_TAIL_BYTES:]
            yield part
        if _STREAM_END not in tail:
            raise httpx.RemoteProtocolError("the stream broke off")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _target() -> dict[str, Any]:
    target = TARGET.get()
    if target is None:
        raise NoTarget("this request did not come through the gateway's plugin")
    return target
