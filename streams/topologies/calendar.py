"""Demand buckets by the shop's own wall clock: the number of a time, and the start of a number."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from models.buckets import Freq, bucket_start

_HOUR_MS = 3_600_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).toordinal()


class Calendar:
    """Hours count in UTC; days and weeks (from Monday) by the wall clock of `timezone`.

    >>> days = Calendar("D", "Europe/London")
    >>> number = days.number(1_301_266_799_999)  # the last millisecond of a day of 23 hours
    >>> days.start(number), days.start(number + 1)
    (1301184000000, 1301266800000)
    """

    def __init__(self, freq: Freq, timezone: str) -> None:
        self.freq = freq
        self.timezone = timezone
        zone = ZoneInfo(timezone)

        @lru_cache(maxsize=65_536)
        def number_of_quarter(quarter: int) -> int:
            day = datetime.fromtimestamp(quarter * 900, tz=UTC).astimezone(zone).toordinal() - _EPOCH
            return day if freq == "D" else (day + 3) // 7

        @lru_cache(maxsize=65_536)
        def start_of(number: int) -> int:
            return bucket_start(number, freq, timezone)

        # Offsets of all time zones are multiples of 15 minutes: a quarter of an hour lies in one bucket.
        self._number_of_quarter = number_of_quarter
        self._start_of = start_of

    def number(self, time: int) -> int:
        """Return the number of the bucket that holds `time` (UTC ms)."""
        if self.freq == "H":
            return time // _HOUR_MS
        return self._number_of_quarter(time // 900_000)

    def start(self, number: int) -> int:
        """Return the start (UTC ms) of a bucket."""
        return self._start_of(number)
