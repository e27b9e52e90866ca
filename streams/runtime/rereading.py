"""The log read a second time, from anywhere, for a stage that looks back: a client of its own, opened at first use."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams import kafka
from streams.errors import LogTruncated
from streams.records import Input, Record
from streams.settings import Settings

_RECORDS = 64
_FETCH_BYTES = 1_000_000
_PATIENCE_S = 5.0


class Rereader:
    """Reads a few records at a time. In between nothing is fetched, however long the log has been at its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = settings.kafka.prefix
        self._consumer: Consumer | None = None

    def read(self, input_: Input, offset: int) -> Sequence[Record]:
        """Return the first records of a partition at or after `offset`, in order; none where Kafka does not answer.

        Raises LogTruncated where the log has nothing there, KafkaException.
        """
        consumer = self._opened()
        consumer.assign([TopicPartition(self._prefix + input_.topic, input_.partition, offset)])
        deadline = time.monotonic() + _PATIENCE_S
        records: list[Record] = []
        end = None
        try:
            while not records and time.monotonic() < deadline:
                for message in kafka.take(consumer, _RECORDS, _PATIENCE_S):
                    error = message.error()
                    if error is None:
                        records.append(kafka.record_of(message, self._prefix))
                    elif error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    else:
                        end = message.offset()
        finally:
            consumer.unassign()
        if (records and records[0].offset < offset) or (end is not None and not records):
            raise LogTruncated(
                f"{input_}: offset {offset} was to be read again, and is gone; raise the topic's retention.ms, and run "
                "'tidecast state reset learn-0' to learn from what it holds"
            )
        return records

    def close(self) -> None:
        """Close the client, if one was needed."""
        if self._consumer is not None:
            self._consumer.close()

    def _opened(self) -> Consumer:
        if self._consumer is None:
            few = {"queued.max.messages.kbytes": 2 * _FETCH_BYTES // 1_000, "fetch.message.max.bytes": _FETCH_BYTES}
            # What is gone from the log is seen by whoever asks: the first record is not the one wanted.
            self._consumer = Consumer(kafka.table_config(self._settings) | few | {"auto.offset.reset": "earliest"})
        return self._consumer
