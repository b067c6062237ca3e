"""Snapshots of model artifacts: taken, listed, verified, restored, copied, repaired, pruned."""

from invoke import Context
from invoke.exceptions import Exit

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    opened_ground,
    print_json,
)

_COMMON = {
    "site": "Site whose object store it is. Default: the only one.",
    "fleet": FLEET_HELP,
    "json": JSON_HELP,
}
_ID = {"snapshot": "Its ID, as snapshot.list shows it."}


@command(
    {
        "revision": "Name of the model revision that the files are.",
        "source": "Folder of the files.",
        "reread": "Read every file, also those that an earlier take has read and nobody touched.",
        "sign_key": "File of the private key to sign with. Default: the fleet file's, if any.",
        "apply": APPLY_HELP,
        **_COMMON,
    }
)
def take(
    _: Context,
    revision: str,
    source: str,
    reread: bool = False,
    sign_key: str = "",
    apply: bool = False,
    site: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Store a folder, but only what the store has not; an interrupted take goes on.

    Example: ./fleet snapshot.take --revision chat-v7 --source /models/chat-v7 --apply
    """
    from gpufleet.tasks import snapshot_view

    wish = snapshot_view.take_wish(revision, source, reread=reread, sign_key=sign_key)
    ground = opened_ground(fleet)
    if apply:
        snapshot_view.do_take(ground, wish, site, json=json)
    else:
        snapshot_view.tell_take(ground, wish, site, json=json)


@command({"revision": "Only those of one model revision.", **_COMMON}, name="list")
def list_(
    _: Context, revision: str = "", site: str = "", fleet: str = "", json: bool = False
) -> None:
    """Every snapshot of a store, newest first.

    Example: ./fleet snapshot.list --revision chat-v7
    """
    from dataclasses import asdict

    from gpufleet.flows.snapshots.catalogue import listing
    from gpufleet.flows.snapshots.requests import store_of
    from gpufleet.tasks import snapshot_view

    found = listing(store_of(opened_ground(fleet), site), revision)
    if json:
        print_json([asdict(each) for each in found.snapshots])
    else:
        snapshot_view.show_listing(found)


@command({**_ID, **_COMMON})
def show(_: Context, snapshot: str, site: str = "", fleet: str = "", json: bool = False) -> None:
    """What a snapshot holds: files, modes, sizes, digests, links.

    Example: ./fleet snapshot.show --snapshot 20261126T101500Z-3fa9c1d2
    """
    from gpufleet.flows.snapshots.catalogue import shown
    from gpufleet.flows.snapshots.requests import store_of
    from gpufleet.tasks import snapshot_view

    summary, manifest = shown(store_of(opened_ground(fleet), site), snapshot)
    if json:
        print_json(snapshot_view.as_json(summary, manifest))
    else:
        snapshot_view.show_snapshot(summary, manifest)


@command(
    {"old": "ID of one snapshot.", "new": "ID of the one that it is compared with.", **_COMMON}
)
def diff(
    _: Context, old: str, new: str, site: str = "", fleet: str = "", json: bool = False
) -> None:
    """What differs between two snapshots: paths, and bytes that only the new one has.

    Example: ./fleet snapshot.diff --old 20261119T101500Z-0b1c2d3e --new 20261126T101500Z-3fa9c1d2
    """
    from dataclasses import asdict

    from gpufleet.flows.snapshots.catalogue import between
    from gpufleet.flows.snapshots.requests import store_of
    from gpufleet.tasks import snapshot_view

    found = between(store_of(opened_ground(fleet), site), old, new)
    if json:
        print_json(asdict(found))
    else:
        snapshot_view.show_difference(found)


@command(
    {
        **_ID,
        "sample": "Share of its chunks to read, drawn at random, such as 10%. Default: all.",
        "seed": "Draws the same sample again.",
        "deep": "Check its signature too, against the fleet file's keys or those given here.",
        "public_key": "File of the public key that has to have signed it; with --deep.",
        "certificate": "File of the authorities that vouch for its signer; with --deep.",
        **_COMMON,
    }
)
def verify(
    _: Context,
    snapshot: str,
    sample: str = "100%",
    seed: str = "",
    deep: bool = False,
    public_key: str = "",
    certificate: str = "",
    site: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Read a snapshot back, all of it or a sample; exit 5 if anything is lost or damaged.

    Example: ./fleet snapshot.verify --snapshot 20261126T101500Z-3fa9c1d2 --sample 10%
    """
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import snapshot_view

    order = snapshot_view.verify_wish(snapshot, sample, seed)
    ground = opened_ground(fleet)
    if deep or public_key or certificate:
        order = snapshot_view.deep_wish(ground, order, public_key, certificate)
    report = snapshot_view.do_verify(ground, order, site, json=json)
    if not report.good:
        raise Exit(code=EXIT_TARGET_MISSED)


@command(
    {
        **_ID,
        "to": "Folder that is made, or replaced at once when all of it is there.",
        "only": "One file of the snapshot, or all below one of its folders. Default: everything.",
        "unsigned": "Restore it whatever its signature is, where the fleet file demands one.",
        "nodes": "Node group: into the cache of each of its nodes instead of a folder here.",
        "node-rate": "Bytes/s that one node takes, such as 2GB. Default: what was measured.",
        "store-rate": "Bytes/s that the store gives to all nodes together, such as 20GB.",
        "network-rate": "Bytes/s between the store and the nodes, shared by all.",
        "apply": APPLY_HELP,
        **_COMMON,
    }
)
def restore(
    _: Context,
    snapshot: str,
    to: str = "",
    only: str = "",
    unsigned: bool = False,
    nodes: str = "",
    node_rate: str = "",
    store_rate: str = "",
    network_rate: str = "",
    apply: bool = False,
    site: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Bring a snapshot back, every byte verified; an interrupted restore goes on.

    What the folder holds already is not fetched. Until all is there, it stays as it was.

    With --nodes an Indexed Job restores to each node of a group, as many at once as the rates
    allow; exit 5 if it failed on one.

    Example: ./fleet snapshot.restore --snapshot 20261126T101500Z-3fa9c1d2 --to /models/chat --apply
    """
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import node_restore_view, snapshot_view

    if nodes:
        given = (node_rate, store_rate, network_rate)
        wish = node_restore_view.wish(snapshot, nodes, given, elsewhere=to or only or site)
        if not node_restore_view.carry_out(opened_ground(fleet), wish, apply=apply, json=json):
            raise Exit(code=EXIT_TARGET_MISSED)
        return
    order = snapshot_view.restore_wish(snapshot, to, only, unsigned=unsigned)
    ground = opened_ground(fleet)
    if apply:
        snapshot_view.do_restore(ground, order, site, json=json)
    else:
        snapshot_view.tell_restore(ground, order, site, json=json)


@command({"apply": APPLY_HELP, **_COMMON})
def prune(
    _: Context, apply: bool = False, site: str = "", fleet: str = "", json: bool = False
) -> None:
    """Remove snapshots past the fleet file's retention, and delete what none needs any more.

    A removed snapshot comes back for a day; then it and its chunks are deleted, if no lock holds.

    Example: ./fleet snapshot.prune --apply
    """
    from dataclasses import asdict

    from gpufleet.flows.snapshots.requests import pruned
    from gpufleet.tasks import snapshot_view

    report = pruned(opened_ground(fleet), site, apply=apply)
    if json:
        print_json(asdict(report))
    else:
        snapshot_view.show_prune(report, done=apply)


@command(
    {
        "from_": "Site whose snapshots are copied.",
        "to": "Site whose object store they are copied to.",
        "snapshot": "Only this one. Default: every good one that the retention keeps.",
        "revision": "Only those of one model revision.",
        "apply": APPLY_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def replicate(
    _: Context,
    from_: str,
    to: str,
    snapshot: str = "",
    revision: str = "",
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Copy snapshots to another site, each frame verified; an interrupted one goes on.

    Exit 5 if the store that is copied from has lost something of one; the others are copied.

    Example: ./fleet snapshot.replicate --from east --to west --apply
    """
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import snapshot_copies

    wish = snapshot_copies.replicate_wish(from_, to, snapshot, revision)
    ground = opened_ground(fleet)
    if not apply:
        snapshot_copies.tell_replicate(ground, wish, json=json)
    elif not snapshot_copies.do_replicate(ground, wish, json=json).good:
        raise Exit(code=EXIT_TARGET_MISSED)


@command(
    {
        **_ID,
        "from_": "Site that good copies are taken from. Default: every other one with a store.",
        "apply": APPLY_HELP,
        **_COMMON,
    }
)
def repair(
    _: Context,
    snapshot: str,
    from_: str = "",
    apply: bool = False,
    site: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Bring back what a store lost of a snapshot: from older versions, else from another site.

    Everything is read first, and what was brought back once more. Exit 5 if something is lost.

    Example: ./fleet snapshot.repair --snapshot 20261126T101500Z-3fa9c1d2 --from west --apply
    """
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import snapshot_copies

    wish = snapshot_copies.repair_wish(snapshot, site, from_)
    if not snapshot_copies.do_repair(opened_ground(fleet), wish, apply=apply, json=json).good:
        raise Exit(code=EXIT_TARGET_MISSED)


@command({"fleet": FLEET_HELP, "json": JSON_HELP})
def schedule(_: Context, fleet: str = "", json: bool = False) -> None:
    """What is taken by itself and when; exit 5 if a newest good one is older than its RPO.

    Example: ./fleet snapshot.schedule
    """
    from gpufleet.flows import snapshot_schedule
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import schedule_view

    report = snapshot_schedule.schedule(opened_ground(fleet))
    if json:
        print_json({**report.model_dump(mode="json"), "good": report.is_good})
    else:
        schedule_view.show(report)
    if not report.is_good:
        raise Exit(code=EXIT_TARGET_MISSED)
