"""The digest of a model revision: what a fleet file pins, whatever snapshot brings it."""

import hashlib
import json

from gpufleet.core.snapshots.digests import file_digest
from gpufleet.spec.snapshots import Manifest


def revision_digest(manifest: Manifest) -> str:
    """`sha256:` and the SHA-256 of what a manifest says of its tree alone.

    Neither when it was taken, from where and by what, nor how it is signed or stored: the same
    folder has the same digest in every store without a client's key, and in every one with the same
    key. A file's BLAKE3 is made of its chunks here, so that no manifest whose chunks are others has
    the digest of this one.
    """
    tree = {
        "files": sorted(
            [entry.path, entry.mode, entry.plain_bytes, file_digest(entry.chunks)]
            for entry in manifest.files
        ),
        "folders": sorted([*each] for each in manifest.folders),
        "links": sorted([*each] for each in manifest.links),
    }
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
