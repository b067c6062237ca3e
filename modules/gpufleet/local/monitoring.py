"""The Prometheus of one embedded site: what it scrapes, and how it finds the replicas of pools."""

from pathlib import Path
from typing import Any, Final

import yaml

from gpufleet.core import vocabulary as names
from gpufleet.core.monitoring.gpus import GPU_JOB
from gpufleet.core.monitoring.objectives import GATEWAY_JOB
from gpufleet.core.monitoring.platform import WORKER_JOB
from gpufleet.core.monitoring.pools import REPLICAS_JOB
from gpufleet.core.monitoring.site_rules import rules_file
from gpufleet.core.serving import ENGINE_PORT
from gpufleet.local.files import PRIVATE_FOLDER, write_private
from gpufleet.local.process import Process
from gpufleet.local.site_files import SCRAPES_AS, SiteFiles
from gpufleet.spec.fleet import Fleet

_CONTROL_PLANE_EVERY: Final = "30s"
_REPLICAS_EVERY: Final = "5s"
"""KEDA asks each 10 s."""
_NO_BUCKETS: Final = [
    # Nine tenths of what a control plane tells; sums and counts stay.
    {"source_labels": ["__name__"], "regex": ".+_bucket", "action": "drop"}
]
GPU_METRICS: Final = "/gpu-metrics"
"""Path at the node agent."""
_FOLDER: Final = "prometheus"
_RULES: Final = "rules"
_KIND: Final = "__meta_kubernetes_pod"


def prometheus(site: SiteFiles) -> Process:
    """Keeps a day at most: what a site needs for longer goes elsewhere."""
    folder = site.folder / _FOLDER
    config = write_config(site)
    server = site.address("prometheus")
    return Process(
        "prometheus",
        (
            site.binary("prometheus"),
            f"--config.file={config}",
            "--enable-feature=auto-reload-config",
            "--config.auto-reload-interval=15s",
            f"--web.listen-address={server}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=24h",
            "--storage.tsdb.retention.size=512MB",
            "--log.level=warn",
        ),
        after=("bootstrap",),
        ready=f"http://{server}/-/ready",
    )


def write_config(site: SiteFiles) -> Path:
    """Write Prometheus' configuration, and return its file."""
    folder = site.folder / _FOLDER
    (folder / _RULES).mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    config = folder / "prometheus.yaml"
    write_private(config, yaml.safe_dump(prometheus_config(site), sort_keys=False))
    return config


def write_rules(folder: Path, fleet: Fleet, site: str) -> Path:
    """Write the rules of a site; its Prometheus notices within the reload interval.

    Args:
        folder: of the site.
        fleet: what the rules follow from.
        site: its name.
    """
    file = folder / _FOLDER / _RULES / "gpufleet.yaml"
    write_private(file, yaml.safe_dump(rules_file(fleet, site), sort_keys=False, width=1000))
    return file


def prometheus_config(site: SiteFiles) -> dict[str, Any]:
    """Prometheus' configuration, as plain data."""
    certificate, key = site.certificate("prometheus")
    trust = {"ca_file": str(site.authority)}
    by_certificate = {
        "scheme": "https",
        "tls_config": {**trust, "cert_file": str(certificate), "key_file": str(key)},
    }
    by_token = {
        "scheme": "https",
        "tls_config": trust,
        "authorization": {"credentials_file": str(site.folder / SCRAPES_AS)},
    }
    slowly = {
        "scrape_interval": _CONTROL_PLANE_EVERY,
        "metric_relabel_configs": _NO_BUCKETS,
    }
    jobs = [
        _job(site, "etcd", "etcd-metrics", slowly),
        *(
            _job(site, name, name, slowly | by_certificate)
            for name in ("apiserver", "controller-manager", "scheduler")
        ),
        _job(site, "kwok", "kwok", slowly),
        _job(site, "lws", "lws-metrics", slowly | by_token),
        _job(site, "kueue", "kueue-metrics", by_token),
        _job(site, "keda", "keda-metrics"),
        _job(site, "keda-adapter", "keda-adapter-metrics", slowly),
        _job(site, "keda-webhooks", "keda-webhooks-metrics", slowly),
        _job(site, "agent", "agent"),
        # Namespace and pod are those that hold a GPU, as dcgm-exporter tells them.
        _job(site, GPU_JOB, "agent", {"metrics_path": GPU_METRICS, "honor_labels": True}),
        _job(site, "prometheus", "prometheus", slowly),
        _replicas(site),
    ]
    if site.worker_port:
        jobs.append(_static(site, WORKER_JOB, f"127.0.0.1:{site.worker_port}"))
    if site.gateway_port:
        often = {"scrape_interval": _REPLICAS_EVERY}
        jobs.append(_static(site, GATEWAY_JOB, f"127.0.0.1:{site.gateway_port}") | often)
    return {
        "global": {
            "scrape_interval": "15s",
            "scrape_timeout": "4s",
            "evaluation_interval": "15s",
            "external_labels": _labels(site),
        },
        "rule_files": [f"{_RULES}/*.yaml"],
        "scrape_configs": jobs,
    }


def _labels(site: SiteFiles) -> dict[str, str]:
    return {"fleet": site.fleet, "site": site.name}


def _job(
    site: SiteFiles, name: str, port: str, more: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {**_static(site, name, site.address(port)), **(more or {})}


def _static(site: SiteFiles, name: str, target: str) -> dict[str, Any]:
    return {
        "job_name": name,
        "static_configs": [{"targets": [target], "labels": _labels(site)}],
    }


def _replicas(site: SiteFiles) -> dict[str, Any]:
    """Every running pod of a pool that has the engine's port, at its own loopback address.

    Its labels of ours become labels of its series, as the autoscalers' queries select them.
    """
    fixed = {**_labels(site), names.metric_label(names.SITE): site.name}
    return {
        "job_name": REPLICAS_JOB,
        "scrape_interval": _REPLICAS_EVERY,
        "kubernetes_sd_configs": [
            {
                "role": "pod",
                "kubeconfig_file": str(site.kubeconfig("prometheus")),
                "selectors": [{"role": "pod", "label": names.POOL}],
            }
        ],
        "relabel_configs": [
            _keep(f"{_KIND}_phase", "Running"),
            _keep(f"{_KIND}_container_port_number", str(ENGINE_PORT)),
            # Of a replica over nodes only the leader serves.
            _keep(f"{_KIND}_label_{names.metric_label(names.WORKER_INDEX)}", "0?"),
            {"regex": f"{_KIND}_label_(gpufleet_dev_.+)", "action": "labelmap"},
            _copy(f"{_KIND}_name", "pod"),
            _copy("__meta_kubernetes_namespace", "namespace"),
            *({"target_label": name, "replacement": value} for name, value in fixed.items()),
        ],
    }


def _keep(label: str, value: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": value, "action": "keep"}


def _copy(label: str, target: str) -> dict[str, Any]:
    return {"source_labels": [label], "target_label": target}
