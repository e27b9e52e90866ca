"""What every reader of JSON here shares: one grammar, one set of limits, one way to read a time.

The grammar is RFC 8259 and nothing beyond it: UTF-8 without a byte order mark, no NaN or Infinity, no lone surrogates,
at most `MAX_DEPTH` levels. Of a repeated key the last value counts. Fields that nobody declared are ignored, whatever
they hold, so that a producer may be newer than its readers.
"""

from __future__ import annotations

import json
import re
from calendar import monthrange
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal, TypeVar

import msgspec

_T = TypeVar("_T")

MAX_BYTES = 1 << 20
"""Longest record that is read unless the caller says otherwise (bytes)."""
MAX_DEPTH = 64
"""Deepest nesting of arrays and objects."""
MAX_INT = 1 << 53
"""Greatest magnitude of any integer: what a double, and so every JSON reader, still holds exactly."""
MAX_TEXT = 200
"""Longest string (characters)."""
MAX_QUANTITY = 1_000_000
"""Greatest quantity of one click or order line (pieces)."""
MAX_LINES = 1_000
"""Most lines of one order."""
MAX_COVARIATES = 100
"""Most covariates of one plan entry."""
TIME_END = 4_102_444_800_000
"""2100-01-01T00:00:00Z: every time is at least 0 and before this (UTC ms)."""

Reason = Literal["undecodable", "invalid", "oversized"]
"""Why bytes were refused: not JSON, not what the contract says, or too long."""


class DecodeError(ValueError):
    """Bytes that cannot be taken: `reason` is a slug for counting, `detail` names the field and the rule."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason: Reason = reason
        # A detail may quote the input; a dead letter must stay small.
        self.detail = detail if len(detail) <= 300 else detail[:299] + "…"
        super().__init__(f"{reason}: {self.detail}")

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Reason, str]]:
        """Keep both parts when the error crosses a process."""
        return DecodeError, (self.reason, self.detail)


def decoded(decoder: msgspec.json.Decoder[_T] | msgspec.msgpack.Decoder[_T], data: bytes) -> _T:
    """Decode what this project wrote itself, or raise DecodeError.

    >>> decoded(msgspec.json.Decoder(int), b"7")
    7
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise DecodeError("invalid", str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError("undecodable", str(error)) from None


def load_object(data: bytes, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read one JSON object by the shared grammar; slow, exact, and the same for all readers.

    Raises DecodeError: "oversized", or "undecodable" where the bytes are not UTF-8, not JSON or not an object.

    >>> load_object(b'{"a": 1, "a": 2}')
    {'a': 2}
    >>> load_object(b'{"a": NaN}')
    Traceback (most recent call last):
    schemas.wire.DecodeError: undecodable: JSON is malformed: invalid character (byte 6)
    """
    check_size(data, max_bytes)
    check_text(data)
    try:
        # Raw skips through the bytes as the hot path does over unknown fields: strict about the grammar, surrogate
        # pairs included, and indifferent to the size of a number. The standard library then builds the values.
        msgspec.json.decode(data, type=msgspec.Raw)
        value = json.loads(data.decode(), parse_int=_int)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DecodeError("undecodable", str(error)) from None
    if type(value) is not dict:
        raise DecodeError("undecodable", f"Expected `object`, got `{_JSON_NAMES[type(value)]}`")
    return value


def check_size(data: bytes, max_bytes: int) -> None:
    """Raise DecodeError("oversized") where `data` is longer than `max_bytes`."""
    if len(data) > max_bytes:
        raise DecodeError("oversized", f"{len(data)} bytes, more than {max_bytes}")


def check_text(data: bytes) -> None:
    """Raise DecodeError("undecodable") where `data`, otherwise known to be JSON, is not UTF-8 or nested too deeply.

    msgspec checks neither inside the fields that it skips. Cheap for usual events.
    """
    # What usual events are, which decoders on the hot path ask themselves: a call more would cost as much as this.
    if data.isascii() and len(data) <= SHALLOW_BYTES and ARRAY not in data:
        return
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("undecodable", f"not UTF-8: {error.reason} at byte {error.start}") from None
    # Fewer opening brackets than levels cannot nest too deeply, wherever they stand.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise DecodeError("undecodable", f"nested deeper than {MAX_DEPTH} levels")


def parse_time(text: str) -> int:
    """Return the UTC milliseconds of an RFC 3339 date-time; finer fractions are cut, never rounded up.

    A leap second (23:59:60 UTC at the end of a month) is the last millisecond of its day, so that it stays in it.
    Raises ValueError where `text` is no such time, or before 1970 or after 2099.

    >>> parse_time("2014-04-01T03:00:00.1239Z")
    1396321200123
    >>> parse_time("2014-04-01t05:00:00+02:00")
    1396321200000
    """
    if (
        text[-1:] == "Z"
        and (len(text) == 20 or (len(text) == 24 and text[19] == "."))
        and text[16] == text[13] == ":"
        and text[10] == "T"
        and text[7] == text[4] == "-"
        and text[11:13] != "24"
    ):
        # What nearly every producer writes: the C parser alone, which is exact once the separators are known.
        try:
            since = datetime.fromisoformat(text) - _EPOCH
        except ValueError:
            pass  # a leap second, or nonsense: told apart below
        else:
            milliseconds = since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
            if 0 <= milliseconds < TIME_END:
                return milliseconds
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time with an offset: {text[:40]!r}")
    date, clock, second, fraction, zone = match.groups()
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}:{'59' if leap else second}").replace(tzinfo=_zone(zone))
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"no such date or time of day: {text[:40]!r}") from None
    if leap:
        last = monthrange(moment.year, moment.month)[1]
        if (moment.day, moment.hour, moment.minute) != (last, 23, 59):
            raise ValueError(f"no leap second can be at {text[:40]!r}")
    since = moment - _EPOCH
    milliseconds = since.days * 86_400_000 + since.seconds * 1_000
    milliseconds += 999 if leap else int((fraction or "")[:3].ljust(3, "0"))
    if not 0 <= milliseconds < TIME_END:
        raise ValueError(f"outside 1970 to 2099: {text[:40]!r}")
    return milliseconds


_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]((?:[01][0-9]|2[0-3]):[0-9]{2}):([0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
ARRAY = ord("[")
"""An integer: on the left of `in`, bytes raise and swallow an exception first."""
SHALLOW_BYTES = 5 * MAX_DEPTH
"""Without an array too short for more levels than may be: one of an object takes five bytes, ``{"":}``."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_JSON_NAMES = {str: "str", int: "int", float: "float", bool: "bool", list: "array", type(None): "null"}


def _zone(text: str) -> timezone:
    if text in "Zz":
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(text)
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _int(digits: str) -> int:
    # Python refuses to read thousands of digits; beyond any limit here, one huge number is as good as another.
    return int(digits) if len(digits) <= 400 else (-1 if digits[0] == "-" else 1) * 10**400


def _depth(data: bytes) -> int:
    depth = deepest = 0
    for byte in _STRINGS.sub(b"", data):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
