"""A company with a hundred use cases over six GPU types, to see how long its plan takes.

Nothing in it is measured: rates, lengths and targets are drawn, by a fixed seed, from the ranges
that the sample fleet's use cases span. Each use case has a pool of its own, which is the most that
a plan can have to decide; each site has free node groups of every type, which pools compete for.
"""

import random
from typing import Any, Final

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.load import built_in_gpus

SEED: Final = 20_260
_DIGEST: Final = "sha256:" + "0" * 64
_IMAGE: Final = f"ghcr.io/gpufleet/gpufleet@{_DIGEST}"
_TYPES: Final = ("h100-sxm", "h200-sxm", "a100-sxm", "l40s", "b200-sxm", "l4")
_SITES: Final = {"fra1": "de", "dub1": "ie", "sto1": "se"}
_MODELS: Final[dict[str, dict[str, Any]]] = {
    "llama-3.1-8b": {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "parameters": 8_030_261_248,
        "precision": "bf16",
        "kv_bytes_per_token": 131_072,
        "load_time_s": 45,
    },
    "mistral-small-24b": {
        "model": "mistralai/Mistral-Small-24B-Instruct-2501",
        "parameters": 23_572_403_200,
        "precision": "bf16",
        "kv_bytes_per_token": 163_840,
        "load_time_s": 80,
    },
    "llama-3.3-70b": {
        "model": "meta-llama/Llama-3.3-70B-Instruct",
        "parameters": 70_553_706_496,
        "precision": "fp8",
        "kv_bytes_per_token": 163_840,
        "load_time_s": 150,
    },
}
_GPUS: Final = {"llama-3.1-8b": 1, "mistral-small-24b": 2, "llama-3.3-70b": 4}
"""Of a declared replica."""
_DECLARED_ON: Final = ("h100-sxm", "h200-sxm", "b200-sxm")


def large_fleet(use_cases: int = 100) -> Fleet:
    """The fleet, as `load_declared` would give it."""
    draw = random.Random(SEED)  # noqa: S311 - no secret is drawn
    fleet: dict[str, Any] = {
        "fleet": "large",
        "environment": "benchmark",
        "currency": "EUR",
        "images": {"gpufleet": _IMAGE},
        "sites": {
            name: {"region": region, "power_price_per_kwh": "0.2", "pue": 1.2}
            for name, region in _SITES.items()
        },
        "racks": {f"{site}-r1": {"site": site, "power_limit_w": 1e7} for site in _SITES},
        "gpus": built_in_gpus(),
        "node_groups": {},
        "teams": {"all": {"owner": "ada", "cost_center": "1"}},
        "models": {name: _model(fields) for name, fields in _MODELS.items()},
        "use_cases": {},
        "pools": {},
    }
    for index in range(use_cases):
        _add_use_case(fleet, index, draw)
    for site in _SITES:
        for gpu_type in _TYPES:
            fleet["node_groups"][f"{site}-free-{gpu_type}"] = _group(site, gpu_type, 4)
    return Fleet.model_validate(fleet)


def _model(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        **fields,
        "digest": _DIGEST,
        "max_context_tokens": 32_768,
        "license": "none",
        "engine": {"image": f"docker.io/vllm/vllm-openai@{_DIGEST}"},
    }


def _group(site: str, gpu_type: str, nodes: int) -> dict[str, Any]:
    prices = {"h100-sxm": 285, "h200-sxm": 330, "a100-sxm": 160, "l40s": 92, "b200-sxm": 480}
    return {
        "site": site,
        "racks": [f"{site}-r1"],
        "gpu_type": gpu_type,
        "nodes": nodes,
        "pins": {"driver": "580.95.05", "cuda": "13.0"},
        "purchased": "2026-01-01",
        "price_per_node": 1000 * prices.get(gpu_type, 30),
    }


def _add_use_case(fleet: dict[str, Any], index: int, draw: random.Random) -> None:
    name = f"use-case-{index:03d}"
    model = draw.choice(list(_MODELS))
    prompt, output = draw.choice([300, 800, 1500, 3000]), draw.choice([30, 120, 250, 500])
    p95_s = {30: 4, 120: 8, 250: 15, 500: 30}[output]
    fleet["use_cases"][name] = {
        "team": "all",
        "class": "interactive",
        "model": model,
        "traffic": {
            "rate_rps": round(draw.uniform(0.5, 20), 2),
            "index_of_dispersion": draw.choice([1, 3, 4, 8, 20]),
            "peaks": _peaks(draw),
        },
        "tokens": {
            "prompt_mean": prompt,
            "prompt_p95": 3 * prompt,
            "output_mean": output,
            "output_p95": 2.2 * output,
            "output_max": 4 * output,
        },
        "slo": {"p95_s": p95_s, "ttft_p95_s": 1.5, "error_rate": 0.01, "availability": 0.99},
        "rto_s": 3600,
        "rpo_s": 3600,
        "data_class": "internal",
        "residency": list(_SITES.values()),
    }
    sites = draw.sample(list(_SITES), k=draw.choice([1, 2]))
    placements = {}
    for site in sites:
        group = f"{site}-{name}"
        fleet["node_groups"][group] = _group(site, draw.choice(_DECLARED_ON), 8)
        placements[group] = {"replicas": 2, "max_replicas": 4, "gpus_per_node": _GPUS[model]}
    fleet["pools"][name] = {
        "class": "interactive",
        "model": model,
        "use_cases": [name],
        "placements": placements,
    }


def _peaks(draw: random.Random) -> list[dict[str, Any]]:
    monday = {
        "name": "monday morning",
        "multiplier": 1.6,
        "recurrence": "FREQ=WEEKLY;BYDAY=MO;BYHOUR=8",
        "duration_s": 10_800,
    }
    return [monday] if draw.random() < 0.5 else []  # noqa: PLR2004 - half of them
