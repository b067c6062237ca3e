"""A freeze inside the cluster: what plain kubectl is refused, and by which state.

CEL has no clock. Whether a cluster is frozen, and for which pools and kinds of change, reaches it
in a ConfigMap that the worker keeps true, and until when that is known in an annotation of our
namespaces. The clock is the API server's own: each API server renews a Lease of its identity every
ten seconds, and the second policy compares that with the annotation. So a worker that dies before a
window does not leave it open: nothing is known any more, and that means frozen.

The limit: objects without a namespace (ClusterQueue, PriorityClass, the Namespaces themselves) have
no annotation to look at, so a state that is no longer kept holds for them as it was written last;
and Kubernetes does not let a policy guard policies, so whoever may delete these is not bound.

Nodes are not governed: a cordon or a taint is quarantine, and goes on in a freeze. What is
installed on their hosts no API server sees; the guard of the playbooks holds that.
"""

from collections.abc import Mapping
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.admission_objects import API, binding, named, selector
from gpufleet.core.freeze_requests import ANSWER, variables
from gpufleet.core.freeze_state import OPEN

Object = dict[str, Any]
UNKNOWN: Final = "gpufleet-freeze-unknown"
"""Name of the policy, and of its binding."""
_CLOCK: Final = {"apiserver.kubernetes.io/identity": "kube-apiserver"}

_CHANGES: Final = ("CREATE", "UPDATE", "DELETE")
GOVERNED: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("", ("services", "serviceaccounts", "configmaps", "resourcequotas", "limitranges")),
    (
        "apps",
        (
            *("deployments", "deployments/scale", "replicasets", "replicasets/scale"),
            *("statefulsets", "statefulsets/scale", "daemonsets"),
        ),
    ),
    ("autoscaling", ("horizontalpodautoscalers",)),
    ("gateway.networking.k8s.io", ("*",)),
    ("keda.sh", ("scaledobjects", "scaledjobs", "triggerauthentications")),
    ("kueue.x-k8s.io", ("localqueues",)),
    ("leaderworkerset.x-k8s.io", ("leaderworkersets", "leaderworkersets/scale")),
    ("monitoring.coreos.com", ("*",)),
    ("networking.k8s.io", ("networkpolicies", "ingresses")),
    ("policy", ("poddisruptionbudgets",)),
    ("rbac.authorization.k8s.io", ("roles", "rolebindings")),
    ("resource.k8s.io", ("resourceclaimtemplates",)),
)
"""What a freeze holds in our namespaces. Not pods (who restarts a hung replica heals), not jobs
(work, not a change), not secrets (a leaked key is revoked at once)."""
_GOVERNED_CLUSTER: Final = (
    ("kueue.x-k8s.io", ("clusterqueues", "resourceflavors", "workloadpriorityclasses")),
    ("scheduling.k8s.io", ("priorityclasses",)),
    ("node.k8s.io", ("runtimeclasses",)),
    ("rbac.authorization.k8s.io", ("clusterroles", "clusterrolebindings")),
)
_OPERATORS: Final = ("keda", "kueue-system", "lws-system", "gpu-operator")
_SYSTEM_USERS: Final = (
    "system:apiserver",
    "system:kube-controller-manager",
    "system:kube-scheduler",
)
_SYSTEM_GROUPS: Final = (
    "system:nodes",
    "system:serviceaccounts:kube-system",
    *(f"system:serviceaccounts:{namespace}" for namespace in _OPERATORS),
    names.CONTROLLERS_GROUP,
)
"""Controllers and operators: autoscaling and self-healing go on in a freeze."""


def policies() -> list[Object]:
    """The policies that hold first, each followed by its binding: the state, and who writes it."""
    state = {"name": names.FREEZE_STATE, "namespace": names.SYSTEM_NAMESPACE}
    return [_frozen(), binding("gpufleet-freeze", state), _writer(), _plain_binding()]


def clock_policies() -> list[Object]:
    """The policy that holds once the state is kept, with its binding: unknown means frozen.

    The binding is the last thing that a platform stack makes: before it nobody tells a freeze, so
    that a first provisioning passes.
    """
    clock = {"namespace": names.DEFINITIONS_NAMESPACE, "selector": {"matchLabels": dict(_CLOCK)}}
    return [_unknown(), binding(UNKNOWN, clock)]


def service_accounts() -> list[Object]:
    """Who may write the state, and whom exempt flows act as, with least rights; plain objects."""
    about = {"namespace": names.SYSTEM_NAMESPACE}
    rbac = "rbac.authorization.k8s.io/v1"
    made: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, **about},
            "automountServiceAccountToken": False,
        }
        for account in (names.FREEZE_SYNC, names.EXEMPT)
    ]
    rules: dict[str, list[Object]] = {
        names.FREEZE_SYNC: [
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [names.FREEZE_STATE],
                "verbs": ["get", "patch"],
            },
            {
                "apiGroups": [""],
                "resources": ["namespaces"],
                "resourceNames": list(names.GOVERNED_NAMESPACES),
                "verbs": ["get", "patch"],
            },
        ],
        names.EXEMPT: [
            *(
                {"apiGroups": [group], "resources": list(resources), "verbs": ["*"]}
                for group, resources in (*GOVERNED, *_GOVERNED_CLUSTER)
                if group != "rbac.authorization.k8s.io"
            ),
            # No freeze holds them, since storage drivers change them; lost ones are made again.
            {
                "apiGroups": [""],
                "resources": ["persistentvolumes", "persistentvolumeclaims"],
                "verbs": ["*"],
            },
            {
                "apiGroups": ["", "discovery.k8s.io", "events.k8s.io"],
                "resources": [
                    *("pods", "nodes", "namespaces", "events"),
                    *("endpoints", "endpointslices"),
                ],
                "verbs": ["get", "list", "watch"],
            },
            {
                "apiGroups": ["apiextensions.k8s.io"],
                "resources": ["customresourcedefinitions"],
                "verbs": ["get", "list", "watch"],
            },
        ],
    }
    for account, allowed in rules.items():
        made += [
            {
                "apiVersion": rbac,
                "kind": "ClusterRole",
                "metadata": {"name": account},
                "rules": allowed,
            },
            {
                "apiVersion": rbac,
                "kind": "ClusterRoleBinding",
                "metadata": {"name": account},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": account,
                },
                "subjects": [{"kind": "ServiceAccount", "name": account, **about}],
            },
        ]
    return made


def _frozen() -> Object:
    labelled = (
        "{0} != null && has({0}.metadata.labels) && '" + names.MANAGED + "' in {0}.metadata.labels"
    )
    return _policy(
        "gpufleet-freeze",
        param=("v1", "ConfigMap"),
        rules=[
            *_rules(GOVERNED),
            *_rules(_GOVERNED_CLUSTER),
            _rule("", ("namespaces",), ("UPDATE", "DELETE")),
        ],
        conditions={
            **_people(),
            "not-the-state-itself": (
                "!(request.resource.resource == 'configmaps' && "
                f"request.name == '{names.FREEZE_STATE}')"
            ),
            "ours": (
                "(has(request.namespace) && request.namespace != '') || "
                f"({labelled.format('object')}) || ({labelled.format('oldObject')})"
            ),
        },
        variables_=variables(),
        expression=f"variables.kinds.all(k, variables.pools.all(p, {ANSWER} == '{OPEN}'))",
        message=(
            f"'gpufleet: ' + variables.kinds.map(k, variables.pools.map(p, {ANSWER})"
            f".filter(a, a != '{OPEN}')).filter(found, found.size() > 0)[0][0]"
        ),
    )


def _unknown() -> Object:
    key = names.FREEZE_KNOWN_UNTIL
    known = (
        "namespaceObject != null && has(namespaceObject.metadata.annotations) && "
        f"'{key}' in namespaceObject.metadata.annotations"
    )
    until = f"namespaceObject.metadata.annotations['{key}']"
    return _policy(
        UNKNOWN,
        param=("coordination.k8s.io/v1", "Lease"),
        rules=_rules(GOVERNED),
        conditions={
            **_people(),
            "not-the-state-itself": (
                "!(request.resource.resource == 'configmaps' && "
                f"request.name == '{names.FREEZE_STATE}')"
            ),
        },
        expression=f"({known}) && timestamp({until}) > timestamp(params.spec.renewTime)",
        message=(
            f"'gpufleet: frozen: since ' + (({known}) ? {until} : 'its first start') + "
            "' nobody has told whether a freeze holds; see to the worker (./fleet up), or "
            "./fleet freeze.sync'"
        ),
    )


def _writer() -> Object:
    """The state is the worker's: whoever could write it could end any freeze."""
    key = names.FREEZE_KNOWN_UNTIL

    def annotation(of: str) -> str:
        return (
            f"({of} != null && has({of}.metadata.annotations) && "
            f"'{key}' in {of}.metadata.annotations ? {of}.metadata.annotations['{key}'] : '')"
        )

    return _policy(
        "gpufleet-freeze-writer",
        param=None,
        rules=[
            _rule("", ("configmaps",), _CHANGES),
            _rule("", ("namespaces",), ("CREATE", "UPDATE")),
        ],
        conditions={
            "not-the-writer": f"request.userInfo.username != '{_user(names.FREEZE_SYNC)}'",
            "not-the-collector": (
                "!(has(request.userInfo.groups) && "
                "'system:serviceaccounts:kube-system' in request.userInfo.groups)"
            ),
        },
        expression=(
            "request.resource.resource == 'configmaps' ? "
            f"request.name != '{names.FREEZE_STATE}' : "
            f"{annotation('object')} == {annotation('oldObject')}"
        ),
        message="'gpufleet: only the worker tells whether a freeze holds (./fleet freeze.sync)'",
    )


def _plain_binding() -> Object:
    made = binding("gpufleet-freeze-writer", {})
    del made["spec"]["paramRef"]
    return made


def _people() -> dict[str, str]:
    """Conditions that leave controllers, the state's writer and exempt flows alone."""
    users = [*_SYSTEM_USERS, _user(names.EXEMPT), _user(names.FREEZE_SYNC)]
    return {
        "not-the-system": f"!(request.userInfo.username in {_list(users)})",
        "not-a-controller": (
            "!(has(request.userInfo.groups) && "
            f"request.userInfo.groups.exists(g, g in {_list(_SYSTEM_GROUPS)}))"
        ),
    }


def _policy(  # noqa: PLR0913 - a policy has that many parts
    name: str,
    *,
    param: tuple[str, str] | None,
    rules: list[Object],
    conditions: dict[str, str],
    expression: str,
    message: str,
    variables_: Mapping[str, str] | None = None,
) -> Object:
    kind = {"paramKind": {"apiVersion": param[0], "kind": param[1]}} if param else {}
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            **kind,
            "matchConstraints": {
                "namespaceSelector": selector(names.GOVERNED_NAMESPACES),
                "resourceRules": rules,
            },
            "matchConditions": [
                {"name": condition, "expression": text} for condition, text in conditions.items()
            ],
            **named(variables_ or {}),
            "validations": [
                {"expression": expression, "messageExpression": message, "reason": "Forbidden"}
            ],
        },
    }


def _rules(governed: tuple[tuple[str, tuple[str, ...]], ...]) -> list[Object]:
    return [_rule(group, resources, _CHANGES) for group, resources in governed]


def _rule(group: str, resources: tuple[str, ...], operations: tuple[str, ...]) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": ["*"],
        "operations": list(operations),
        "resources": list(resources),
    }


def _user(account: str) -> str:
    return f"system:serviceaccount:{names.SYSTEM_NAMESPACE}:{account}"


def _list(values: Any) -> str:  # noqa: ANN401 - any iterable of text
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"
