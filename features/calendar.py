"""The shop's own wall clock and public holidays, for whole columns of times."""

from __future__ import annotations

import hashlib
import warnings
from datetime import UTC, date, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.sets import DAY, HOLIDAY_LIMIT, MINUTE

_EPOCH = date(1970, 1, 1).toordinal()
_QUARTER_MS = 15 * MINUTE
_YEARS = range(1970, 2101)


class ShopCalendar:
    """Local time by an IANA `timezone`, and the public holidays of a `country`, or a part of it as in ``DE-BY``.

    Without a country no day is a holiday. Raises ValueError for a zone or country that is unknown.

    >>> london = ShopCalendar("Europe/London", "GB-ENG")
    >>> times = np.array([1_703_462_400_000])  # 2023-12-25 00:00 UTC
    >>> london.local(times).tolist(), london.days_to_holiday(times).tolist()
    ([1703462400000], [0])
    """

    def __init__(self, timezone: str = "UTC", country: str | None = None) -> None:
        self.timezone = timezone
        self.country = country
        try:
            self._zone = ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{timezone!r} is no IANA time zone such as Europe/London") from error
        self._days = None if country is None else _holidays(country)
        self._offsets: dict[int, int] = {}
        self._until: dict[int, int] = {}

    @cached_property
    def digest(self) -> str:
        """What stands for it in the hash of the definitions: zone, country, and the very dates of the holidays."""
        if self._days is None:
            return self.timezone
        dates = ",".join(str(day) for day in sorted(self._days))
        return f"{self.timezone} {self.country} {hashlib.blake2b(dates.encode(), digest_size=8).hexdigest()}"

    def local(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the wall clock (n,) at `times` (n,), both in ms since 1970: what a clock in UTC would show there."""
        if self.timezone == "UTC":
            return times
        # Offsets change at multiples of 15 minutes in every zone.
        quarters, where = np.unique(times // _QUARTER_MS, return_inverse=True)
        offsets = [self._offset(quarter) for quarter in quarters.tolist()]
        return times + np.array(offsets, np.int64)[where]

    def days_to_holiday(self, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the days (n,) from each local time (n,) to the next holiday: 0 on one, at most HOLIDAY_LIMIT."""
        if self._days is None:
            return np.full(len(local), HOLIDAY_LIMIT, np.int64)
        days, where = np.unique(local // DAY, return_inverse=True)
        return np.array([self._wait(day) for day in days.tolist()], np.int64)[where]

    def _offset(self, quarter: int) -> int:
        found = self._offsets.get(quarter)
        if found is None:
            offset = datetime.fromtimestamp(quarter * 900, tz=UTC).astimezone(self._zone).utcoffset()
            found = self._offsets[quarter] = 0 if offset is None else round(offset.total_seconds() * 1_000)
            if len(self._offsets) > 65_536:
                self._offsets = {quarter: found}
        return found

    def _wait(self, day: int) -> int:
        found = self._until.get(day)
        if found is None:
            holidays_ = self._days or frozenset()
            found = next((n for n in range(HOLIDAY_LIMIT) if day + n in holidays_), HOLIDAY_LIMIT)
            self._until[day] = found
        return found


def _holidays(country: str) -> frozenset[int]:
    """Return the public holidays as days since 1970."""
    # Not at the top: a tenth of a second of every start, and few countries are asked for.
    import holidays

    name, dash, part = country.partition("-")
    try:
        if not (name.isupper() and name.isalpha()) or bool(dash) != bool(part):
            raise NotImplementedError  # the package looks names up among its own parts
        with warnings.catch_warnings():
            # Some countries' holidays are known for some decades only.
            warnings.simplefilter("ignore")
            found = holidays.country_holidays(name, subdiv=part or None, years=_YEARS)
    except NotImplementedError as error:
        raise ValueError(f"{country!r} is no country with known holidays, such as DE or DE-BY") from error
    return frozenset(day.toordinal() - _EPOCH for day in found)
