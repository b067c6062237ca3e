"""A fleet of two sites with little in it: what one of them is lost with comes up at the other."""

from collections.abc import Mapping
from typing import Any, Final

from tests.e2e import serving

FLEET: Final = "fleets/drills/production.yaml"
LOST: Final = "east"
LEFT: Final = "west"
_RTO_S: Final = 120


def fleet(
    *,
    restricted: bool = False,
    rto_s: float = _RTO_S,
    crowded: bool = False,
    signers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Two pools at `east`: `chat` is at `west` too, `search` has to come up on a spare group there.

    Args:
        restricted: with a use case whose data may not be processed at `west`.
        rto_s: of every interactive use case.
        crowded: without the spare group: batch holds every other GPU at `west`; `chat` scales, and
            has a second node at `east`.
        signers: public keys of more identities by their names, who may approve drills.
    """
    content = serving.fleet(degrades=False)
    groups = {
        "east-chat": _group(LOST, ["e1"]),
        "east-search": _group(LOST, ["e1"]),
        "west-chat": _group(LEFT, ["w1"]),
        "west-spare": _group(LEFT, ["w1"]),
        "west-mail": _group(LEFT, ["w1"]),
    }
    if crowded:
        del groups["west-spare"]
        groups["east-chat"]["nodes"] = 2
    use_cases = {
        "answers": _use_case("support", rto_s),
        "search": _use_case("legal", rto_s) | {"model": "small-1b"},
        "mail": _use_case("support", 3600) | {"class": "batch", "model": "small-1b"},
    }
    if restricted:
        use_cases["contracts"] = _use_case("legal", 3600) | {"residency": ["de"]}
    chat = ["answers", "contracts"] if restricted else ["answers"]
    pools = {
        "chat": _pool("large-8b", chat, {"east-chat": 2, "west-chat": 1}),
        "search": _pool("small-1b", ["search"], {"east-search": 1}),
        "mail": _pool("small-1b", ["mail"], {"west-mail": 1}) | {"class": "batch"},
    }
    if crowded:
        pools["chat"]["placements"]["east-chat"]["max_replicas"] = 3
        pools["mail"]["placements"]["west-mail"] = {"replicas": 2, "gpus_per_node": 4}
    more = {name: _signer(name, key) for name, key in (signers or {}).items()}
    return content | {
        "fleet": "drills",
        "sites": {LOST: _site("de"), LEFT: _site("ie")},
        "racks": {
            "e1": {"site": LOST, "power_limit_w": 80_000},
            "w1": {"site": LEFT, "power_limit_w": 80_000},
        },
        "node_groups": groups,
        "use_cases": use_cases,
        "pools": pools,
        "identities": {**content["identities"], **more},
        "measurements": {},
    }


def _signer(name: str, key: str) -> dict[str, Any]:
    return {
        "name": name.title(),
        "email": f"{name}@example.com",
        "roles": ["platform"],
        "ssh_keys": [key],
    }


def _site(region: str) -> dict[str, Any]:
    return {"region": region, "power_price_per_kwh": 0.21, "pue": 1.3}


def _group(site: str, racks: list[str]) -> dict[str, Any]:
    return {
        "site": site,
        "racks": racks,
        "gpu_type": "h100-sxm",
        "nodes": 1,
        "gpus_per_node": 8,
        "pins": {"driver": "580.95.05", "cuda": "13.0"},
        "purchased": "2026-02-01",
        "price_per_node": 290_000,
    }


def _use_case(team: str, rto_s: float) -> dict[str, Any]:
    return {
        "team": team,
        "class": "interactive",
        "model": "large-8b",
        "traffic": {"rate_rps": 1, "index_of_dispersion": 1.5},
        "tokens": {
            "prompt_mean": 200,
            "prompt_p95": 400,
            "output_mean": 60,
            "output_p95": 80,
            "output_max": 128,
        },
        "slo": {"p95_s": "6s", "ttft_p95_s": "1.5s", "error_rate": 0.01, "availability": 0.99},
        "rto_s": rto_s,
        "rpo_s": "5min",
        "data_class": "internal",
        "residency": ["de", "ie"],
    }


def _pool(model: str, use_cases: list[str], replicas: dict[str, int]) -> dict[str, Any]:
    return {
        "class": "interactive",
        "model": model,
        "use_cases": use_cases,
        "concurrency_limit": 8,
        "queue_limit": 8,
        "max_model_length_tokens": 8192,
        "placements": {
            group: {"replicas": count, "gpus_per_node": 1} for group, count in replicas.items()
        },
    }
