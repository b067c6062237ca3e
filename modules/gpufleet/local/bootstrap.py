"""What the processes of an embedded site need inside its cluster; runs once after the API server.

`python -m gpufleet.local.bootstrap SITE_FOLDER`. Everything is applied: running it again changes
nothing but Prometheus' token, which is made anew.
"""

import sys
from pathlib import Path

from gpufleet.edges.kube import Cluster
from gpufleet.local import roles
from gpufleet.local.cluster_operators import ClusterOperators
from gpufleet.local.files import read_json, write_private
from gpufleet.local.pki import VALID
from gpufleet.local.site_files import ADMIN, SCRAPES_AS
from gpufleet.spec.errors import FleetError


def main(folder: Path) -> int:
    """Apply everything; 0 when done."""
    settings = read_json(folder / "site.json")
    cluster = Cluster(folder / f"{ADMIN}.kubeconfig", settings["name"])
    roles.grant(cluster, "gpufleet:kwok", roles.KWOK)
    roles.grant(cluster, "gpufleet:node-agent", roles.AGENT)
    ClusterOperators(
        cluster=cluster,
        manifests=Path(settings["manifests"]),
        ports=settings["ports"],
        authority=folder / "pki" / "ca.crt",
    ).install()
    _prometheus(cluster, folder / SCRAPES_AS)
    return 0


def _prometheus(cluster: Cluster, token: Path) -> None:
    """Its rights, and its token for the operators that know no client certificates."""
    namespace, name = "kube-system", "gpufleet-prometheus"
    cluster.apply(
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name},
            "automountServiceAccountToken": False,
        },
    )
    roles.grant(cluster, "gpufleet:prometheus", roles.PROMETHEUS)
    roles.grant(
        cluster, "gpufleet:metrics-reader", roles.METRICS_READER, roles.account(namespace, name)
    )
    write_private(token, cluster.token(namespace, name, int(VALID.total_seconds())))


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except FleetError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
