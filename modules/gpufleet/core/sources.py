"""Where numbers of a plan come from, as a reader can open it."""

from dataclasses import dataclass

from gpufleet.spec.problem import position
from gpufleet.spec.source import Document, FieldPath, dotted


@dataclass(frozen=True)
class Sources:
    """The lines of a fleet file, of its shared parts, and of its plan."""

    document: Document
    root: str = ""
    """Folder that paths are shown from; as they were read where it is empty."""

    def at(self, *paths: FieldPath) -> str:
        """`file:line:column: field` of each path; one that was not written says so."""
        return "; ".join(self._one(path) for path in paths)

    def _one(self, path: FieldPath) -> str:
        place = str(position(self.document, path))
        if self.root:
            place = place.removeprefix(f"{self.root}/")
        where = f"{place}: {dotted(path)}"
        return where if path in self.document.positions else f"{where} (default)"
