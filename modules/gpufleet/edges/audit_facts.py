"""What an audit log keeps of a request before it has a record."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from gpufleet.spec.audit import UNCLASSIFIED
from gpufleet.spec.gateway import AuditRecord

_FIELDS: Final = frozenset(AuditRecord.model_fields) - {"writer", "sequence", "previous"}
_LONGEST_ID: Final = 100
_SLOT_TEXT: Final = 300
"""Characters of text that find space in a slot however they are escaped."""
_SHORT: Final = 50
"""Characters of each text where there are more."""


@dataclass(frozen=True)
class Begun:
    """A request in flight."""

    slot: int
    data_class: str
    facts: Mapping[str, Any]


@dataclass
class Gap:
    """Requests of one use case that have one record together."""

    request_id: str
    data_class: str
    use_case: str
    begins: str
    refused: bool = False
    """Whether they were refused, since nobody was recognized; else they were served."""
    ends: str = ""
    count: int = 0
    served: bool = True
    """False for those that were refused because they could not be recorded."""
    slot: int | None = None
    due_s: float = 0.0
    """When it is recorded at the earliest; monotonic."""

    @property
    def kept(self) -> dict[str, Any]:
        """What its slot says."""
        return {name: value for name, value in vars(self).items() if name not in {"slot", "due_s"}}


def gap_facts(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a gap says.

    Args:
        kept: as its slot says.
    """
    done = "were not recorded"
    if not kept.get("served", True):
        done = "were refused, as they could not be recorded"
    span = f"from {kept['begins']} to {kept['ends']}"
    if kept.get("refused"):
        return {
            "request_id": kept["request_id"],
            "at": kept["begins"],
            "route": "none",
            "status": 401,
            "error": "unrecognized",
            "reason": f"{kept['count']} more requests {span} from nobody that was recognized",
        }
    return {
        "request_id": kept["request_id"],
        "at": kept["begins"],
        "use_case": kept["use_case"],
        "route": "gap",
        "error": "audit_gap",
        "reason": f"{kept['count']} requests {span} {done}",
    }


def split(request_id: str, opening: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Data class and facts of a request that comes."""
    facts = dict(opening)
    data_class = str(facts.pop("data_class", None) or UNCLASSIFIED)
    return data_class, {**known(facts), "request_id": request_id[:_LONGEST_ID]}


def known(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same, if a record has such fields: what is found wrong at the end would be lost."""
    if unknown := facts.keys() - _FIELDS:
        message = f"a record has no such fields: {sorted(unknown)}"
        raise TypeError(message)
    return facts


def for_slot(data_class: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a request until it ends; never content, and what is long is cut."""
    kept = {
        name: value
        for name, value in facts.items()
        if name not in {"prompt", "answer"} and value is not None
    }
    if sum(len(value) for value in kept.values() if isinstance(value, str)) > _SLOT_TEXT:
        kept = {
            name: value.encode("ascii", "backslashreplace").decode()[:_SHORT]
            if isinstance(value, str)
            else value
            for name, value in kept.items()
        }
    return {**kept, "data_class": data_class}


def moment(now_s: float) -> str:
    """A time as records have it."""
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds")
