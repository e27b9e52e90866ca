"""A source's events into a driver, in fixed chunks by count from the start.

After each chunk a time marker follows and everything runs; models and product rows change hands only there. So a file
that is cut somewhere gives, up to the cut, the very same chunks. With `tile_ms` a chunk also ends where event time
enters another tile of so many ms: then product rows are never older than the tiles that vectors show of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from schemas.codec import Catalog, Click, Order, Plan, encode_event
from schemas.outputs import decode_dead_letter
from streams.driver import TopologyDriver
from streams.records import CLICKSTREAM, DEADLETTERS, ORDERS, Record
from streams.sources import Source

Event = Click | Order | Catalog | Plan


def count_dead_letters(driver: TopologyDriver) -> Counter[str]:
    """Count what the stages refuse from now on, by topic and reason."""
    found: Counter[str] = Counter()

    def note(record: Record) -> None:
        letter = decode_dead_letter(record.value or b"")
        found[f"{letter.topic}.{letter.reason}"] += 1

    driver.tap(DEADLETTERS, note)
    return found


class Feed:
    """Takes events in event-time order; `time` is the latest event time (UTC ms), `events` counts all of them."""

    def __init__(
        self, driver: TopologyDriver, stages: Sequence[str], chunk_events: int, tile_ms: int | None = None
    ) -> None:
        self.events = 0
        self.time: int | None = None
        self._driver = driver
        self._stages = tuple(stages)
        self._chunk = chunk_events
        self._tile_ms = tile_ms
        self._held = 0

    def put(self, topic: str, key: bytes | None, event: Event) -> bool:
        """Put in one event; say whether it ended a chunk."""
        timed = topic in (CLICKSTREAM, ORDERS)
        ends = timed and self._enters_tile(event.time)
        if ends and self._tile_ms is not None:
            self.run([event.time // self._tile_ms * self._tile_ms])
        if timed and (self.time is None or event.time > self.time):
            self.time = event.time
        # As if everything were appended when it happens: nothing is early, and nothing comes late.
        self._driver.pipe(topic, key, encode_event(event), appended_at=event.time)
        self.events += 1
        self._held += timed
        if self._held < self._chunk:
            return ends
        self.run()
        return True

    def run(self, marks: Iterable[int] = ()) -> None:
        """End the chunk here: mark the time (and those given, UTC ms), and work until nothing is left."""
        driver = self._driver
        if self.time is not None:
            for time in (self.time, *marks):
                driver.now_ms = max(driver.now_ms, time)
                driver.mark_time(time)
        driver.run()
        for stage in self._stages:
            for task in driver.tasks(stage):
                task.trim(driver.settings.runtime.cache_max_rows)
        self._held = 0

    def _enters_tile(self, time: int) -> bool:
        tile = self._tile_ms
        return tile is not None and self.time is not None and time // tile > self.time // tile


def share_read(source: Source) -> float:
    """Return the share of a source's files that was read, below 1: files are read ahead of the events at work."""
    return min(source.progress(), 0.999)
