"""The digest of a whole file, from what is known of its chunks."""

from collections.abc import Sequence

from blake3 import blake3

from gpufleet.spec.snapshots import ChunkRef


def file_digest(chunks: Sequence[ChunkRef]) -> str:
    """The ID of a file's only chunk; otherwise the BLAKE3 of its chunks' IDs, in order.

    It says as much of the file's bytes as a BLAKE3 over them, and takes no second pass over them: a
    take that goes on after an interruption has not read them all.
    """
    if len(chunks) == 1:
        return chunks[0].id
    return blake3(b"".join(bytes.fromhex(chunk.id) for chunk in chunks)).hexdigest()
