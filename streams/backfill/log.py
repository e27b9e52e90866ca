"""The inputs' own records into a driver, in the order of event time across all partitions.

Within a partition the log's order holds. No time marker is added: the log has those that the workers went by.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from operator import attrgetter

from streams.driver import TopologyDriver
from streams.logs import Topics
from streams.records import CLICKSTREAM, ORDERS, Input
from streams.settings import Settings
from streams.verification.door import Opened, opened

INPUTS = (CLICKSTREAM, ORDERS)


def in_time_order(topics: Topics, settings: Settings) -> Iterator[Opened]:
    """Yield the records of all partitions of clicks and orders, always the one whose head is earliest.

    What is refused holds nothing back.
    """

    def records(input_: Input) -> Iterator[Opened]:
        return (opened(record, settings) for record in topics.read(input_))

    inputs = [Input(topic, partition) for topic in INPUTS for partition in range(topics.partitions)]
    yield from merge(*map(records, inputs), key=attrgetter("time"))


class LogFeed:
    """Pipes records as they stand, and works wherever event time enters another tile, or after so many records."""

    def __init__(self, driver: TopologyDriver, tile_ms: int, chunk_events: int) -> None:
        self.events = 0
        self.time = 0
        self._driver = driver
        self._tile_ms = tile_ms
        self._chunk = chunk_events
        self._held = 0

    def put(self, one: Opened) -> bool:
        """Put in one record; say whether something was worked before."""
        works = one.time // self._tile_ms > self.time // self._tile_ms or self._held >= self._chunk
        if works:
            self.run()
        self.time = max(self.time, one.time)
        driver, record = self._driver, one.record
        driver.now_ms = max(driver.now_ms, one.time)
        partition, at = record.input.partition, record.appended_at
        driver.pipe(
            record.input.topic, record.key, record.value, partition=partition, appended_at=at, headers=record.headers
        )
        self.events += one.item is not None
        self._held += 1
        return works

    def run(self) -> None:
        """Work until nothing is left that can be taken."""
        driver = self._driver
        driver.run()
        for stage in ("score", "demand"):
            for task in driver.tasks(stage):
                task.trim(driver.settings.runtime.cache_max_rows)
        self._held = 0
