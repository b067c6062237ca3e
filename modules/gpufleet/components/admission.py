"""Admission policies of a site: what may run, and when something may change."""

import re
from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from gpufleet.core import admission, freeze_admission, freeze_state
from gpufleet.core import vocabulary as names
from gpufleet.spec.fleet import Fleet

_KINDS = {
    "ConfigMap": k8s.core.v1.ConfigMap,
    "ServiceAccount": k8s.core.v1.ServiceAccount,
    "ClusterRole": k8s.rbac.v1.ClusterRole,
    "ClusterRoleBinding": k8s.rbac.v1.ClusterRoleBinding,
    "ValidatingAdmissionPolicy": k8s.admissionregistration.v1.ValidatingAdmissionPolicy,
    "ValidatingAdmissionPolicyBinding": (
        k8s.admissionregistration.v1.ValidatingAdmissionPolicyBinding
    ),
}


class Admission(pulumi.ComponentResource):
    """The policies, what they read, and the accounts that a freeze lets through.

    Everything else of a site depends on `resources`: so it is made after them, and a `pulumi
    destroy` meets them first. In a freeze it ends there.

    Args:
        name: name of the component.
        fleet: what it declares is what is allowed.
        opts: with the provider of the site's cluster.
    """

    def __init__(self, name: str, fleet: Fleet, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("gpufleet:platform:Admission", name, None, opts)
        self._labels = {names.MANAGED: "true", names.FLEET: fleet.slug}
        home = k8s.core.v1.Namespace(
            names.SYSTEM_NAMESPACE,
            metadata={
                "name": names.SYSTEM_NAMESPACE,
                "labels": {**self._labels, **names.POD_SECURITY},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        accounts = self._all(freeze_admission.service_accounts(), [home])
        # The worker writes it from then on.
        state = self._one(freeze_state.first_state(), [home], ignore_changes=["data"])
        parameters = self._one(admission.parameters(fleet), [home])
        self.resources: list[pulumi.Resource] = self._all(
            [*admission.policies(), *freeze_admission.policies()], [state, parameters, *accounts]
        )
        self.register_outputs({"policies": len(self.resources) // 2})

    def hold_when_unknown(self, after: Sequence[pulumi.Resource]) -> None:
        """Let an unknown state mean frozen, once everything of the site stands.

        Args:
            after: what is made before: nobody tells the state of a site that is being made.
        """
        self._all(freeze_admission.clock_policies(), after)

    def _all(
        self, things: Sequence[dict[str, Any]], after: Sequence[pulumi.Resource]
    ) -> list[pulumi.Resource]:
        return [self._one(thing, after) for thing in things]

    def _one(
        self,
        thing: dict[str, Any],
        after: Sequence[pulumi.Resource],
        ignore_changes: list[str] | None = None,
    ) -> pulumi.Resource:
        inputs = {
            key: value
            for key, value in thing.items()
            if key not in {"apiVersion", "kind", "metadata"}
        }
        metadata = {**thing["metadata"], "labels": self._labels}
        # A binding has the name of its policy.
        name = f"{thing['metadata']['name']}-{thing['kind'].lower()}"
        made: pulumi.Resource = _KINDS[thing["kind"]](
            name,
            metadata=metadata,
            **{_snake(key): value for key, value in inputs.items()},
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[*after], ignore_changes=ignore_changes
            ),
        )
        return made


def _snake(key: str) -> str:
    """A Kubernetes field as Pulumi's Python names it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()
