"""Calendar of demand buckets: their numbering and the regular movements of day, week, month and year.

A bucket (hour, day, week) begins by the shop's own clock and is stored by its start in UTC milliseconds. Here starts
become consecutive integers, so that a series is a plain array whatever daylight saving does, and integers become
calendar features. Nothing here knows products.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Freq = Literal["H", "D", "W"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SEASON = {"H": 168, "D": 7, "W": 52}
"""Buckets in one season: the hours of a week, the days of a week, the weeks of a year."""

CONTEXT = {"H": 336, "D": 56, "W": 60}
"""Past buckets the sequence model looks at by default."""

MEMORY = 56
"""Buckets of history that a seasonal forecast uses, or two seasons if that is more: see `memory`."""

CALENDAR_COLUMNS = 12
"""Width of `calendar`; columns that a frequency has no use for are zero."""

_EPOCH = date(1970, 1, 1).toordinal()  # a Thursday
_HOUR_MS = 3_600_000


def memory(season: int) -> int:
    """Return how many buckets of history a seasonal forecast uses; with fewer than two seasons there is no season."""
    return max(MEMORY, 2 * season)


def kept_buckets(freq: Freq) -> int:
    """Return how many closed buckets a series remembers: the longest memory of the models that forecast from it.

    A demand worker keeps as many, and whatever is compared with the seasonal forecast gives it no more.

    >>> {freq: kept_buckets(freq) for freq in ("H", "D", "W")}
    {'H': 336, 'D': 56, 'W': 104}
    """
    return max(memory(SEASON[freq]), CONTEXT[freq])


def bucket_index(starts_ms: Iterable[int], freq: Freq, timezone: str) -> Ints:
    """Number the buckets that start at `starts_ms` (UTC ms): successive buckets differ by one.

    Hours count from 1970 in UTC, days and weeks (which begin on Monday) by the calendar of `timezone`.

    >>> bucket_index([1301184000000, 1301266800000], "D", "Europe/London")  # a day of 23 hours
    array([15060, 15061])
    """
    starts = np.fromiter(starts_ms, dtype=np.int64)
    if freq == "H":
        return starts // _HOUR_MS
    unique, where = np.unique(starts, return_inverse=True)
    zone = ZoneInfo(timezone)
    days = np.array([_local(int(ms), zone).toordinal() - _EPOCH for ms in unique], dtype=np.int64)
    return np.asarray((days if freq == "D" else (days + 3) // 7)[where], dtype=np.int64)


def bucket_start(index: int, freq: Freq, timezone: str) -> int:
    """Return the start (UTC ms) of bucket `index`: the inverse of `bucket_index`.

    >>> bucket_start(15061, "D", "Europe/London")
    1301266800000
    """
    if freq == "H":
        return int(index) * _HOUR_MS
    day = int(index) if freq == "D" else int(index) * 7 - 3
    midnight = datetime.combine(date.fromordinal(day + _EPOCH), datetime.min.time(), ZoneInfo(timezone))
    return int(midnight.astimezone(UTC).timestamp()) * 1000


def phase(index: Ints, freq: Freq, timezone: str) -> Ints:
    """Return each bucket's place in its season: hour of the week, day of the week (0 is Monday), week of the year."""
    index = np.asarray(index, dtype=np.int64)
    if freq == "D":
        return (index + 3) % 7
    if freq == "W":
        return index % 52
    hours = _local_hours(index, timezone)
    return (hours + 72) % 168


def calendar(index: Ints, freq: Freq, timezone: str, *, yearly: bool) -> Floats:
    """Return calendar features ``(n, CALENDAR_COLUMNS)`` of buckets: sines and cosines of their place in the cycles.

    Three harmonics span any pattern over the seven days. The year's columns are zero unless `yearly`: over less than
    a year of history the season and the trend are one, and a model would extrapolate the wrong one.
    """
    index = np.asarray(index, dtype=np.int64)
    out = np.zeros((len(index), CALENDAR_COLUMNS))
    if freq == "H":
        hours = _local_hours(index, timezone)
        _harmonics(out[:, 0:6], hours % 24 / 24)
        _harmonics(out[:, 6:12], (hours // 24 + 3) % 7 / 7)
        return out
    days = index if freq == "D" else index * 7 - 3
    month, year = _month_and_year(days)
    if freq == "D":
        _harmonics(out[:, 0:6], (days + 3) % 7 / 7)
    _harmonics(out[:, 6:8], month)
    if yearly:
        _harmonics(out[:, 8:12], year)
    return out


def _local(ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).astimezone(zone)


def _local_hours(index: Ints, timezone: str) -> Ints:
    """Hours since 1970 on the wall clock of `timezone`."""
    if timezone == "UTC":
        return np.asarray(index, dtype=np.int64)
    zone = ZoneInfo(timezone)
    unique, where = np.unique(index, return_inverse=True)
    shift = [_local(int(hour) * _HOUR_MS, zone).utcoffset() or timedelta(0) for hour in unique]
    wall = unique + np.array([int(s.total_seconds() // 3600) for s in shift], dtype=np.int64)
    return np.asarray(wall[where], dtype=np.int64)


def _month_and_year(days: Ints) -> tuple[Floats, Floats]:
    """Share of the month and of the year that has passed, by the proleptic Gregorian calendar."""
    day = np.asarray(days, dtype="datetime64[D]")
    month, year = day.astype("datetime64[M]"), day.astype("datetime64[Y]")
    in_month = (day - month.astype("datetime64[D]")).astype(np.int64)
    in_year = (day - year.astype("datetime64[D]")).astype(np.int64)
    return in_month / 31.0, in_year / 366.0


def _harmonics(out: Floats, share: Floats) -> None:
    """Fill pairs of columns with sine and cosine of the first, second, … harmonic of a share of a cycle."""
    for k in range(out.shape[1] // 2):
        out[:, 2 * k] = np.sin(2 * np.pi * (k + 1) * share)
        out[:, 2 * k + 1] = np.cos(2 * np.pi * (k + 1) * share)
