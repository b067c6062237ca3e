"""A folder that weights were brought to: a tree or a link to one, and a note of what it is."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from gpufleet.edges.snapshots.source import scan
from gpufleet.spec.errors import BadInput, FleetError, Retryable


@dataclass(frozen=True)
class Note:
    """What was brought."""

    snapshot: str
    digest: str
    files: int
    bytes_total: int
    tree: str
    """`print_of` the tree when it was verified."""


class Brought:
    """The folder and the note beside it.

    Args:
        folder: the one above it must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - the last link is not followed
        self._note = self.folder.with_name(f".{self.folder.name}.brought")

    @property
    def is_tree(self) -> bool:
        """Whether it is a folder of its own, no link to one."""
        return self.folder.is_dir() and not self.folder.is_symlink()

    def note(self, digest: str) -> Note | None:
        """What an earlier run has brought and nobody has touched since, if it is of this digest."""
        try:
            note = Note(**json.loads(self._note.read_bytes()))
        except (OSError, TypeError, ValueError):
            return None
        if note.digest != digest or note.tree != print_of(self.folder):
            return None
        return note

    def keep(self, note: Note) -> None:
        """Note what was brought.

        Raises:
            Retryable: it cannot be written.
        """
        beside = self._note.with_name(f"{self._note.name}.new")
        try:
            beside.write_text(json.dumps(asdict(note)), encoding="utf-8")
            beside.replace(self._note)
        except OSError as error:
            raise self._failed(error) from None

    def link(self, tree: Path) -> None:
        """Make it a link to a tree, in place of the link that it was.

        Raises:
            BadInput: the folder above it is not there.
            Retryable: it cannot be written.
        """
        if not self.folder.parent.is_dir():
            raise BadInput("the folder above it is not there", where=str(self.folder))
        if self.folder.exists() and not self.folder.is_symlink():
            raise BadInput("is no link, and not the tree that is wanted", where=str(self.folder))
        beside = self.folder.with_name(f".{self.folder.name}.link")
        try:
            beside.unlink(missing_ok=True)
            beside.symlink_to(tree.absolute())
            beside.replace(self.folder)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> Retryable:
        return Retryable(f"cannot be written: {error.strerror or error}", where=str(self.folder))


def print_of(tree: Path) -> str:
    """A digest of what is below a folder, by names, lengths, times and inodes, nothing read.

    Empty where there is no folder, or it cannot be listed.
    """
    try:
        entries = scan(tree).entries
    except FleetError:
        return ""
    return hashlib.sha256(repr(entries).encode("utf-8", "surrogateescape")).hexdigest()
