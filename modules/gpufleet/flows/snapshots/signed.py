"""Whether a snapshot in a store is signed by somebody who is trusted."""

from gpufleet.core.snapshots.layout import SIGNATURE, snapshot_key
from gpufleet.core.snapshots.manifest import decode
from gpufleet.core.snapshots.signatures import Trust, check
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.spec.errors import PolicyRefused


class Unsigned(PolicyRefused):
    """A snapshot without a signature, where one is asked for."""


def check_signature(store: SnapshotStore, snapshot: str, trust: Trust) -> None:
    """See that a snapshot is signed by somebody who is trusted.

    Raises:
        Unsigned: it is not signed.
        Forged: its signature is not one of it, or by somebody else.
        BadInput: there is no such snapshot.
    """
    stored = store.manifest_body(snapshot)
    manifest = decode(stored, snapshot=snapshot)
    bundle = store.objects.find(snapshot_key(snapshot, SIGNATURE))
    if bundle is None:
        raise Unsigned(
            "the snapshot is not signed, and signatures are required",
            where=snapshot,
            mend="restore a signed one; --unsigned restores it nevertheless",
        )
    check(bundle, manifest, stored, trust, snapshot=snapshot)
