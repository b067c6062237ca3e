"""Arithmetic of spans of time: sorted, disjoint, each with its start and not its end, in UTC."""

from collections.abc import Iterable, Sequence
from datetime import datetime

Span = tuple[datetime, datetime]


def union(spans: Iterable[Span]) -> list[Span]:
    """Spans in any order as sorted ones; those that touch or overlap become one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def intersection(first: Sequence[Span], second: Sequence[Span]) -> list[Span]:
    """What lies in both."""
    found: list[Span] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start = max(first[i][0], second[j][0])
        end = min(first[i][1], second[j][1])
        if start < end:
            found.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return found


def gaps(spans: Sequence[Span], within: Span) -> list[Span]:
    """What of `within` lies in no span."""
    found: list[Span] = []
    at, stop = within
    for start, end in spans:
        if start >= stop:
            break
        if start > at:
            found.append((at, start))
        at = max(at, end)
    if at < stop:
        found.append((at, stop))
    return found
