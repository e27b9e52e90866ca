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
from streams.records import Output, Outputs, Said
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

    def begin(self, said: Sequence[Said], offsets: list[TopicPartition]) -> None:
        """Begin to write outputs and offsets in one transaction, while others go on; `finish` the one before first."""
        assert self._under_way is None
        # Here: the client lets no two threads into one consumer, and this one may wait in a callback of its poll.
        member = self._consumer.consumer_group_metadata()
        self._under_way = self._thread.submit(self._commit, said, offsets, member)

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

    def _commit(self, said: Sequence[Said], offsets: list[TopicPartition], member: Any) -> Mapping[str, int]:
        topics: dict[str, list[Said]] = {}
        for one in said:
            topics.setdefault(one.topic, []).append(one)
        try:
            self._write(topics, offsets, member)
        except KafkaException as error:
            kafka.raise_typed(error)
            self._abort()
            raise Aborted(error.args[0].str()) from error
        return {
            topic: sum(1 if isinstance(one, Output) else len(one) for one in some) for topic, some in topics.items()
        }

    def _write(self, topics: Mapping[str, list[Said]], offsets: list[TopicPartition], member: Any) -> None:
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

    def _produce(self, producer: Producer, topics: Mapping[str, list[Said]]) -> None:
        """Hand everything to the client; each topic's outputs keep their order."""
        room = _ROOM_BYTES
        for topic, some in topics.items():
            name = self._prefix + topic
            for one in _together(some):
                if isinstance(one, Output):
                    room -= _size([one.value])
                    _produce_one(producer, name, one)
                else:
                    room = _produce_together(producer, name, one, room)

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


def _together(some: list[Said]) -> Sequence[Said]:
    """Put what is said one by one together where there is much of it, and only keys place it."""
    singles = [
        one for one in some if isinstance(one, Output) and one.value and one.partition is None and not one.headers
    ]
    if len(singles) < _MANY or len(singles) < len(some):
        return some
    values = [one.value for one in singles if one.value]
    return [Outputs(some[0].topic, [one.key for one in singles], values)]


def _produce_together(producer: Producer, topic: str, said: Outputs, room: int) -> int:
    """Hand over what only a key places, in one call a part: a fifth less of this thread's time than by a call each.

    The client can say neither headers nor partitions nor deletions like this, and whatever it has no room for it leaves
    out: so it is emptied in time. `room` bytes are left of what it may be given before that; returns what is now.
    """
    for start in range(0, len(said), _PART):
        keys, values = said.keys[start : start + _PART], said.values[start : start + _PART]
        size = _size(values)
        if size > room:
            room = 0 if producer.flush(_TIMEOUT_S) else _ROOM_BYTES
        if size > room:
            for key, value in zip(keys, values, strict=True):
                _produce_one(producer, topic, Output(said.topic, key, value))
            room = 0
            continue
        room -= size
        messages = [{"value": value, "key": key} for key, value in zip(keys, values, strict=True)]
        if producer.produce_batch(topic, messages) < len(messages):
            raise next(KafkaException(m["_error"]) for m in messages if "_error" in m)
    return room


def _size(values: Sequence[bytes | None]) -> int:
    return sum([len(value or b"") for value in values]) + _OVERHEAD_BYTES * len(values)


def _produce_one(producer: Producer, topic: str, output: Output) -> None:
    partition = output.partition if output.partition is not None else _BY_KEY
    headers = list(output.headers) if output.headers else None
    while True:
        try:
            producer.produce(topic, output.value, output.key, partition, headers=headers)
            return
        except BufferError:
            producer.poll(0.05)
