"""What a person does about the clusters that are being provisioned."""

from gpufleet.spec import Fleet
from gpufleet.spec.cluster_checks import cluster_name
from gpufleet.spec.clusters import ProvisionedCluster


def awaited_clusters(fleet: Fleet) -> list[str]:
    """Commands that show how far each is, and give its kubeconfig; none where nothing is awaited.

    The kubeconfig goes from the management cluster to a person, and never through our state.
    """
    steps = []
    for name, site in fleet.sites.items():
        if isinstance(site.cluster, ProvisionedCluster) and fleet.awaits_cluster(name):
            place = f"--context {site.cluster.management_context} -n {site.cluster.namespace}"
            secret = f"{cluster_name(fleet, name)}-kubeconfig"
            read = f"kubectl {place} get secret {secret} -o jsonpath='{{.data.value}}' | base64 -d"
            steps += [
                f"kubectl {place} get cluster,machinedeployment,baremetalhost",
                f"{read}   # once it stands: merge it, name its context at site {name}, up again",
            ]
    return steps
