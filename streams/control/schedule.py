"""When a cron schedule fires, in a time zone whose clock is put forward and back.

Every wall-clock time that the schedule names fires once: one that the clock skips, at the end of the gap; one that the
clock shows twice, the first time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter


def next_time(schedule: str, timezone: str, after_ms: int) -> int | None:
    """Return the first time (UTC ms) after `after_ms` at which `schedule` fires, None where it never does.

    In London the clock skips 01:30 on 31 March 2024, and shows it twice on 27 October:

    >>> from datetime import datetime, timezone
    >>> def fires(after: str) -> str:
    ...     at = int(datetime.fromisoformat(after).timestamp() * 1000)
    ...     found = next_time("30 1 * * *", "Europe/London", at)
    ...     return datetime.fromtimestamp(found / 1000, timezone.utc).isoformat()
    >>> fires("2024-03-30T12:00+00:00")
    '2024-03-31T01:00:00+00:00'
    >>> fires("2024-10-26T12:00+00:00"), fires("2024-10-27T00:30+00:00")
    ('2024-10-27T00:30:00+00:00', '2024-10-28T01:30:00+00:00')
    """
    zone = ZoneInfo(timezone)
    wall = datetime.fromtimestamp(after_ms // 1_000, zone).replace(tzinfo=None)
    # croniter only ever sees naive times: with aware ones it drifts by an hour after a change of the clock.
    times = croniter(schedule, wall)
    while True:
        try:
            instant = _instant(times.get_next(datetime), zone)
        except CroniterBadDateError:
            return None
        if instant > after_ms:
            return instant


def _instant(wall: datetime, zone: ZoneInfo) -> int:
    before = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if before.astimezone(zone).replace(tzinfo=None) == wall:
        return _ms(before)
    # The clock skips `wall`: the gap ends somewhere between its readings by the offsets after and before it.
    low, high = wall.replace(tzinfo=zone, fold=1).astimezone(UTC), before
    offset = high.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return _ms(high)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000
