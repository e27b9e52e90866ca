"""What a demand backtest is asked: rolling origins and keys, checked before a minute is spent on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from streams.backtest.closing import local_midnight
from streams.backtest.ledger import Ledger
from streams.errors import ConfigurationError, SourceError
from streams.topologies.calendar import Calendar


@dataclass(frozen=True, slots=True)
class Origin:
    """The start of the first period forecast: its day, its time (UTC ms), the number of its bucket."""

    day: date
    time: int
    number: int

    def target(self, step: int, freq: Literal["D", "W"]) -> date:
        """Return the first day of the period of step 1, 2, …"""
        return self.day + timedelta(days=(step - 1) * (1 if freq == "D" else 7))


def parse_origins(text: str, calendar: Calendar) -> list[Origin]:
    """Read ``DATE[,DATE…]``, in the shop's own time zone; sorted, each once. Raises ConfigurationError.

    >>> [origin.day.isoformat() for origin in parse_origins("2011-06-13,2011-06-06", Calendar("W", "UTC"))]
    ['2011-06-06', '2011-06-13']
    """
    days = set()
    for part in text.split(","):
        try:
            day = date.fromisoformat(part.strip())
        except ValueError:
            raise ConfigurationError(f"--origins {part.strip()!r}: is no date; the form is 2011-06-01[,…]") from None
        if calendar.freq == "W" and day.weekday() != 0:
            monday = day - timedelta(days=day.weekday())
            raise ConfigurationError(
                f"--origins {day}: is a {day:%A}, and weeks start on Monday; use {monday} or {monday + timedelta(7)}"
            )
        days.add(day)
    origins = []
    for day in sorted(days):
        time = local_midnight(day.isoformat(), calendar.timezone)
        origins.append(Origin(day, time, calendar.number(time)))
    return origins


def read_keys(path: Path) -> list[str]:
    """Return the keys in a file, one a line (a first line `key` is a header). Raises ConfigurationError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--keys {path}: cannot be read ({error}); give a text file, one key a line") from None
    if lines[:1] == ["key"]:
        del lines[0]
    keys = list(dict.fromkeys(line for line in lines if line))
    if not keys:
        raise ConfigurationError(f"--keys {path}: holds no key; give one a line")
    return keys


def choose_keys(
    ledger: Ledger, position: int, origin: Origin, top: int | None, keys: Sequence[str] | None
) -> list[str]:
    """Return the keys to forecast: those given, else the `top` by quantity before the first origin (ties by name).

    Raises SourceError where nothing sold before the origin, or not what was asked for.
    """
    totals = ledger.totals(position)
    if not totals:
        raise SourceError(f"nothing sold before {origin.day}, the first origin; choose a later one with --origins")
    if keys is not None:
        unknown = [key for key in keys if key not in totals]
        if unknown:
            told = ", ".join(repr(key) for key in unknown[:5]) + (" …" if len(unknown) > 5 else "")
            raise SourceError(
                f"--keys: {told} ({len(unknown)} of {len(keys)}) sold nothing before {origin.day}, the first origin; "
                f"take them out, or choose later origins; keys look like {sorted(totals)[0]!r}"
            )
        return list(keys)
    return sorted(totals, key=lambda key: (-totals[key], key))[:top]


def check_origins(origins: Sequence[Origin], day_end: int | None, calendar: Calendar) -> None:
    """Raise SourceError for an origin after the data's end: what happened until it would be unknown."""
    if day_end is None:
        raise SourceError("the source holds no click and no order; is its file empty, or filtered away?")
    late = [origin for origin in origins if origin.time > day_end]
    if late:
        latest = calendar.start(calendar.number(day_end))
        shown = _day(latest, calendar.timezone)
        raise SourceError(
            f"--origins {late[0].day}: is after the end of the data ({_day(day_end - 1, calendar.timezone)}); "
            f"the latest possible origin is {shown}"
        )


def _day(time: int, timezone: str) -> date:
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    return datetime.fromtimestamp(time / 1_000, UTC).astimezone(ZoneInfo(timezone)).date()
