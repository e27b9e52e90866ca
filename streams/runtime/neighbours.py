"""How far event time has come in the partitions that other workers own: what a worker without traffic asks the log.

A worker all of whose partitions are quiet hears of no later time by itself, and its tasks would hold back whoever waits
for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, TopicPartition

from streams import kafka
from streams.records import Input
from streams.runtime.task import read
from streams.settings import Settings
from streams.topologies.stage import Rejected, Stage

# The last of a partition may be a transaction's end, or aborted: no record.
_TAIL = 16
# librdkafka's RD_KAFKA_OFFSET_TAIL.
_FROM_END = -2_000
_RECORDS = 1_000
_FETCH_BYTES = 1_000_000
_PATIENCE_S = 5.0


class Neighbours:
    """Looks at the last records of partitions every now and then, and never waits for them."""

    def __init__(self, stage: Stage, settings: Settings, now: Callable[[], float]) -> None:
        self._stage = stage
        self._settings = settings
        self._prefix = settings.kafka.prefix
        self._ahead_ms = settings.time.max_ahead_s * 1_000
        self._now = now
        self._consumer: Consumer | None = None
        self._waiting: set[tuple[str, int]] = set()
        self._began = float("-inf")
        self._latest: int | None = None
        self._settled: int | None = None

    def latest(self, inputs: Sequence[Input]) -> int | None:
        """Return the greatest event time (UTC ms) seen in `inputs` an idle time ago, None where there was none."""
        now = self._now()
        if inputs and not self._waiting and now - self._began >= self._settings.time.idle_ms / 1_000:
            self._begin(inputs, now)
        if self._waiting:
            self._hear()
            if not self._waiting or now - self._began > _PATIENCE_S:
                self._rest()
        return self._settled if inputs else None

    @property
    def looking(self) -> bool:
        """Whether an answer is still waited for."""
        return bool(self._waiting)

    def close(self) -> None:
        """Close the client, if one was needed."""
        if self._consumer is not None:
            self._consumer.close()

    def _begin(self, inputs: Sequence[Input], now: float) -> None:
        if self._consumer is None:
            few = {"queued.max.messages.kbytes": 2 * _FETCH_BYTES // 1_000, "fetch.message.max.bytes": _FETCH_BYTES}
            config = kafka.table_config(self._settings) | few | {"auto.offset.reset": "earliest"}
            self._consumer = Consumer(config)
        tails = [TopicPartition(self._prefix + i.topic, i.partition, _FROM_END - _TAIL) for i in inputs]
        self._waiting = {(tail.topic, tail.partition) for tail in tails}
        self._began = now
        # What was sent here together with what has just come there may still be on its way.
        self._settled = self._latest
        self._consumer.assign(tails)

    def _hear(self) -> None:
        assert self._consumer is not None, "something is waited for"
        for message in kafka.take(self._consumer, _RECORDS, 0):
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._waiting.discard((message.topic(), message.partition()))
                continue
            record = kafka.record_of(message, self._prefix)
            time, item = read(self._stage, record, self._ahead_ms)
            # A clock there that is ahead takes none of their lateness from those here.
            time = min(time, record.appended_at)
            if not isinstance(item, Rejected) and (self._latest is None or time > self._latest):
                self._latest = time

    def _rest(self) -> None:
        assert self._consumer is not None, "something was waited for"
        self._waiting.clear()
        self._consumer.unassign()
