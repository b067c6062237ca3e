"""Which names a snapshot may hold: each stays in its tree and is one file everywhere."""

import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import FileEntry, FolderEntry, LinkEntry

PATH_BYTES_MAX: Final = 4096
PART_BYTES_MAX: Final = 255
_PERMISSIONS: Final = 0o777
_NOT_TEXT: Final = frozenset({"Cc", "Cs"})
"""Control characters, and what stands for bytes that are no UTF-8."""
_PART: Final = r"(?!\.\.?(?:/|\Z))[ -.0-~]{1,255}"
_PLAIN: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_MEND: Final = "Rename it, or leave it out of the folder."


class SourceEntry(NamedTuple):
    """What stands in the folder that is to be taken, as `lstat` tells it."""

    path: str
    """Below the folder, parts separated by `/`."""
    mode: int
    """Type and permissions (`st_mode`)."""
    plain_bytes: int
    target: str = ""
    """Of a symbolic link, as it holds it."""
    sparse: bool = False
    """Whether the file has a hole (`SEEK_HOLE` finds one before its end)."""


def refuse_source(entries: Iterable[SourceEntry]) -> None:
    """See that a folder can be taken as it is.

    Raises:
        BadInput: a special or sparse file; a link out of the folder; a name that is not UTF-8,
            too long, or another one's but for upper and lower case.
    """
    tree = _Tree()
    for entry in entries:
        tree.add(entry.path, leaf=not stat.S_ISDIR(entry.mode))
        if stat.S_ISLNK(entry.mode):
            check_link(entry.path, entry.target)
        elif not (stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode)):
            raise BadInput(
                "it is a device, a socket or a pipe, which a snapshot does not hold",
                where=_shown(entry.path),
                mend="Leave it out of the folder.",
            )
        elif entry.sparse:
            raise BadInput(
                "the file has holes: an interrupted download leaves such a file",
                where=_shown(entry.path),
                mend="Complete it; if the zeros belong there, `cp --sparse=never` writes them.",
            )


def refuse_names(
    files: Iterable[FileEntry], folders: Iterable[FolderEntry], links: Iterable[LinkEntry]
) -> None:
    """See that what a manifest names can be written below one folder, and only there.

    Raises:
        BadInput: as `refuse_source`, and where something would lie below a file or a link.
    """
    tree = _Tree()
    for folder in folders:
        tree.add(folder[0], leaf=False)
    for file in files:
        tree.add(file[0], leaf=True)
    for path, target in links:
        tree.add(path, leaf=True)
        check_link(path, target)


def permissions(mode: int) -> int:
    """What a snapshot keeps of a mode: no set-user-ID, set-group-ID or sticky bit."""
    return mode & _PERMISSIONS


def check_link(path: str, target: str) -> None:
    """See that a link stays in its tree, whatever the links are that it leads through.

    `..` may stand only at its begin: behind a name that is a link itself, it would lead to that
    one's parent.

    Raises:
        BadInput: it does not, or nobody can tell.
    """
    parts = target.split("/")
    up = next((place for place, part in enumerate(parts) if part != ".."), len(parts))
    if (
        not target
        or target.startswith("/")
        or ".." in parts[up:]
        or up > path.count("/")
        or not _is_text(target)
    ):
        raise BadInput(
            f"the link leads to `{_shown(target)}`, out of the folder or no one knows where",
            where=_shown(path),
            mend="Put the file itself in its place, or let the link be relative.",
        )


class _Tree:
    """Names that were seen, by how a file system that ignores case sees them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}
        """The folded path: the path itself, and whether nothing may lie below it."""
        self._folders = {""}
        self._leaves: set[str] = set()

    def add(self, path: str, *, leaf: bool) -> None:
        if len(path) > PATH_BYTES_MAX or _PLAIN.fullmatch(path) is None:
            _check_unusual(path)
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            self._add_folders(path, folder)
        known, is_leaf = self._seen.setdefault(_folded(path), (path, leaf))
        if known != path or is_leaf != leaf or (leaf and path in self._leaves):
            raise self._clash(path, known)
        if leaf:
            self._leaves.add(path)

    def _add_folders(self, path: str, folder: str) -> None:
        for above in _ancestors(folder):
            known, leaf = self._seen.setdefault(_folded(above), (above, False))
            if known != above:
                raise self._clash(path, known)
            if leaf:
                raise BadInput(
                    f"it lies below `{_shown(known)}`, which is no folder",
                    where=_shown(path),
                    mend=_MEND,
                )
        self._folders.add(folder)

    @staticmethod
    def _clash(path: str, known: str) -> BadInput:
        what = (
            "it is named twice, or is a folder as well"
            if known == path
            else f"`{_shown(known)}` is there too: the same name where case does not count"
        )
        return BadInput(what, where=_shown(path), mend=_MEND)


def _ancestors(folder: str) -> Iterator[str]:
    place = -1
    while (place := folder.find("/", place + 1)) >= 0:
        yield folder[:place]
    yield folder


def _check_unusual(path: str) -> None:
    """Raise BadInput for a path that is not one below a folder."""
    parts = path.split("/")
    if path.startswith("/"):
        what = "the name is absolute"
    elif ".." in parts:
        what = "the name leads out of the folder"
    elif "" in parts or "." in parts:
        what = "the name has an empty part, or the part `.`"
    elif not _is_text(path):
        what = "the name is no UTF-8, or has control characters"
    elif len(path.encode()) > PATH_BYTES_MAX or any(
        len(part.encode()) > PART_BYTES_MAX for part in parts
    ):
        what = f"the name is too long: {PATH_BYTES_MAX} bytes, and {PART_BYTES_MAX} for each part"
    else:
        return
    raise BadInput(what, where=_shown(path), mend=_MEND)


def _folded(path: str) -> str:
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _is_text(path: str) -> bool:
    return not any(unicodedata.category(sign) in _NOT_TEXT for sign in path)


def _shown(path: str) -> str:
    """A path for a message: escaped where it is no text, and cut."""
    return ascii(path)[1:-1][:200] if not path.isprintable() else path[:200]
