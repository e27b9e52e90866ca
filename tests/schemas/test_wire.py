"""The shared grammar and times."""

from __future__ import annotations

import contextlib
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import wire
from schemas.wire import DecodeError, load_object, parse_time
from tests.schemas.strategies import LAW

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
BOUNDS = (datetime(1970, 1, 3), datetime(2099, 12, 29))  # noqa: DTZ001  # hypothesis wants naive bounds
MOMENTS = st.datetimes(*BOUNDS, timezones=OFFSETS)


@LAW
@given(MOMENTS, st.sampled_from(["Tt", "tz"]), st.integers(0, 9))
def test_times_are_read_exactly(moment: datetime, letters: str, digits: int) -> None:
    """A written time is read to its millisecond, finer digits cut, in whatever offset and case it is written."""
    fraction = f".{moment.microsecond:06d}000"[: digits + 1] if digits else ""
    zone = moment.strftime("%z")
    text = f"{moment:%Y-%m-%d}{letters[0]}{moment:%H:%M:%S}{fraction}{zone[:3]}:{zone[3:5]}"
    kept = timedelta(microseconds=int(f"{moment.microsecond:06d}"[:digits].ljust(6, "0")) // 1_000 * 1_000)
    assert parse_time(text) == (moment.replace(microsecond=0) + kept - EPOCH) // timedelta(milliseconds=1)


@LAW
@given(st.datetimes(*BOUNDS), st.sampled_from("Zz"), st.booleans())
def test_the_usual_form_reads_like_any_other(moment: datetime, zone: str, whole: bool) -> None:
    """The short cut for the usual form gives what the general way gives."""
    text = f"{moment:%Y-%m-%dT%H:%M:%S}" + ("" if whole else f".{moment.microsecond // 1000:03d}")
    assert parse_time(text + zone) == parse_time(text + "+00:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999Z"),
        ("2017-01-01T05:29:60.25+05:30", "2016-12-31T23:59:59.999Z"),
        ("2015-06-30T23:59:60.999Z", "2015-06-30T23:59:59.999Z"),
        ("1970-01-01T00:00:00-00:00", "1970-01-01T00:00:00Z"),
    ],
)
def test_a_leap_second_stays_in_its_day(text: str, expected: str) -> None:
    """A leap second is the last millisecond of its day."""
    assert parse_time(text) == parse_time(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("2016-12-30T23:59:60Z", "2016-12-31T22:59:60Z", "2016-12-31T23:59:60+01:00", "2016-12-31T23:59:61Z"),
        *("2014-04-01T24:00:00Z", "2014-02-29T00:00:00Z", "2014-04-01T03:00:00", "2014-04-01T03:00:00+24:00"),
        *("2014-04-01 03:00:00Z", "2014-04-01T03:00Z", "2014-04-01T03:00:00,1Z", "2014-04-01T03:00:00.Z"),
        *("2014-W14-2T03:00:00Z", "20140401T030000Z", "２014-04-01T03:00:00Z", "2014-04-01T03:00:00.12٣Z"),
        *("1969-12-31T23:59:59.999Z", "2100-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "", "now", "\0"),
        *("9999-12-31T23:59:59-01:00", "2014-04-01T03:00:00+0200", "2014-04-01T03:00:00 Z", " 2014-04-01T03:00:00Z"),
        *("2014-04-01T03:00:00.123Z\n", "2014-04-01T03:00:00Z\n", "2014-04-01T+3:00:00Z", "2014-04-01T03:60:00Z"),
    ],
)
def test_other_texts_are_no_times(text: str) -> None:
    """What RFC 3339 does not allow, or what lies outside 1970 to 2099, is refused."""
    with pytest.raises(ValueError, match=r"time|date|outside|leap"):
        parse_time(text)


@LAW
@given(st.text(alphabet="0123456789-:.TZtz+ W", max_size=30) | st.text(max_size=30))
@example("2014-04-01T03:00:00.123Z")
def test_any_text_is_a_time_or_refused(text: str) -> None:
    """Reading a time gives a millisecond in range or a ValueError, whatever the text."""
    with contextlib.suppress(ValueError):
        assert 0 <= parse_time(text) < wire.TIME_END


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        *((data, "undecodable") for data in (b"", b"null", b"[]", b'"x"', b"{", b"{} {}", b"{}\0", b"\xef\xbb\xbf{}")),
        *((data, "undecodable") for data in (b'{"a":NaN}', b'{"a":Infinity}', b'{"a":01}', b'{"a":1,}', b"{'a':1}")),
        *((data, "undecodable") for data in (b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"\xc0\x80":1}')),
        *((data, "undecodable") for data in (b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}', b'{"a":"\x01"}')),
        ("{}".encode("utf-16"), "undecodable"),
        (b'{"a":' * 1_000_000, "oversized"),
        (b'{"a":' * 100_000, "undecodable"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "undecodable"),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes, reason: str) -> None:
    """The grammar is strict, and no nesting exhausts the stack."""
    with pytest.raises(DecodeError) as caught:
        load_object(data)
    assert caught.value.reason == reason


@LAW
@given(st.integers(0, 70), st.integers(0, 70), st.booleans())
def test_depth_is_counted_in_levels(arrays: int, objects: int, quoted: bool) -> None:
    """Only brackets that nest count; those within strings or side by side do not."""
    inner = b'"' + b"[{" * 50 + b'\\"[["' if quoted else b"[],{},[],{}" + b",{}" * 70
    data = b'{"a":' * objects + b"[" * arrays + b'{"a":[' + inner + b"]}" + b"]" * arrays + b"}" * objects
    levels = arrays + objects + 2 + (not quoted)
    try:
        load_object(data)
        assert levels <= wire.MAX_DEPTH
        assert objects or not arrays
    except DecodeError:
        assert levels > wire.MAX_DEPTH or (arrays and not objects)


def test_huge_numbers_in_unknown_fields_are_ignored() -> None:
    """Nobody reads them, so nobody minds their size."""
    assert load_object(b'{"a":1e400,"b":' + b"9" * 100_000 + b"}").keys() == {"a", "b"}


def test_an_error_survives_pickling_and_stays_small() -> None:
    """Reason and detail cross a process; a detail that quotes the input is cut."""
    error: DecodeError = pickle.loads(pickle.dumps(DecodeError("invalid", "x" * 10_000)))  # noqa: S301  # our own bytes
    assert (error.reason, len(error.detail)) == ("invalid", 300)
