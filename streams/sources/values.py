"""One cell becomes one value: text, quantities, money, times. Exact, or refused with a reason; never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from zoneinfo import ZoneInfo

from schemas.currency import decimals_of
from schemas.wire import MAX_INT, MAX_TEXT, TIME_END, Reason

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_EXACT = Context(prec=100)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # local and UTC times alike are counted from it
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_CACHED = 100_000


class BadValue(ValueError):
    """A row that cannot become an event: `reason` is a dead letter's, `field` and `detail` say what is wrong."""

    def __init__(self, reason: Reason, field: str, detail: str) -> None:
        self.reason: Reason = reason
        self.field = field
        self.detail = detail
        super().__init__(f"{field}: {detail}")


def check_text(field: str, value: str) -> str:
    """Return `value` if it can be an id: 1 to 200 characters, no NUL. Raises BadValue."""
    if len(value) > MAX_TEXT:
        raise BadValue("invalid", field, f"{value[:40]!r}… has {len(value)} characters; at most {MAX_TEXT} are taken")
    if "\0" in value:
        raise BadValue("invalid", field, f"{value[:40]!r} contains NUL")
    return value


def number(field: str, text: str) -> Decimal:
    """Read a plain decimal number, exactly. Raises BadValue.

    >>> number("price", " 41.880 ")
    Decimal('41.880')
    """
    stripped = text.strip()
    if len(stripped) > 60 or _NUMBER.fullmatch(stripped) is None:
        raise BadValue("invalid", field, f"{text[:40]!r} is not a number")
    return Decimal(stripped)


def scaled(value: Decimal, scale: Decimal) -> Decimal:
    """Return the exact product.

    >>> scaled(Decimal("4188"), Decimal("0.01"))
    Decimal('41.88')
    """
    return _EXACT.multiply(value, scale)


def whole(field: str, value: Decimal) -> int:
    """Return `value` as an int if it is one within ±2^53. Raises BadValue."""
    _bounded(field, value)
    result = int(value)
    if result != value:
        raise BadValue("invalid", field, f"{value} is not a whole number")
    return result


def minor_units(field: str, value: Decimal, currency: str) -> tuple[int, bool]:
    """Return an amount in minor units of `currency`, and whether it had to be rounded (half to even).

    >>> minor_units("price", Decimal("2.55"), "GBP"), minor_units("price", Decimal("0.001"), "GBP")
    ((255, False), (0, True))
    >>> minor_units("price", Decimal("1200"), "JPY")
    (1200, False)
    """
    _bounded(field, value)
    exact = value.scaleb(decimals_of(currency), _EXACT)
    rounded = exact.to_integral_value(ROUND_HALF_EVEN, _EXACT)
    if abs(rounded) > MAX_INT:
        raise BadValue("invalid", field, f"{value} {currency} is more than 2^53 minor units")
    return int(rounded), rounded != exact


def _bounded(field: str, value: Decimal) -> None:
    # By the exponent first: 1e999 must not become a thousand digits.
    if (value and value.adjusted() > 17) or abs(value) > MAX_INT:
        raise BadValue("invalid", field, f"{value:.3e} is out of bounds (±2^53)")


def time_reader(unit: str | None, form: str | None, timezone: str) -> Callable[[str], int]:
    """Return a function from text to UTC milliseconds (finer parts are cut). It raises BadValue.

    `unit` "s" or "ms" reads numbers since 1970, `form` is a strptime format, neither means ISO 8601. `timezone` is
    that of times that carry none. Where its clocks go back, an ambiguous time is the first of the two; where they go
    forward, a time that does not exist is read with the offset before the change.

    >>> read = time_reader(None, None, "Europe/London")
    >>> read("2014-04-01T03:00:00Z"), read("2014-04-01 04:00:00"), time_reader("s", None, "UTC")("1396321200")
    (1396321200000, 1396321200000, 1396321200000)
    """
    parse = _since_epoch(unit) if unit is not None else _calendar(form, ZoneInfo(timezone), timezone == "UTC")
    if unit is not None:
        return parse
    if form is None and timezone == "UTC":
        return _iso(parse)
    cache: dict[str, int] = {}

    def cached(text: str) -> int:
        found = cache.get(text)
        if found is None:
            found = parse(text)
            if len(cache) >= _CACHED:
                cache.clear()
            cache[text] = found
        return found

    return cached


def _since_epoch(unit: str) -> Callable[[str], int]:
    factor = 1_000 if unit == "s" else 1

    def parse(text: str) -> int:
        try:
            value = int(text) * factor if len(text) < 20 else _floor(text, factor)
        except ValueError:
            value = _floor(text, factor)
        if not 0 <= value < TIME_END:
            raise BadValue("invalid", "time", f"{text[:40]!r} is outside 1970 to 2099; is unit = {unit!r} right?")
        return value

    return parse


def _floor(text: str, factor: int) -> int:
    value = number("time", text)
    return int(scaled(value, Decimal(factor)).to_integral_value("ROUND_FLOOR")) if value.adjusted() < 20 else TIME_END


def _iso(slow: Callable[[str], int]) -> Callable[[str], int]:
    # What nearly every file holds, in as few steps as can be; the rest goes the slow way.
    def parse(text: str) -> int:
        try:
            moment = datetime.fromisoformat(text)
            since = moment - (_EPOCH if moment.tzinfo is None else _EPOCH_UTC)
        except (ValueError, OverflowError):
            return slow(text)
        milliseconds = since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
        return milliseconds if 0 <= milliseconds < TIME_END else slow(text)

    return parse


def _calendar(form: str | None, zone: ZoneInfo, utc: bool) -> Callable[[str], int]:
    def read(text: str) -> datetime:
        if form is not None:
            return datetime.strptime(text, form)  # noqa: DTZ007  # what carries no zone gets the source's below
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return datetime.fromisoformat(text.strip())

    def parse(text: str) -> int:
        try:
            moment = read(text)
            if moment.tzinfo is not None:
                since = moment - _EPOCH_UTC
            elif utc:
                since = moment - _EPOCH
            else:
                # fold is 0: the first of two, and the offset before a gap.
                since = moment - _EPOCH - (zone.utcoffset(moment) or timedelta())
        except (ValueError, OverflowError):
            wanted = f"as {form!r} says" if form else "as ISO 8601; give unit or format"
            raise BadValue("invalid", "time", f"{text[:40]!r} is no time {wanted}") from None
        milliseconds = since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
        if not 0 <= milliseconds < TIME_END:
            raise BadValue("invalid", "time", f"{text[:40]!r} is outside 1970 to 2099")
        return milliseconds

    return parse
