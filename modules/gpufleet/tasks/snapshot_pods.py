"""What pods on a cluster run to have a snapshot: no environment is known there."""

from invoke import Context

from gpufleet.tasks.command import APPLY_HELP, JSON_HELP, command, print_json

_PLACE = {
    "endpoint": "Of the object store. Default: by AWS's chain, as for region.",
    "region": "That requests to it are signed for.",
    "style": "Where requests name the bucket: path or virtual.",
}


@command(
    {
        "snapshot": "Its ID, as snapshot.list shows it.",
        "to": "Folder that is made, or replaced at once when all of it is there.",
        "bucket": "Of the snapshots.",
        "readable": "Let every user read it, whatever the modes in the snapshot are.",
        **_PLACE,
        "apply": APPLY_HELP,
        "json": JSON_HELP,
    }
)
def fill(
    _: Context,
    snapshot: str,
    to: str,
    bucket: str,
    readable: bool = False,
    endpoint: str = "",
    region: str = "",
    style: str = "path",
    apply: bool = False,
    json: bool = False,
) -> None:
    """Restore where no environment is known: what a node's pod runs; keys come from AWS's chain.

    The key of an encrypted store is in the file that GPUFLEET_SNAPSHOT_KEY_FILE names.

    Example: ./fleet snapshot.fill --snapshot 20261126T101500Z-3fa9c1d2 --to /cache/chat-v7 \
    --endpoint https://s3.fra1.example.com --region fra1 --bucket sample-production-snapshots
    """
    from dataclasses import asdict, replace

    from gpufleet.edges.object_client import Place
    from gpufleet.flows.snapshots.fill import fill as fill_from
    from gpufleet.tasks import snapshot_view

    order = replace(snapshot_view.restore_wish(snapshot, to, ""), readable=readable)
    report = fill_from(order, Place.of_chain(endpoint, region, style), bucket, apply=apply)
    if json:
        print_json(asdict(report))
    else:
        snapshot_view.show_fill(report)


@command(
    {
        "source": "Snapshots of the revision: s3://BUCKET/REVISION.",
        "digest": "Of the revision, as the fleet file has it: sha256:...",
        "to": "Folder that is made; a link where the cache has it.",
        "cache": "Folder with a tree for each revision, only read; it need not be there.",
        **_PLACE,
        "apply": APPLY_HELP,
        "json": JSON_HELP,
    }
)
def weights(
    _: Context,
    source: str,
    digest: str,
    to: str,
    cache: str = "",
    endpoint: str = "",
    region: str = "",
    style: str = "path",
    apply: bool = False,
    json: bool = False,
) -> None:
    """Bring the weights of a pool's pod before its engine starts, every byte verified.

    No environment is known: keys come from AWS's chain, the key of an encrypted store from the
    file that GPUFLEET_SNAPSHOT_KEY_FILE names.

    Example: ./fleet snapshot.weights --source s3://sample-production-snapshots/chat-v7 \
    --digest sha256:b32f... --to /models/revision --cache /node-cache --apply
    """
    from gpufleet.tasks import weights_view

    order = weights_view.wish(source, digest, to, cache)
    weights_view.carry_out(order, (endpoint, region, style), apply=apply, json=json)
