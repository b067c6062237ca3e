"""API paths of Kubernetes objects."""

import pytest

from gpufleet.edges.kube_paths import collection_path, object_path, plural


@pytest.mark.parametrize(
    ("kind", "resource"),
    [
        ("Pod", "pods"),
        ("NetworkPolicy", "networkpolicies"),
        ("PriorityClass", "priorityclasses"),
        ("Gateway", "gateways"),
        ("LeaderWorkerSet", "leaderworkersets"),
        ("ClusterQueue", "clusterqueues"),
        ("HTTPRoute", "httproutes"),
    ],
)
def test_kinds_are_served_under_their_plural(kind: str, resource: str) -> None:
    assert plural(kind) == resource


def test_a_path_names_group_version_namespace_and_object() -> None:
    assert collection_path("v1", "Pod", None) == "/api/v1/pods"
    thing = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "n", "name": "d"},
    }
    assert object_path(thing) == "/apis/apps/v1/namespaces/n/deployments/d"
