"""The schedule against a clock watched minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.control.schedule import next_time

# A day or so around changes of the clock: by an hour, by half an hour, at midnight, and a day that does not exist.
_CHANGES = [
    ("Europe/London", "2024-03-31"),
    ("Europe/London", "2024-10-27"),
    ("America/New_York", "2024-11-03"),
    ("Australia/Lord_Howe", "2024-04-07"),
    ("Australia/Lord_Howe", "2024-10-06"),
    ("America/Havana", "2024-03-10"),
    ("America/Havana", "2024-11-03"),
    ("Pacific/Apia", "2011-12-30"),
    ("Asia/Kathmandu", "2024-05-05"),
    ("UTC", "2024-02-29"),
]
_MINUTE = timedelta(minutes=1)
_FIELDS = st.tuples(
    st.sampled_from(["*", "0", "30", "59", "*/7", "10-20", "0,15,45"]),
    st.sampled_from(["*", "0", "1", "2", "23", "*/3", "0-3"]),
    st.sampled_from(["*", "1", "27-31", "7,10,30"]),
    st.sampled_from(["*", "3,4,10,11,12"]),
    st.sampled_from(["*", "sun", "1-5"]),
)


def _names(schedule: str, wall: datetime) -> bool:
    """Cron's rule, as its manual has it: of day and weekday, if both are restricted, one is enough."""
    minute, hour, day, month, weekday = schedule.replace("sun", "0").split()
    days = [
        _covers(day, wall.day, 1) if day[0] != "*" or weekday[0] == "*" else True,
        _covers(weekday, wall.isoweekday() % 7, 0),
    ]
    right_day = any(days) if day[0] != "*" and weekday[0] != "*" else all(days) and _covers(day, wall.day, 1)
    return right_day and all(
        _covers(field, value, least)
        for field, value, least in ((minute, wall.minute, 0), (hour, wall.hour, 0), (month, wall.month, 1))
    )


def _covers(field: str, value: int, least: int) -> bool:
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        first = least if span == "*" else int(low)
        last = 99 if span == "*" else int(high or low)
        if first <= value <= last and (value - first) % int(step or 1) == 0:
            return True
    return False


def _watched(schedule: str, zone: ZoneInfo, start: datetime, minutes: int) -> list[int]:
    """Fire whenever the wall clock reaches, or jumps over, minutes it never showed before that the schedule names."""
    fires = []
    reached = start.astimezone(zone).replace(tzinfo=None)
    for number in range(1, minutes):
        moment = start + number * _MINUTE
        wall = moment.astimezone(zone).replace(tzinfo=None)
        due = False
        while reached < wall:
            reached += _MINUTE
            due = due or _names(schedule, reached)
        if due:
            fires.append(int(moment.timestamp()) * 1_000)
    return fires


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(_CHANGES), _FIELDS, st.integers(0, 59_999))
def test_fires_as_a_watched_clock(change: tuple[str, str], fields: tuple[str, ...], offset_ms: int) -> None:
    """Every time on the wall clock fires once: skipped ones at the end of the gap, repeated ones the first time."""
    name, day = change
    schedule = " ".join(fields)
    start = datetime.fromisoformat(f"{day}T00:00+00:00") - timedelta(hours=14)
    watched = _watched(schedule, ZoneInfo(name), start, 40 * 60)
    asked = []
    after = int(start.timestamp()) * 1_000 + offset_ms
    end = int((start + timedelta(minutes=40 * 60 - 1)).timestamp()) * 1_000
    while (found := next_time(schedule, name, after)) is not None and found <= end:
        assert found > after
        asked.append(found)
        after = found
    assert asked == watched


def test_a_date_that_never_comes_is_never() -> None:
    """A schedule for 30 February has no next time."""
    assert next_time("0 0 30 2 *", "UTC", 0) is None


def test_the_moment_itself_does_not_count() -> None:
    """The next time is after the one asked for, so that one firing never becomes two."""
    at = int(datetime(2024, 1, 1, 3, tzinfo=UTC).timestamp()) * 1_000
    assert next_time("0 3 * * *", "UTC", at - 1) == at
    assert next_time("0 3 * * *", "UTC", at) == at + 86_400_000
