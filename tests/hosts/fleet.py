"""A fleet whose nodes are the lab's hosts."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

GROUP: Final = "gpu"
HOSTS: Final = 8
SITE: Final = "main"
_RACKS: Final = ("r1", "r2", "r3", "r4")
_KNOWN_HOSTS: Final = "known_hosts"
_AUTHORITY: Final = "bmc-ca.crt"
_IMAGE: Final = "df44da6bdaf8b3f46ef636b899fb6358acfcbbab7a3802f2c9c4812580508872"
_ENGINE: Final = "93f767d595033a91c70d55f25bfbea80ee6d93237f304d8d06f8030ce50940be"
_ADA: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICYUesRv8uCmNh7ixOvrEG+NCCYtutom36O1SWA8SsJ/ "
    "ada@example.com"
)


def fleet(addresses: Mapping[str, str], bmc_endpoint: str) -> dict[str, Any]:
    """One embedded site on four racks; a pool for each node group, that leaves GPUs to spare.

    Args:
        addresses: of the hosts by name.
        bmc_endpoint: where the Redfish service of all of them is.
    """
    groups: dict[str, dict[str, str]] = {}
    for name, address in addresses.items():
        groups.setdefault(name.rpartition("-")[0], {})[name] = address
    others = [group for group in groups if group != GROUP]
    return {
        "fleet": "lab",
        "environment": "production",
        "images": {"gpufleet": f"ghcr.io/gpufleet/gpufleet@sha256:{_IMAGE}"},
        "sites": {SITE: {"region": "eu", "power_price_per_kwh": 0.21, "pue": 1.3}},
        "racks": {name: {"site": SITE, "power_limit_w": 34_000} for name in _RACKS},
        "node_groups": {
            name: _group(hosts, bmc_endpoint, racks)
            for (name, hosts), racks in zip(groups.items(), _racks(len(groups)), strict=True)
        },
        "identities": {
            "ada": {
                "name": "Ada Lund",
                "email": "ada@example.com",
                "roles": ["sponsor", "product-owner", "security", "platform"],
                "ssh_keys": [_ADA],
            }
        },
        "teams": {"support": {"owner": "ada", "cost_center": "1200"}},
        "models": {"chat-8b": _model()},
        "measurements": {"chat": _measured("chat-8b")},
        "retention": {"internal": {"audit_s": "90d", "audit_required": False}},
        "governance": {"calendar_required": False},
        "use_cases": {name: _use_case("chat-8b") for name in ("chat", "code", *others)},
        "pools": {
            "chat": _pool("chat-8b", ["chat", "code"], GROUP),
            **{name: _pool("chat-8b", [name], name) for name in others},
        },
    }


def _racks(groups: int) -> list[tuple[str, ...]]:
    """Racks of their own for each node group."""
    each = len(_RACKS) // groups
    return [_RACKS[number * each : (number + 1) * each] for number in range(groups)]


def _group(
    addresses: Mapping[str, str], bmc_endpoint: str, racks: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "site": SITE,
        "racks": list(racks),
        "gpu_type": "h100-sxm",
        "nodes": len(addresses),
        "gpus_per_node": 8,
        "ssh": {"addresses": dict(addresses), "known_hosts": _KNOWN_HOSTS},
        "bmc": {"endpoint": bmc_endpoint, "certificate_authority": _AUTHORITY},
        "pins": {
            "driver": "580.95.05",
            "cuda": "13.0",
            "vbios": "96.00.89.00.01",
            "bmc": "1.00",
            "dcgm": "1:4.4.1-1",
            "container_toolkit": "1.17.8-1",
            "containerd": "1.7.24-1~deb12u1",
            "kernel": "6.1.0-40-amd64",
        },
        "purchased": "2026-02-01",
        "price_per_node": 290_000,
    }


def _model() -> dict[str, Any]:
    return {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "digest": f"sha256:{'7':0<64}",
        "parameters": 8_030_000_000,
        "precision": "bf16",
        "kv_bytes_per_token": "128KiB",
        "max_context_tokens": 131_072,
        "load_time_s": "60s",
        "license": "llama3.1",
        "engine": {"image": f"docker.io/vllm/vllm-openai@sha256:{_ENGINE}"},
    }


def _measured(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "gpu_type": "h100-sxm",
        "rate_rps_per_gpu": 2,
        "measured": "2026-02-10",
        "source": "declared for the lab",
    }


def _use_case(model: str) -> dict[str, Any]:
    return {
        "team": "support",
        "class": "interactive",
        "model": model,
        "traffic": {"rate_rps": 2, "index_of_dispersion": 1.5},
        "tokens": {
            "prompt_mean": 200,
            "prompt_p95": 400,
            "output_mean": 60,
            "output_p95": 80,
            "output_max": 128,
        },
        "slo": {"p95_s": "6s", "ttft_p95_s": "1.5s", "error_rate": 0.01, "availability": 0.99},
        "rto_s": "30min",
        "rpo_s": "1h",
        "data_class": "internal",
        "residency": ["eu"],
    }


def _pool(model: str, use_cases: list[str], group: str) -> dict[str, Any]:
    return {
        "class": "interactive",
        "model": model,
        "use_cases": use_cases,
        "concurrency_limit": 8,
        "queue_limit": 8,
        "max_model_length_tokens": 8192,
        "placements": {group: {"replicas": 5, "max_replicas": 5, "gpus_per_node": 1}},
    }


def write_fleet(
    folder: Path, content: Mapping[str, Any], known_hosts: Path, authority: Path
) -> Path:
    """Put the fleet file (JSON is YAML too) and what it refers to into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(known_hosts, folder / _KNOWN_HOSTS)
    shutil.copy(authority, folder / _AUTHORITY)
    file = folder / "production.yaml"
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return file
