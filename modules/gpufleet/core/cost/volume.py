"""How many requests declared traffic brings between two moments, and how many of them in bursts."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from gpufleet.spec.recurrences import starts
from gpufleet.spec.serving import Traffic

_HOUR: Final = timedelta(hours=1)
_HOUR_S: Final = 3600
_WINDOW_S: Final = 10
"""Of the counts that `index_of_dispersion` is declared for."""


def requests_between(traffic: Traffic, begin: datetime, end: datetime) -> float:
    """Requests from `begin` to before `end`, peaks included, both in UTC on whole hours.

    Where peaks overlap, the largest multiplier holds.
    """
    return sum(rate * multiplier for rate, multiplier in _hours(traffic, begin, end)) * _HOUR_S


def peak_share(traffic: Traffic, begin: datetime, end: datetime) -> float:
    """Share of the requests between two moments that declared peaks add to a usual day's."""
    usual = whole = 0.0
    for rate, multiplier in _hours(traffic, begin, end):
        usual += rate
        whole += rate * multiplier
    return 1 - usual / whole if whole else 0.0


def burst_share(traffic: Traffic, begin: datetime, end: datetime) -> float:
    """Share of the requests that replicas for a usual day's busiest hour, arriving smoothly, miss.

    What declared peaks add, and what random bursts add: in windows of 10 s the counts are normal
    with the declared index of dispersion, and what exceeds the busiest hour's mean follows the unit
    normal loss integral (Silver, Pyke, Thomas, "Inventory and Production Management in Supply
    Chains", 4th edition, appendix II).
    """
    room = traffic.rate_rps * max(traffic.hourly or [1.0]) * max(traffic.weekly or [1.0])
    arriving = over = 0.0
    for rate, multiplier in _hours(traffic, begin, end):
        mean = rate * multiplier * _WINDOW_S
        arriving += mean
        over += _expected_excess(mean, room * _WINDOW_S, traffic.index_of_dispersion)
    return over / arriving if arriving else 0.0


def peaks_between(traffic: Traffic, begin: datetime, end: datetime) -> list[str]:
    """Names of the declared peaks that begin in a period."""
    zone = ZoneInfo(traffic.time_zone)
    first, last = (moment.astimezone(zone).replace(tzinfo=None) for moment in (begin, end))
    return [peak.name for peak in traffic.peaks if starts(peak.recurrence, first, last)]


def _expected_excess(mean: float, room: float, dispersion: float) -> float:
    """E[max(0, X - room)] of a normal X with variance `mean * dispersion`."""
    deviation = math.sqrt(mean * dispersion)
    if deviation == 0:
        return max(0.0, mean - room)
    z = (room - mean) / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return deviation * (density - z * math.erfc(z / math.sqrt(2)) / 2)


def _hours(traffic: Traffic, begin: datetime, end: datetime) -> Iterator[tuple[float, float]]:
    """For each hour: requests/s of a usual day, and what declared peaks multiply them by."""
    zone = ZoneInfo(traffic.time_zone)
    hourly, weekly = traffic.hourly or [1.0] * 24, traffic.weekly or [1.0] * 7
    count = round((end - begin) / _HOUR)
    multipliers = _multipliers(traffic, begin, count, zone)
    for hour in range(count):
        local = (begin + hour * _HOUR).astimezone(zone)
        usual = traffic.rate_rps * hourly[local.hour] * weekly[local.weekday()]
        yield usual, multipliers[hour]


def _multipliers(traffic: Traffic, begin: datetime, count: int, zone: ZoneInfo) -> list[float]:
    """By hour; an hour that a peak covers in part has its part of it."""
    found = [1.0] * count
    first, last = begin.astimezone(zone), (begin + count * _HOUR).astimezone(zone)
    for peak in traffic.peaks:
        lasts = timedelta(seconds=peak.duration_s)
        for local in starts(
            peak.recurrence, first.replace(tzinfo=None) - lasts, last.replace(tzinfo=None)
        ):
            at_h = (local.replace(tzinfo=zone).astimezone(UTC) - begin) / _HOUR
            end_h = at_h + lasts / _HOUR
            for hour in range(max(0, math.floor(at_h)), min(count, math.ceil(end_h))):
                share = min(hour + 1, end_h) - max(hour, at_h)
                found[hour] = max(found[hour], 1 + (peak.multiplier - 1) * share)
    return found
