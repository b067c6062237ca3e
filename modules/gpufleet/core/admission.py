"""What may run in our namespaces, as admission policies that the API server itself enforces.

Plain Kubernetes data. CEL cannot ask anybody: what a fleet file declares reaches the policies in a
ConfigMap (`parameters`), and a binding without its ConfigMap denies. Our namespaces are selected by
the name that the API server writes on them, which nobody can take off.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gpufleet.core import vocabulary as names
from gpufleet.core.weights import source_of
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import ServingClass

Object = dict[str, Any]
API: Final = "admissionregistration.k8s.io/v1"
SHARED: Final = "shared"
"""Stands for team or use case where a pool serves several; `core/serving` writes it."""


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
_GPU_PREFIX: Final = names.GPU_RESOURCE.split("/")[0] + "/"
_KUEUE_GATE: Final = "kueue.x-k8s.io/"

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
_TEMPLATES: Final = (
    "request.kind.kind == 'Pod' ? [object] : "
    "request.kind.kind == 'CronJob' ? [object.spec.jobTemplate.spec.template] : "
    "request.kind.kind == 'LeaderWorkerSet' ? "
    "[object.spec.leaderWorkerTemplate.workerTemplate] + "
    "(has(object.spec.leaderWorkerTemplate.leaderTemplate) ? "
    "[object.spec.leaderWorkerTemplate.leaderTemplate] : []) : "
    "[object.spec.template]"
)
_CONTAINERS: Final = (
    "(t.spec.containers + (has(t.spec.initContainers) ? t.spec.initContainers : []) + "
    "(has(t.spec.ephemeralContainers) ? t.spec.ephemeralContainers : []))"
)
_IMAGES: Final = (
    f"variables.templates.map(t, {_CONTAINERS}.map(c, has(c.image) ? c.image : '') + "
    "(has(t.spec.volumes) ? t.spec.volumes.filter(v, has(v.image)).map(v, "
    "has(v.image.reference) ? v.image.reference : '') : []))"
)
_ASKS_FOR_GPUS: Final = (
    f"({_CONTAINERS}.exists(c, has(c.resources) && "
    f"((has(c.resources.limits) && c.resources.limits.exists(r, r.startsWith('{_GPU_PREFIX}'))) || "
    "(has(c.resources.requests) && "
    f"c.resources.requests.exists(r, r.startsWith('{_GPU_PREFIX}'))))) || "
    "(has(t.spec.resourceClaims) && t.spec.resourceClaims.size() > 0))"
)
_DIGEST: Final = "@sha256:[0-9a-f]{64}$"


def parameters(fleet: Fleet) -> Object:
    """The ConfigMap that every policy below reads: what this fleet declares, lines of text."""
    groups = {class_: set[str]() for class_ in ServingClass}
    for pool in fleet.pools.values():
        groups[pool.class_].update(pool.placements)
    own = (fleet.images.gpufleet, fleet.images.gateway)
    images = [
        *(image for image in own if image),
        *(model.engine.image for model in fleet.models.values()),
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.ADMISSION, "namespace": names.SYSTEM_NAMESPACE},
        "data": {
            # A repository ends at the `@` of its digest, a folder of a registry at its `/`.
            "images": _lines(
                [
                    *(f"{image.split('@')[0]}@" for image in images),
                    *(
                        source if source.endswith("/") else f"{source}@"
                        for source in fleet.governance.image_sources
                    ),
                ]
            ),
            "artifacts": _lines(str(source_of(fleet, model)) for model in fleet.models),
            "digests": _lines(model.digest for model in fleet.models.values()),
            "teams": _lines([*fleet.teams, SHARED]),
            "use-cases": _lines([*fleet.use_cases, SHARED]),
            **{f"node-groups.{class_}": _lines(found) for class_, found in groups.items()},
        },
    }


def policies() -> list[Object]:
    """Every policy of what may run, each followed by its binding."""
    made = [_sources(), _artifacts(), _ownership(), _isolation(), _privileges(), _cache()]
    return [each for policy in made for each in (policy, _binding(policy))]


def _sources() -> Object:
    bad_tag = f"!i.matches('{_DIGEST}')"
    bad_source = "!variables.allowed.exists(s, i.startsWith(s))"
    return _policy(
        "gpufleet-image-sources",
        {"images": _IMAGES, "allowed": _given("images")},
        [
            Check(
                f"variables.images.all(found, !found.exists(i, {bad_tag}))",
                f"'gpufleet: images by digest only (name@sha256:...), not ' + {_shown(bad_tag)}",
            ),
            Check(
                f"variables.images.all(found, !found.exists(i, {bad_source}))",
                "'gpufleet: not from a declared source (images and governance.image_sources of the "
                f"fleet file): ' + {_shown(bad_source)}",
            ),
        ],
    )


def _artifacts() -> Object:
    """A pool's pods serve a declared revision, restored from its declared place by its digest."""
    digest = f"t.metadata.annotations['{names.REVISION_DIGEST}']"
    declared = (
        "has(t.metadata.annotations) && "
        f"'{names.REVISION_DIGEST}' in t.metadata.annotations && {digest} in variables.digests"
    )
    arguments = f"{_CONTAINERS}.exists(c, has(c.args) && c.args.exists(a, "
    restores = f"{arguments}a.startsWith('--source=')))"
    elsewhere = (
        f"{arguments}a.startsWith('--source=') && "
        "!variables.artifacts.exists(s, a == '--source=' + s)))"
    )
    by_digest = f"{arguments}a == '--digest=' + {digest}))"
    return _policy(
        "gpufleet-artifact-sources",
        {"digests": _given("digests"), "artifacts": _given("artifacts")},
        [
            Check(
                f"variables.templates.all(t, !{_is_of_pool('t')} || ({declared}))",
                "'gpufleet: a pod of a pool serves a revision that the fleet file declares, by its "
                f"digest in the annotation {names.REVISION_DIGEST}'",
            ),
            Check(
                f"variables.templates.all(t, !{_is_of_pool('t')} || !{restores} || "
                f"(!{elsewhere} && {by_digest}))",
                "'gpufleet: weights are restored from the declared source of their revision, by "
                "its digest'",
            ),
        ],
    )


def _ownership() -> Object:
    def labelled(label: str, known: str) -> str:
        return (
            f"(has(t.metadata.labels) && '{label}' in t.metadata.labels && "
            f"t.metadata.labels['{label}'] in variables.{known})"
        )

    owned = f"{labelled(names.TEAM, 'teams')} && {labelled(names.USE_CASE, 'useCases')}"
    return _policy(
        "gpufleet-gpu-ownership",
        {"teams": _given("teams"), "useCases": _given("use-cases")},
        [
            Check(
                f"variables.templates.all(t, !{_ASKS_FOR_GPUS} || ({owned}))",
                f"'gpufleet: who asks for GPUs names a declared team and use case in the labels "
                f"{names.TEAM} and {names.USE_CASE}'",
            )
        ],
    )


def _isolation() -> Object:
    """Batch and interactive work never meet: not in a namespace, and not on a node."""
    group = f"t.spec.nodeSelector['{names.NODE_GROUP}']"
    names_group = f"has(t.spec.nodeSelector) && '{names.NODE_GROUP}' in t.spec.nodeSelector"
    gated = (
        "has(t.spec.schedulingGates) && "
        f"t.spec.schedulingGates.exists(g, g.name.startsWith('{_KUEUE_GATE}'))"
    )
    queued = f"has(object.metadata.labels) && '{names.QUEUE}' in object.metadata.labels"
    has_owner = "has(object.metadata.ownerReferences) && object.metadata.ownerReferences.size() > 0"
    class_label = f"has(t.metadata.labels) && '{names.CLASS}' in t.metadata.labels"
    return _policy(
        "gpufleet-class-isolation",
        {
            "class": (
                f"request.namespace == '{names.BATCH_NAMESPACE}' ? "
                f"'{ServingClass.BATCH}' : '{ServingClass.INTERACTIVE}'"
            ),
            "groups": (
                "variables.class == 'batch' ? "
                f"{_given('node-groups.batch')} : {_given('node-groups.interactive')}"
            ),
        },
        [
            Check(
                f"variables.templates.all(t, ({class_label}) ? "
                f"t.metadata.labels['{names.CLASS}'] == variables.class : !{_ASKS_FOR_GPUS})",
                "'gpufleet: only ' + variables.class + ' work runs in ' + request.namespace + "
                f"', and says so in the label {names.CLASS}'",
            ),
            Check(
                f"variables.templates.all(t, ({names_group}) ? {group} in variables.groups : "
                f"(!{_ASKS_FOR_GPUS} || (variables.class == 'batch' && "
                f"(request.kind.kind != 'Pod' || ({gated})))))",
                "'gpufleet: ' + variables.class + ' work stands on the node groups of its own "
                f"class (node selector {names.NODE_GROUP}): ' + variables.groups.join(', ')",
            ),
            Check(
                "variables.templates.all(t, request.operation != 'CREATE' || "
                "!has(t.spec.nodeName) || t.spec.nodeName == '')",
                "'gpufleet: the scheduler alone chooses nodes (spec.nodeName)'",
            ),
            Check(
                f"variables.class == 'batch' || !({queued})",
                "'gpufleet: interactive work does not wait in a queue of Kueue'",
            ),
            Check(
                f"variables.class != 'batch' || ({queued}) || ({has_owner}) || "
                f"!variables.templates.exists(t, {_ASKS_FOR_GPUS})",
                f"'gpufleet: batch work waits in a queue of Kueue (label {names.QUEUE})'",
            ),
        ],
        namespaces=(names.INTERACTIVE_NAMESPACE, names.BATCH_NAMESPACE),
    )


def _raised() -> list[Check]:
    """Checks that hold in every namespace of ours."""
    host = " || ".join(
        f"(has(t.spec.{field}) && t.spec.{field})"
        for field in ("hostNetwork", "hostPID", "hostIPC")
    )
    context = "has(c.securityContext) && has(c.securityContext"
    raised = (
        f"({context}.privileged) && c.securityContext.privileged) || "
        f"({context}.allowPrivilegeEscalation) && c.securityContext.allowPrivilegeEscalation) || "
        f"({context}.capabilities) && has(c.securityContext.capabilities.add) && "
        "c.securityContext.capabilities.add.size() > 0)"
    )
    return [
        Check(
            f"variables.templates.all(t, !({host}))",
            "'gpufleet: no pod shares the network, processes or memory of its node'",
        ),
        Check(
            f"variables.templates.all(t, !{_CONTAINERS}.exists(c, {raised}))",
            "'gpufleet: no privilege, no escalation, no further capability'",
        ),
    ]


def _privileges() -> Object:
    return _policy(
        "gpufleet-no-privilege",
        {},
        [
            *_raised(),
            Check(
                "variables.templates.all(t, !has(t.spec.volumes) || "
                "!t.spec.volumes.exists(v, has(v.hostPath)))",
                "'gpufleet: no host path; the cache of a node comes by the claim node-cache'",
            ),
        ],
        namespaces=[each for each in names.GOVERNED_NAMESPACES if each != names.CACHE_NAMESPACE],
    )


def _cache() -> Object:
    """Jobs that fill nodes' caches: one folder of the node, and every capability dropped."""
    context = "has(c.securityContext) && has(c.securityContext"
    dropped = f"{context}.capabilities) && has(c.securityContext.capabilities.drop) && "
    return _policy(
        "gpufleet-node-cache",
        {},
        [
            *_raised(),
            Check(
                "variables.templates.all(t, !has(t.spec.volumes) || t.spec.volumes.all(v, "
                f"!has(v.hostPath) || v.hostPath.path == '{names.CACHE_FOLDER}'))",
                f"'gpufleet: of a node only its folder {names.CACHE_FOLDER} is used'",
            ),
            Check(
                f"variables.templates.all(t, {_CONTAINERS}.all(c, {dropped}"
                "'ALL' in c.securityContext.capabilities.drop))",
                "'gpufleet: every capability is dropped'",
            ),
        ],
        namespaces=(names.CACHE_NAMESPACE,),
    )


def _policy(
    name: str,
    variables: dict[str, str],
    checks: Sequence[Check],
    *,
    namespaces: Sequence[str] = names.GOVERNED_NAMESPACES,
) -> Object:
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": {
                "namespaceSelector": selector(namespaces),
                "resourceRules": [
                    {
                        "apiGroups": [group],
                        "apiVersions": [version],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": list(resources),
                    }
                    for group, version, resources in _RULES
                ],
            },
            "matchConditions": [_SPEC_CHANGED],
            "variables": [
                {"name": variable, "expression": expression}
                for variable, expression in {"templates": _TEMPLATES, **variables}.items()
            ],
            "validations": [
                {"expression": check.holds, "messageExpression": check.told, "reason": "Forbidden"}
                for check in checks
            ],
        },
    }


def _binding(policy: Object) -> Object:
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


def _is_of_pool(template: str) -> str:
    """Whether a pod runs a pool's engine: a replica, or one that answers a batch."""
    labels = f"{template}.metadata.labels"
    return f"(has({labels}) && ('{names.POOL}' in {labels} || '{names.BATCH_JOB}' in {labels}))"


def _given(key: str) -> str:
    return f"params.data['{key}'].split('\\n')"


def _shown(bad: str) -> str:
    """The images that a validation refuses, in one line."""
    return f"variables.images.map(found, found.filter(i, {bad}).join(', ')).join(' ')"


def _lines(values: Any) -> str:  # noqa: ANN401 - any iterable of text
    return "\n".join(sorted(set(values)))
