"""Admission policies and their bindings, as plain Kubernetes data."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gpufleet.core import vocabulary as names

Object = dict[str, Any]
API: Final = "admissionregistration.k8s.io/v1"


_TEMPLATES: Final = (
    "request.kind.kind == 'Pod' ? [object] : "
    "request.kind.kind == 'CronJob' ? [object.spec.jobTemplate.spec.template] : "
    "request.kind.kind == 'LeaderWorkerSet' ? "
    "[object.spec.leaderWorkerTemplate.workerTemplate] + "
    "(has(object.spec.leaderWorkerTemplate.leaderTemplate) ? "
    "[object.spec.leaderWorkerTemplate.leaderTemplate] : []) : "
    "[object.spec.template]"
)


class Check(NamedTuple):
    """One thing that has to hold, and the CEL text that a person is told where it does not."""

    holds: str
    told: str


_PODS: Final = ("pods", "pods/ephemeralcontainers", "pods/resize", "replicationcontrollers")
_RULES: Final = (
    ("", "v1", _PODS),
    ("apps", "v1", ("deployments", "replicasets", "statefulsets", "daemonsets")),
    ("batch", "v1", ("jobs", "cronjobs")),
    ("leaderworkerset.x-k8s.io", "v1", ("leaderworkersets",)),
)
_LABELS_CHANGED: Final = (
    "(has(object.metadata.labels) ? object.metadata.labels : {}) != "
    "(has(oldObject.metadata.labels) ? oldObject.metadata.labels : {})"
)
_SPEC_CHANGED: Final = {
    # What stands already has to be able to end: its finalizers, status and owner may change.
    "name": "spec-or-labels-changed",
    "expression": (
        "request.operation == 'CREATE' || object.spec != oldObject.spec || " + _LABELS_CHANGED
    ),
}


def pod_policy(
    name: str,
    variables: Mapping[str, str],
    checks: Sequence[Check],
    *,
    namespaces: Sequence[str] = names.GOVERNED_NAMESPACES,
) -> Object:
    """A policy for pods, and for every workload that makes some: `variables.templates`."""
    return policy(
        name,
        {
            "namespaceSelector": selector(namespaces),
            "resourceRules": [rule(*each) for each in _RULES],
        },
        [_SPEC_CHANGED],
        {"templates": _TEMPLATES, **variables},
        checks,
    )


def policy(
    name: str,
    constraints: Object,
    conditions: Sequence[Object],
    variables: Mapping[str, str],
    checks: Sequence[Check],
) -> Object:
    """A policy that reads what the fleet declares."""
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": constraints,
            "matchConditions": [*conditions],
            **named(variables),
            "validations": [
                {"expression": check.holds, "messageExpression": check.told, "reason": "Forbidden"}
                for check in checks
            ],
        },
    }


def named(variables: Mapping[str, str]) -> Object:
    """The part of a policy's spec that names expressions; nothing where there are none."""
    found = [{"name": name, "expression": text} for name, text in variables.items()]
    return {"variables": found} if found else {}


def rule(group: str, version: str, resources: Sequence[str]) -> Object:
    """What a policy is asked about: these, when they are made or changed."""
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE"],
        "resources": list(resources),
    }


def bound(policy: Object) -> Object:
    """The binding of a policy that reads what the fleet declares."""
    name = policy["metadata"]["name"]
    return binding(name, {"name": names.ADMISSION, "namespace": names.SYSTEM_NAMESPACE})


def binding(policy: str, parameter: Object) -> Object:
    """The binding of a policy that denies, also where its parameter is not there."""
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": policy},
        "spec": {
            "policyName": policy,
            "validationActions": ["Deny"],
            "paramRef": {**parameter, "parameterNotFoundAction": "Deny"},
        },
    }


def selector(namespaces: Sequence[str]) -> Object:
    """Selects namespaces by the label that the API server keeps equal to their name."""
    return {
        "matchExpressions": [
            {"key": names.NAMESPACE, "operator": "In", "values": sorted(namespaces)}
        ]
    }
