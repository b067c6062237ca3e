"""How long a gateway that is stopped lets its requests end."""

import math
from typing import Final

from gpufleet.spec.gateway import Routes

SHORTEST_DRAIN_S: Final = 5
LONGEST_DRAIN_S: Final = 600
"""What takes longer is interrupted: a node that is drained does not wait for ever either."""


def drain_s(routes: Routes) -> int:
    """Time that requests in flight get to end, s: the longest that one of them may take."""
    longest_s = max((route.timeout_s for route in routes.use_cases.values()), default=0.0)
    return min(LONGEST_DRAIN_S, max(SHORTEST_DRAIN_S, math.ceil(longest_s)))
