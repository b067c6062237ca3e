"""LiteLLM's configuration, made from the routes."""

import os
from collections.abc import Mapping
from typing import Any, Final

from gpufleet.spec.gateway import HostedRoute, PoolRoute, Route, Routes

HOSTED_KEY: Final = "GPUFLEET_HOSTED_KEY"
"""Variable with the key of hosted APIs; `_USE_CASE` behind it for that of one use case."""
NOWHERE: Final = "http://127.0.0.1:9"
"""The discard port: an address is chosen for each request."""


def hosted_key(use_case: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key of a use case's hosted API; None where nobody has given one."""
    own = f"{HOSTED_KEY}_{use_case.upper().replace('-', '_')}"
    return environment.get(own) or environment.get(HOSTED_KEY) or None


def pool_deployment(
    use_case: str, route: Route, pool: PoolRoute, url: str, *, chat: bool
) -> dict[str, Any]:
    """What LiteLLM sends a request of a use case with, to one replica."""
    provider = "openai" if chat else "text-completion-openai"
    return {
        "model_name": use_case,
        "litellm_params": {
            "model": f"{provider}/{pool.model}",
            "api_base": f"{url}/v1",
            "api_key": "none",
            "timeout": route.timeout_s,
            "max_retries": 0,
        },
        "model_info": {"id": use_case, "mode": "chat" if chat else "completion"},
    }


def hosted_deployment(use_case: str, route: Route, hosted: HostedRoute) -> dict[str, Any]:
    """What LiteLLM sends a request of a use case with, to its hosted API."""
    return {
        "model_name": use_case,
        "litellm_params": {
            "model": f"{hosted.provider}/{hosted.model}",
            "api_key": hosted_key(use_case) or "none",
            "timeout": route.timeout_s,
            "max_retries": 0,
            **({"api_base": hosted.url} if hosted.url else {}),
        },
        "model_info": {"id": f"{use_case}.hosted"},
    }


def model_list(routes: Routes) -> list[dict[str, Any]]:
    """An entry for each use case; the plugin puts the replica's address in."""
    return [
        pool_deployment(name, route, routes.pools[route.pool], NOWHERE, chat=True)
        for name, route in routes.use_cases.items()
        if route.pool in routes.pools
    ]


def configuration(routes: Routes) -> dict[str, Any]:
    """LiteLLM's configuration file, without a secret in it.

    Retries, fallbacks and cooldowns are the plugin's, so LiteLLM's are off; so is everything that
    it would write about requests.
    """
    return {
        "model_list": model_list(routes),
        "general_settings": {
            "custom_auth": "gpufleet_gateway.proxy.authenticated",
            "disable_spend_logs": True,
            "disable_error_logs": True,
            "disable_adding_master_key_hash_to_db": True,
        },
        "router_settings": {
            "num_retries": 0,
            "disable_cooldowns": True,
            "enable_pre_call_checks": False,
        },
        "litellm_settings": {
            "drop_params": True,
            "telemetry": False,
            "turn_off_message_logging": True,
            "suppress_debug_info": True,
            "num_retries": 0,
            "disable_end_user_cost_tracking": True,
            # For a model that is named like a public one it would ask Hugging Face.
            "disable_hf_tokenizer_download": True,
        },
    }


def environment(master_key: str, configuration_file: str) -> dict[str, str]:
    """Variables under which LiteLLM starts: no network, no database, no words."""
    return {
        "CONFIG_FILE_PATH": configuration_file,
        "LITELLM_MASTER_KEY": master_key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_BLOG_POSTS": "True",
        "LITELLM_LOG": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_MODE": "PRODUCTION",
        "DISABLE_ADMIN_UI": "True",
        "NO_DOCS": "True",
        "NO_REDOC": "True",
        "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true",
        # Threads that a library starts when it is imported do not survive a fork.
        "OPENBLAS_NUM_THREADS": "1",
        "AIOHTTP_CONNECTOR_LIMIT": "0",
        "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "0",
    }
