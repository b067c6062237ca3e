"""Declared traffic through the year: by hour and weekday, with its peaks, on UTC's clock.

Everything is counted on the hours of `YEARS`: a leap cycle, so that each rule of a peak happens as
often as it does on average, and peaks that fall together now and then are seen together.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np

from gpufleet.core.capacity.requests import Floats, Integers
from gpufleet.spec.recurrences import starts
from gpufleet.spec.serving import Peak, Traffic

YEARS: Final = (2025, 2029)
"""First year, and the one after the last."""
MONTHS: Final = 12 * (YEARS[1] - YEARS[0])
_BEGIN: Final = datetime(YEARS[0], 1, 1, tzinfo=UTC)
HOURS: Final = int((datetime(YEARS[1], 1, 1, tzinfo=UTC) - _BEGIN) / timedelta(hours=1))
_HOUR_S: Final = 3600
_WEEK_HOURS: Final = 168


@dataclass(frozen=True)
class BusiestHour:
    """The hour in which several use cases together ask most."""

    begin: datetime
    """In UTC."""
    rates_rps: tuple[float, ...]
    """Requests for each second by use case."""
    peaks: tuple[str, ...]
    """Name of the declared peak by use case; empty where none holds."""


def usual_rates(traffic: Traffic) -> Floats:
    """Requests/s of a week without peaks by local hour, from Monday 0:00; shape (168,)."""
    hourly = np.array(traffic.hourly or [1.0] * 24)
    weekly = np.array(traffic.weekly or [1.0] * 7)
    return traffic.rate_rps * np.outer(weekly, hourly).ravel()


def busiest_usual_rps(traffic: Traffic) -> float:
    """Requests/s in the busiest hour of a week without peaks."""
    return float(usual_rates(traffic).max())


def rate_at(traffic: Traffic, moment: datetime) -> float:
    """Requests/s at a moment, peaks included.

    Where peaks overlap, the largest multiplier holds.

    Args:
        traffic: as it is declared.
        moment: with a time zone.
    """
    local = moment.astimezone(ZoneInfo(traffic.time_zone))
    usual = float(usual_rates(traffic)[local.weekday() * 24 + local.hour])
    now = local.replace(tzinfo=None)
    multiplier = 1.0
    for peak in traffic.peaks:
        lasts = timedelta(seconds=peak.duration_s)
        begun = starts(peak.recurrence, now - lasts, now + timedelta(microseconds=1))
        if any(begin + lasts > now for begin in begun):
            multiplier = max(multiplier, peak.multiplier)
    return usual * multiplier


def monthly_requests(traffic: Traffic) -> float:
    """Requests of an average month, peaks included."""
    rates = usual_rates(traffic)[_week_hours(traffic.time_zone)]
    multiplier = np.ones(HOURS)
    for peak in traffic.peaks:
        share = _share_of_hours(peak, traffic.time_zone)
        multiplier = np.maximum(multiplier, 1 + (peak.multiplier - 1) * share)
    return float((rates * multiplier).sum()) * _HOUR_S / MONTHS


def mean_rates_by_hour(traffic: Traffic) -> Floats:
    """Requests/s by local hour of the day, the mean of a week without peaks; shape (24,)."""
    by_hour: Floats = usual_rates(traffic).reshape(7, 24).mean(axis=0)
    return by_hour


def hourly_rates(traffic: Traffic, *, peaks: bool) -> Floats:
    """Requests/s by UTC hour of `YEARS`, shape (HOURS,).

    An hour that a peak touches has the peak's rate, and where local hours begin within those of UTC
    the larger rate of both: capacity has to be there for it.
    """
    usual, (first, last) = usual_rates(traffic), _touched_hours(traffic.time_zone)
    rates: Floats = np.maximum(usual[first], usual[last])
    return rates * _multipliers(traffic)[0] if peaks else rates


def busiest_hour(
    traffics: Sequence[Traffic],
    weights: Sequence[float],
    *,
    peaks: bool,
    of: int | None = None,
) -> BusiestHour:
    """The hour in which use cases that share a pool ask most of it, the first of equals.

    Args:
        traffics: of each use case.
        weights: what one request of each takes, such as its seconds of a replica.
        peaks: whether declared peaks count.
        of: the busiest of the hours in which this use case asks most; all hours without it.
    """
    rates = np.array([hourly_rates(traffic, peaks=peaks) for traffic in traffics])
    work = np.asarray(weights) @ rates
    if of is not None:
        work = np.where(rates[of] >= rates[of].max(), work, -1.0)
    hour = int(np.argmax(work))
    return BusiestHour(
        begin=_BEGIN + timedelta(hours=hour),
        rates_rps=tuple(float(rate) for rate in rates[:, hour]),
        peaks=tuple(
            _peak_name(traffic, int(_multipliers(traffic)[1][hour])) if peaks else ""
            for traffic in traffics
        ),
    )


def _peak_name(traffic: Traffic, index: int) -> str:
    return traffic.peaks[index].name if index >= 0 else ""


def _multipliers(traffic: Traffic) -> tuple[Floats, Integers]:
    """By UTC hour: the largest multiplier of the peaks that touch it, and that peak's index."""
    multiplier, which = np.ones(HOURS), np.full(HOURS, -1, dtype=np.int64)
    for index, peak in enumerate(traffic.peaks):
        higher = (_share_of_hours(peak, traffic.time_zone) > 0) & (peak.multiplier > multiplier)
        multiplier[higher], which[higher] = peak.multiplier, index
    return multiplier, which


def _share_of_hours(peak: Peak, time_zone: str) -> Floats:
    return _peak_hours(peak.recurrence, peak.duration_s, time_zone)


@functools.lru_cache(maxsize=256)
def _peak_hours(recurrence: str, duration_s: float, time_zone: str) -> Floats:
    """Share of each UTC hour of `YEARS` in which a peak holds, shape (HOURS,)."""
    zone = ZoneInfo(time_zone)
    share = np.zeros(HOURS)
    first = max(datetime(2024, 1, 2), _naive(_BEGIN) - timedelta(seconds=duration_s))  # noqa: DTZ001
    for local in starts(recurrence, first, _naive(_BEGIN) + timedelta(hours=HOURS + 24)):
        begin = (local.replace(tzinfo=zone) - _BEGIN).total_seconds() / _HOUR_S
        end = begin + duration_s / _HOUR_S
        whole = np.arange(max(0, int(begin)), min(HOURS, int(np.ceil(end))))
        share[whole] += np.minimum(whole + 1, end) - np.maximum(whole, begin)
    share = np.minimum(share, 1)
    share.setflags(write=False)
    return share


def _week_hours(time_zone: str) -> Integers:
    """Local hour of the week, from Monday 0:00, at the begin of each UTC hour; shape (HOURS,)."""
    return _touched_hours(time_zone)[0]


@functools.lru_cache(maxsize=64)
def _touched_hours(time_zone: str) -> tuple[Integers, Integers]:
    """First and last local hour of the week, from Monday 0:00, that a UTC hour of `YEARS` touches.

    They differ in zones that are not whole hours from UTC. Each has shape (HOURS,).
    """
    zone = ZoneInfo(time_zone)
    days = HOURS // 24
    offsets = [_offset_s(zone, _BEGIN + timedelta(days=day)) for day in range(days + 1)]
    by_hour = np.repeat(np.array(offsets[:-1]), 24)
    for day in range(days):
        if offsets[day] != offsets[day + 1]:
            by_hour[day * 24 : day * 24 + 24] = [
                _offset_s(zone, _BEGIN + timedelta(days=day, hours=hour)) for hour in range(24)
            ]
    begin_s = _BEGIN.weekday() * 24 * _HOUR_S + np.arange(HOURS) * _HOUR_S + by_hour
    first, last = (
        (moment_s // _HOUR_S % _WEEK_HOURS).astype(np.int64)
        for moment_s in (begin_s, begin_s + _HOUR_S - 1)
    )
    for hours in (first, last):
        hours.setflags(write=False)
    return first, last


def _offset_s(zone: ZoneInfo, moment: datetime) -> int:
    """Local time minus UTC, s."""
    offset = moment.astimezone(zone).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)
