"""Topics read whole: partition by partition, from what they still hold to where they ended when reading began.

Where they end is noted first, and in an order that leaves nothing out that is asked for: how far score had come, then
its examples, then the activity that they refer to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from confluent_kafka import Consumer

from streams import kafka
from streams.driver import TopologyDriver
from streams.errors import TopicsError
from streams.records import ACTIVITY, CATALOG, CLICKSTREAM, EXAMPLES, ORDERS, PLAN, Input, Record
from streams.runtime.assignment import committed_offsets
from streams.settings import Settings
from streams.topologies.layout import SCORE_STAGE

TOPICS = (EXAMPLES, ACTIVITY, CLICKSTREAM, ORDERS)
"""What a verification reads, all with one number of partitions."""
FACTS = (CATALOG, PLAN)
"""What it reads besides: a partition each."""
_QUEUE_KB = 8_192


class Topics(Protocol):
    """What is read, as it was when reading began."""

    @property
    def partitions(self) -> int:
        """How many partitions each of the topics has."""
        ...

    def scored(self, input_: Input) -> int | None:
        """Next offset that score would have taken, None where it never committed one."""
        ...

    def bounds(self, input_: Input) -> tuple[int, int]:
        """First offset held and the next one to be written."""
        ...

    def read(self, input_: Input) -> Iterator[Record]:
        """Yield its records in order."""
        ...


class RecordedTopics:
    """Topics as lists of records; `scored` is how far score had come, all of it where nothing is said.

    >>> topics = RecordedTopics({Input("orders", 1): []})
    >>> topics.partitions, topics.bounds(Input("orders", 1))
    (2, (0, 0))
    """

    def __init__(self, records: Mapping[Input, Sequence[Record]], scored: Mapping[Input, int] | None = None) -> None:
        self._records = records
        self._scored = scored or {}

    @classmethod
    def of(cls, driver: TopologyDriver) -> RecordedTopics:
        """Return what a driver's topics hold, and how far its score stage has come."""
        inputs = [Input(topic, partition) for topic in TOPICS for partition in range(driver.partitions)]
        inputs += [Input(topic, 0) for topic in FACTS]
        records = {input_: list(driver.log.read(input_, 0)) for input_ in inputs}
        scored = {input_: one.offset for (stage, input_), one in driver.committed.items() if stage == SCORE_STAGE}
        return cls(records, scored)

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return max((input_.partition + 1 for input_ in self._records), default=0)

    def scored(self, input_: Input) -> int | None:
        """Next offset that score would have taken."""
        return self._scored.get(input_)

    def bounds(self, input_: Input) -> tuple[int, int]:
        """First offset held and the next one to be written."""
        records = self._records.get(input_)
        return (records[0].offset, records[-1].offset + 1) if records else (0, 0)

    def read(self, input_: Input) -> Iterator[Record]:
        """Yield its records in order."""
        yield from self._records.get(input_, ())


class KafkaTopics:
    """Topics in Kafka, as a `read_committed` consumer sees them. Raises TopicsError, TidecastError."""

    def __init__(self, settings: Settings, topics: Sequence[str] = TOPICS) -> None:
        self._settings = settings
        prefix = settings.kafka.prefix
        group = Consumer(kafka.consumer_config(settings, f"tidecast.{SCORE_STAGE}"))
        try:
            counts = kafka.partition_counts(group)
            missing = [prefix + topic for topic in (*topics, *FACTS) if prefix + topic not in counts]
            if missing:
                raise TopicsError(f"topics are missing: {', '.join(missing)}; run 'tidecast topics create'")
            if len({counts[prefix + topic] for topic in topics}) != 1:
                told = ", ".join(f"{prefix}{topic} has {counts[prefix + topic]}" for topic in topics)
                raise TopicsError(f"partition counts must be equal: {told}; no task has read such topics")
            self.partitions = counts[prefix + topics[0]]
            inputs = [Input(topic, p) for topic in (CLICKSTREAM, ORDERS) for p in range(self.partitions)]
            self._scored = {i: one.offset for i, one in committed_offsets(group, prefix, inputs).items()}
        finally:
            group.close()
        self._bounds = kafka.held(settings, (*topics, *FACTS))

    def scored(self, input_: Input) -> int | None:
        """Next offset that score had committed when reading began."""
        return self._scored.get(input_)

    def bounds(self, input_: Input) -> tuple[int, int]:
        """First offset held and the next one to be written, when reading began."""
        return self._bounds[input_]

    def read(self, input_: Input) -> Iterator[Record]:
        """Yield its records in order, up to where it ended when reading began."""
        low, high = self._bounds[input_]
        if low == high:
            return
        for record in kafka.read(self._settings, {input_: low}, {input_: high}, queue_kb=_QUEUE_KB):
            if record.offset >= high:
                return
            yield record
