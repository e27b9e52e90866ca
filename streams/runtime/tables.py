"""Topics that a worker reads whole (catalog, plan, models): no group, every partition, from the start.

Reading them again after a restart gives the same table; so nothing of them is checkpointed.
"""

from __future__ import annotations

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from streams.kafka import EndRest, partition_counts, record_of, table_config, take
from streams.records import Record
from streams.settings import Settings


class Tables:
    """A consumer over whole topics; `poll` returns what is new, `caught_up` says when the first pass is over."""

    def __init__(self, settings: Settings, topics: tuple[str, ...]) -> None:
        self._prefix = settings.kafka.prefix
        self._consumer = Consumer(table_config(settings)) if topics else None
        self._waiting: set[tuple[str, int]] = set()
        if self._consumer is None:
            return
        self._rest = EndRest(self._consumer, settings)
        counts = partition_counts(self._consumer)
        partitions = [
            TopicPartition(self._prefix + topic, partition, OFFSET_BEGINNING)
            for topic in topics
            for partition in range(counts.get(self._prefix + topic, 0))
        ]
        self._waiting = {(p.topic, p.partition) for p in partitions}
        self._consumer.assign(partitions)

    @property
    def caught_up(self) -> bool:
        """Whether every partition was read to its end once."""
        return not self._waiting

    def poll(self, limit: int = 1_000, timeout_s: float = 0.0) -> list[Record]:
        """Return new records."""
        if self._consumer is None:
            return []
        records = []
        self._rest.wake()
        for message in take(self._consumer, limit, timeout_s):
            error = message.error()
            if error is None:
                records.append(record_of(message, self._prefix))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._waiting.discard((message.topic(), message.partition()))
                self._rest.at_end(message)
            elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN and error.fatal():
                raise KafkaException(error)
        return records

    def close(self) -> None:
        """Leave."""
        if self._consumer is not None:
            self._consumer.close()
