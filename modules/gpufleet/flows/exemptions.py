"""What may go on in a freeze: with a token that ends, and a record of it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import yaml

from gpufleet.core import vocabulary as names
from gpufleet.core.freeze import Decision, Purpose
from gpufleet.edges.exemption_table import TOKEN_VARIABLE
from gpufleet.edges.kube import TOKEN_FOR
from gpufleet.edges.kube_paths import collection_path
from gpufleet.edges.variables import own_kubeconfig
from gpufleet.flows.environment import Environment, variables_of
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.overrides import note_use, overrides_in_force
from gpufleet.flows.windows import decision_at
from gpufleet.local.files import remove_older, write_private
from gpufleet.spec.overrides import Override
from gpufleet.spec.records import Exemption

EXEMPT_FOR: Final = timedelta(hours=1)


@contextmanager
def exempted(
    ground: Ground, environment: Environment, site: str, purpose: Purpose, flow: str
) -> Iterator[dict[str, str]]:
    """Variables with which a stack of a site is updated for an exempt purpose.

    Empty where nothing is frozen and for a plain change. In a freeze they carry a token that the
    stack's program accepts, and a kubeconfig as the account that the cluster's policies let
    through; both end within the hour, and the journal says who had them, and why.

    An override that is for this flow alone is such an exemption, which ends with it: program and
    cluster do not know whose change they meet. Any other override they know themselves.

    Raises:
        FleetError: the database or the cluster does not answer.
    """
    now = ground.clock()
    decision = decision_at(
        environment.fleet,
        environment.fleet_file,
        site,
        now,
        purpose=purpose,
        flow=flow,
        overrides=lambda: overrides_in_force(ground),
    )
    note_use(ground, decision, actor=whoami(), target=site, flow=flow)
    alone = [found for found in _used(ground, decision) if found.flow]
    if not decision.exempt and not alone:
        yield {}
        return
    ends = min([now + EXEMPT_FOR, *(found.ends_at for found in alone)])
    exemption = Exemption(
        id=f"exempt-{secrets.token_hex(6)}",
        purpose=f"override {alone[0].id}" if alone else purpose.value,
        target=site,
        actor=whoami(),
        granted_at=now,
        expires_at=ends,
    )
    ground.note(
        "freeze.exempted",
        actor=exemption.actor,
        target=site,
        purpose=exemption.purpose,
        exemption=exemption.id,
        freeze=decision.reason,
        until=exemption.expires_at.isoformat(),
    )
    variables = {TOKEN_VARIABLE: ground.exemptions.grant(exemption)}
    kubeconfig = ground.state.root / f"{exemption.id}.kubeconfig"
    remove_older(ground.state.root, "exempt-*.kubeconfig", EXEMPT_FOR.total_seconds())
    try:
        if entered := _entered_as_exempt(environment, site, max(ends - now, TOKEN_FOR)):
            write_private(kubeconfig, entered)
            # The first file that names a context wins; a management cluster's is in the others.
            known = variables_of(environment.workspace, environment.fleet_file)
            others = known.get("KUBECONFIG") or own_kubeconfig()
            variables["KUBECONFIG"] = os.pathsep.join([str(kubeconfig), others])
        yield variables
    finally:
        kubeconfig.unlink(missing_ok=True)
        ground.exemptions.end(exemption)


def _used(ground: Ground, decision: Decision) -> list[Override]:
    """The overrides that a decision is due to."""
    if not decision.overrides:
        return []
    return [found for found in overrides_in_force(ground) if found.id in decision.overrides]


def _entered_as_exempt(environment: Environment, site: str, ends_after: timedelta) -> str | None:
    """A kubeconfig as the exempt account; None before the platform stack has made it."""
    cluster = environment.cluster(site)
    try:
        accounts = collection_path("v1", "ServiceAccount", names.SYSTEM_NAMESPACE)
        if cluster.get(f"{accounts}/{names.EXEMPT}") is None:
            return None
        entered = cluster.kubeconfig_as(names.SYSTEM_NAMESPACE, names.EXEMPT, ends_after)
        return yaml.safe_dump(entered)
    finally:
        cluster.close()
