"""A worker's transactions: outputs and offsets become visible together, or not at all.

One is under way at most, in a thread of its own: most of its time is the broker's, in which the next batch can be made.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streams import kafka
from streams.errors import TidecastError
from streams.producing import transactional_producer
from streams.records import Output
from streams.runtime import hooks
from streams.settings import Settings

_LOG = logging.getLogger("tidecast.worker")
_BY_KEY = -1
_MANY = 10
_PART = 10_000
_ROOM_BYTES = 100_000_000
"""Of what may wait in the client (`kafka.producer_config`), a tenth."""
_OVERHEAD_BYTES = 300
"""Counted for each, so that many small ones stay within the number of messages that may wait."""
_TIMEOUT_S = 30.0


class Aborted(Exception):
    """The transaction was taken back; the message is Kafka's reason."""


class Transactions:
    """The transactions of one worker, named by its `identity`; `consumer` is its member of the group."""

    def __init__(self, settings: Settings, identity: str, consumer: Consumer) -> None:
        self._settings = settings
        self._identity = identity
        self._consumer = consumer
        self._prefix = settings.kafka.prefix
        self._opening: Future[Producer] | None = None
        self._producer: Producer | None = None
        self._thread = ThreadPoolExecutor(1, "transactions")
        self._closing = threading.Event()
        self._under_way: Future[Mapping[str, int]] | None = None

    def settle(self) -> None:
        """Begin to end what a predecessor left open: Kafka may take half a second, so call this early."""
        opening: Future[Producer] = Future()

        def init() -> None:
            try:
                opening.set_result(transactional_producer(self._settings, self._identity))
            except Exception as error:  # noqa: BLE001  (whoever waits for it is told)
                opening.set_exception(error)

        threading.Thread(target=init, name="settle", daemon=True).start()
        self._opening = opening

    def settled(self) -> None:
        """Return when nothing of a predecessor is open: only now are committed offsets safe to read.

        Raises KafkaException.
        """
        if self._opening is None:
            self.settle()
        assert self._opening is not None
        self._producer = self._opening.result()

    def begin(self, outputs: Sequence[Output], offsets: list[TopicPartition]) -> None:
        """Begin to write outputs and offsets in one transaction, while others go on; `finish` the one before first."""
        assert self._under_way is None
        # Here: the client lets no two threads into one consumer, and this one may wait in a callback of its poll.
        member = self._consumer.consumer_group_metadata()
        self._under_way = self._thread.submit(self._commit, outputs, offsets, member)

    def under_way(self) -> bool:
        """Say whether `finish` would have to wait."""
        return self._under_way is not None and not self._under_way.done()

    def ended(self) -> bool:
        """Say whether `finish` would return, or raise, at once for one that was begun."""
        return self._under_way is not None and self._under_way.done()

    def finish(self) -> Mapping[str, int] | None:
        """Return how many outputs by topic the transaction that was begun wrote, once committed; None: none was begun.

        Raises Aborted (nothing of it is visible, another one may begin), Fenced, TidecastError.
        """
        under_way, self._under_way = self._under_way, None
        return None if under_way is None else under_way.result()

    def close(self) -> None:
        """Wait for what is under way, however it ends; where Kafka is away it is tried no longer."""
        self._closing.set()
        self._thread.shutdown()
        under_way, self._under_way = self._under_way, None
        error = under_way.exception() if under_way is not None else None
        if error is not None:
            _LOG.warning("the last transaction was not committed: %s", error)

    def _commit(self, outputs: Sequence[Output], offsets: list[TopicPartition], member: Any) -> Mapping[str, int]:
        topics: dict[str, list[Output]] = {}
        for output in outputs:
            if output.topic in topics:
                topics[output.topic].append(output)
            else:
                topics[output.topic] = [output]
        try:
            self._write(topics, offsets, member)
        except KafkaException as error:
            kafka.raise_typed(error)
            self._abort()
            raise Aborted(error.args[0].str()) from error
        return {topic: len(some) for topic, some in topics.items()}

    def _write(self, topics: Mapping[str, list[Output]], offsets: list[TopicPartition], member: Any) -> None:
        producer = self._producer
        assert producer is not None
        producer.begin_transaction()
        hooks.reach("before_produce")
        self._produce(producer, topics)
        hooks.reach("after_produce")
        if offsets:
            producer.send_offsets_to_transaction(offsets, member, _TIMEOUT_S)
        hooks.reach("before_commit")
        self._patiently("commit", producer.commit_transaction)
        hooks.reach("after_commit")

    def _produce(self, producer: Producer, topics: Mapping[str, list[Output]]) -> None:
        """Hand everything to the client; each topic's outputs keep their order."""
        room = _ROOM_BYTES
        for topic, some in topics.items():
            name = self._prefix + topic
            if len(some) >= _MANY and all(o.partition is None and o.value and not o.headers for o in some):
                room = _produce_together(producer, name, some, room)
            else:
                room -= _size(some)
                for output in some:
                    _produce_one(producer, name, output)

    def _patiently(self, what: str, end: Callable[[float], None]) -> None:
        while True:
            try:
                end(_TIMEOUT_S)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or self._closing.is_set():
                    raise
                _LOG.info("%s is tried again: %s", what, error.args[0].str())

    def _abort(self) -> None:
        assert self._producer is not None
        try:
            self._patiently("abort", self._producer.abort_transaction)
            if self._settings.kafka.renew_producers:
                self._producer = transactional_producer(self._settings, self._identity, self._producer)
        except KafkaException as error:
            kafka.raise_typed(error)
            raise TidecastError(f"Kafka: abort failed: {error.args[0].str()}") from error


def _produce_together(producer: Producer, topic: str, outputs: Sequence[Output], room: int) -> int:
    """Hand over what only a key places, in one call a part: a fifth less of this thread's time than by a call each.

    The client can say neither headers nor partitions nor deletions like this, and whatever it has no room for it leaves
    out: so it is emptied in time. `room` bytes are left of what it may be given before that; returns what is now.
    """
    for start in range(0, len(outputs), _PART):
        part = outputs[start : start + _PART]
        size = _size(part)
        if size > room:
            room = 0 if producer.flush(_TIMEOUT_S) else _ROOM_BYTES
        if size > room:
            for output in part:
                _produce_one(producer, topic, output)
            room = 0
            continue
        room -= size
        messages = [{"value": output.value, "key": output.key} for output in part]
        if producer.produce_batch(topic, messages) < len(messages):
            raise next(KafkaException(m["_error"]) for m in messages if "_error" in m)
    return room


def _size(outputs: Sequence[Output]) -> int:
    return sum([len(output.value or b"") for output in outputs]) + _OVERHEAD_BYTES * len(outputs)


def _produce_one(producer: Producer, topic: str, output: Output) -> None:
    partition = output.partition if output.partition is not None else _BY_KEY
    headers = list(output.headers) if output.headers else None
    while True:
        try:
            producer.produce(topic, output.value, output.key, partition, headers=headers)
            return
        except BufferError:
            producer.poll(0.05)
