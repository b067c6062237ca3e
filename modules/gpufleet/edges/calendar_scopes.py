"""The scope of one event: what its `X-GPUFLEET-SCOPE` and its categories say.

Categories are what every calendar program lets people set; only those that begin with `gpufleet:`
are ours, such as `gpufleet:pool=chat`.
"""

from functools import lru_cache
from typing import Any, Final

from gpufleet.edges.calendar_events import name_of
from gpufleet.edges.calendar_trust import UntrustedError
from gpufleet.spec.freeze_scope import SaidScope, parse_scope

_PROPERTY: Final = "X-GPUFLEET-SCOPE"
_PREFIX: Final = "gpufleet:"


def scope_of(event: Any) -> SaidScope:  # noqa: ANN401 - the library's component
    """What an event says; everything where it says nothing.

    Raises:
        UntrustedError: it says what cannot be read.
    """
    properties = event.get(_PROPERTY, [])
    said = [str(each) for each in (properties if isinstance(properties, list) else [properties])]
    categories = event.categories if "CATEGORIES" in event else ()
    said += [
        str(each).strip()[len(_PREFIX) :]
        for each in categories
        if str(each).strip().lower().startswith(_PREFIX)
    ]
    if not said:
        return SaidScope()
    try:
        return _parsed(";".join(said))
    except ValueError as error:
        raise UntrustedError(
            f"has a scope that is not valid: `{name_of(event)}`: {error}"
        ) from None


@lru_cache(maxsize=1024)
def _parsed(text: str) -> SaidScope:
    return parse_scope(text)
