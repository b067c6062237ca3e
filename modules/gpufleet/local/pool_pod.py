"""What a pod of a pool says about itself: whether it serves, which engine, which probes."""

from dataclasses import dataclass
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.serving import ENGINE_PORT, Probe
from gpufleet.edges.kube import Object
from gpufleet.local.engine.answers import Lengths
from gpufleet.local.engine.replica import Identity
from gpufleet.local.engine.settings import (
    EngineFile,
    EngineSettings,
    EngineSpec,
    Probes,
    probe_budget,
    stand_in,
)
from gpufleet.local.pod_status import is_sidecar

GROUP_NAME: Final = "leaderworkerset.sigs.k8s.io/name"
GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"
_MODEL: Final = "served-model-name"
_CONTEXT: Final = "max-model-len"
_LIMIT: Final = "max-num-seqs"
_VLLM_CONTEXT: Final = 8192
_VLLM_LIMIT: Final = 256
"""What vLLM takes where nothing is given."""
_STARTUP: Final = Probe(period_s=10, timeout_s=5, failures=30)
_PROBE: Final = Probe(period_s=10, timeout_s=1, failures=3)
"""Kubernetes' own defaults."""


@dataclass(frozen=True)
class PoolPod:
    """A pod, read as the node agent needs it."""

    body: Object

    @property
    def uid(self) -> str:
        """It names one pod for ever."""
        return str(self.body["metadata"]["uid"])

    @property
    def namespace(self) -> str:
        """Where it is."""
        return str(self.body["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Within its namespace."""
        return str(self.body["metadata"]["name"])

    @property
    def pool(self) -> str:
        """The pool that it belongs to, or whose engine it runs for a batch."""
        return str(self._labels.get(names.POOL) or self._labels.get(names.BATCH_POOL, ""))

    @property
    def is_ours(self) -> bool:
        """Whether it runs an engine of a pool; all others are kwok's."""
        return names.POOL in self._labels or self.is_batch

    @property
    def is_batch(self) -> bool:
        """Whether it answers a shard of a batch, and ends then."""
        return names.BATCH_JOB in self._labels

    @property
    def model(self) -> str:
        """The model revision that it serves."""
        return str(self._labels.get(names.MODEL, ""))

    @property
    def node(self) -> str:
        """Where it runs; empty as long as it has no place."""
        return str(self.body["spec"].get("nodeName") or "")

    @property
    def node_group(self) -> str:
        """The node group that it belongs on."""
        return str(self.body["spec"].get("nodeSelector", {}).get(names.NODE_GROUP, ""))

    @property
    def container(self) -> str:
        """The container that uses its GPUs."""
        return str((self._engine or self.body["spec"]["containers"][0])["name"])

    @property
    def is_leaving(self) -> bool:
        """Whether it was deleted."""
        return bool(self.body["metadata"].get("deletionTimestamp"))

    @property
    def is_held(self) -> bool:
        """Whether somebody holds it by a finalizer."""
        return bool(self.body["metadata"].get("finalizers"))

    @property
    def grace_s(self) -> float:
        """How long it may take to go."""
        given = self.body["metadata"].get("deletionGracePeriodSeconds")
        return float(
            self.body["spec"].get("terminationGracePeriodSeconds", 30) if given is None else given
        )

    @property
    def serves(self) -> bool:
        """Whether it runs an engine that answers: it has the engine's port, and names a model.

        The further pods of a replica over nodes do not.
        """
        return self._engine is not None and _MODEL in self._arguments

    @property
    def group(self) -> tuple[str, str, str] | None:
        """The replica over nodes that it is a part of."""
        name = self._labels.get(GROUP_NAME)
        return (self.namespace, name, self._labels.get(GROUP_INDEX, "")) if name else None

    @property
    def probes(self) -> Probes:
        """Of the engine's container."""
        engine = self._engine or {}
        return Probes(
            startup=probe_budget(engine.get("startupProbe"), _STARTUP),
            readiness=probe_budget(engine.get("readinessProbe"), _PROBE),
            liveness=probe_budget(engine.get("livenessProbe"), _PROBE),
        )

    def identity(self, address: str) -> Identity:
        """Of its replica."""
        return Identity(self.uid, self.namespace, self.name, self.pool, address)

    def settings(self, engines: EngineFile, metric_names: str) -> EngineSettings:
        """What its engine is: its arguments, and what the fleet file makes of them."""
        arguments = self._arguments
        limit = int(arguments.get(_LIMIT, _VLLM_LIMIT))
        spec = engines.of(self.pool, self.node_group)
        if spec is None:
            speed = stand_in(limit, "the fleet file does not declare this pool")
            spec = EngineSpec(speed, 0.0, Lengths(100.0, 200.0))
        annotations = self.body["metadata"].get("annotations") or {}
        return EngineSettings(
            model=arguments[_MODEL],
            digest=annotations.get(names.REVISION_DIGEST, ""),
            concurrency_limit=limit,
            context_tokens=int(arguments.get(_CONTEXT, _VLLM_CONTEXT)),
            spec=spec,
            metric_names=metric_names,
        )

    @property
    def _labels(self) -> dict[str, str]:
        return self.body["metadata"].get("labels") or {}

    @property
    def _engine(self) -> dict[str, Any] | None:
        """The container, or native sidecar, that has the engine's port."""
        spec = self.body["spec"]
        for container in (*spec["containers"], *filter(is_sidecar, spec.get("initContainers", ()))):
            if any(port["containerPort"] == ENGINE_PORT for port in container.get("ports") or []):
                found: dict[str, Any] = container
                return found
        return None

    @property
    def _arguments(self) -> dict[str, str]:
        """The engine's flags by name without dashes."""
        engine = self._engine or {}
        flags = (flag.removeprefix("--").partition("=") for flag in engine.get("args") or [])
        return {name: value for name, _, value in flags}
