"""The edge towards Kafka: client configurations, topic names with their prefix, and typed errors."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, repeat
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.errors import ConfigurationError, Fenced, TidecastError
from streams.records import UNREADABLE_HEADER, Headers, Input, Record
from streams.settings import Settings

_SAME_LINE_S = 60.0
_LOOK_AGAIN_S = 0.5
_ENDING_S = 5.0
"""What Kafka may take, beyond its timeout, to end a transaction."""
# What differs between two lines that say the same: whose they are, and how long it took.
_VARYING = re.compile(r"\[\w+#\w+-\d+\]|\(after .*\)$|\d+/\d+ brokers")


class _Sparing(logging.Filter):
    """Lets the same line pass once a minute: a client without a broker tries, and logs, twenty times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line = _VARYING.sub("", record.getMessage())
        passed = record.created - self._passed.get(line, 0.0) >= _SAME_LINE_S
        if passed:
            # Lines name brokers, topics and codes: few, but nothing here bounds them.
            if len(self._passed) >= 1_000:
                self._passed.clear()
            self._passed[line] = record.created
        return passed


# confluent_kafka logs through this; librdkafka's own lines would otherwise go raw to standard error.
_LOG = logging.getLogger("tidecast.kafka")
_LOG.addFilter(_Sparing())

_FENCING_CODES = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.FENCED_INSTANCE_ID,
    }
)
_LEADER_CODES = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._UNKNOWN_PARTITION}
)
_STALE_MEMBER_CODES = frozenset(
    {KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS}
)


def base_config(settings: Settings) -> dict[str, Any]:
    """Return what every client needs. Raises ConfigurationError without a broker."""
    kafka = settings.kafka
    if not kafka.bootstrap_servers:
        raise ConfigurationError(
            "kafka.bootstrap_servers is not set; set TIDECAST_KAFKA__BOOTSTRAP_SERVERS=host:port, "
            "or `. .tidecast/data/environment` where `tidecast run` runs the embedded broker"
        )
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        # The embedded broker ignores fetch limits; a response must fit.
        "receive.message.max.bytes": 1_000_000_000,
        "logger": _LOG,
    }
    optional: dict[str, Any] = {
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
        "ssl.ca.location": str(kafka.ssl_ca_location) if kafka.ssl_ca_location else None,
    }
    config.update({name: value for name, value in optional.items() if value is not None})
    config.update(kafka.extra)
    return config


def producer_config(settings: Settings, *, transactional_id: str | None = None) -> dict[str, Any]:
    """Return an idempotent (with an id: transactional) producer's configuration."""
    config = base_config(settings) | {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "linger.ms": 5,
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 1_000_000,
        "message.max.bytes": max(settings.kafka.max_message_bytes * 2, 8_000_000),
        # murmur2 as Java's default, so that equal keys from any producer share a partition number.
        "partitioner": "murmur2_random",
    }
    if transactional_id is not None:
        config["transactional.id"] = transactional_id
        config["transaction.timeout.ms"] = settings.kafka.transaction_timeout_ms
        # A broker that still finishes the last transaction turns the next one away for a few ms: at librdkafka's own
        # 100 ms, 110 ms a transaction; at 5 ms, 13.
        config["retry.backoff.ms"] = 5
    return config


def consumer_config(settings: Settings, group: str, *, instance_id: str | None = None) -> dict[str, Any]:
    """Return a `read_committed` consumer's configuration; nothing is committed unless asked."""
    config = base_config(settings) | {
        "group.id": settings.kafka.prefix + group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "partition.assignment.strategy": "range",
        "session.timeout.ms": settings.kafka.session_timeout_ms,
        "heartbeat.interval.ms": min(3_000, settings.kafka.session_timeout_ms // 3),
        "fetch.wait.max.ms": 50,
        "fetch.message.max.bytes": max(settings.kafka.max_message_bytes * 2, 4_000_000),
        "queued.max.messages.kbytes": 65_536,
        "fetch.queue.backoff.ms": 20,
    }
    if instance_id is not None:
        config["group.instance.id"] = instance_id
    return config


def table_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of a consumer without a group that reads whole topics as tables."""
    return consumer_config(settings, "tidecast.tables")


def admin(settings: Settings) -> AdminClient:
    """Return an admin client."""
    return AdminClient(base_config(settings))


def partition_counts(client: AdminClient | Consumer | Producer, timeout_s: float = 10.0) -> dict[str, int]:
    """Return the partition count of every topic, by its full name. Raises TidecastError where no broker answers."""
    try:
        metadata = client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise TidecastError(
            f"no Kafka broker answers within {timeout_s:.0f} s ({error.args[0].str()}); check kafka.bootstrap_servers"
        ) from error
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def bounds(consumer: Consumer, partition: TopicPartition, timeout_s: float = 30.0) -> tuple[int, int]:
    """Return a partition's first offset held and the next to be written.

    Just after a topic was made its leader is still being told: that is waited for. Raises KafkaException.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            low, high = consumer.get_watermark_offsets(partition, timeout=timeout_s)
            return low, high
        except KafkaException as error:
            if error.args[0].code() not in _LEADER_CODES or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def record_of(message: Message, prefix: str) -> Record:
    """Turn a client message into a Record with its logical topic name."""
    try:
        headers = message.headers()
    except (SystemError, UnicodeDecodeError):  # a header's name that is not UTF-8: the client cannot say it
        headers = [(UNREADABLE_HEADER, b"")]
    return Record(
        _input_of(message.topic(), message.partition(), prefix),
        message.offset(),
        message.key(),
        message.value(),
        message.timestamp()[1],
        _headers(headers),
    )


def runs_of(messages: Sequence[Message], prefix: str) -> Iterator[list[Record] | Message]:
    """Yield the records of messages, those together that follow one another in one input; errors come as they are.

    Takes half the time of `record_of` for each.
    """
    topics, partitions = list(map(Message.topic, messages)), list(map(Message.partition, messages))
    whole = topics.count(topics[0]) == partitions.count(partitions[0]) == len(messages) if messages else True
    if whole and not any(map(Message.error, messages)):
        if messages:
            yield _records(messages, prefix)
        return
    for (_, _, failed), run in groupby(messages, lambda m: (m.topic(), m.partition(), m.error() is not None)):
        if failed:
            yield from run
        else:
            yield _records(list(run), prefix)


def _records(messages: Sequence[Message], prefix: str) -> list[Record]:
    """Turn messages of one partition into records."""
    try:
        found = list(map(Message.headers, messages))
    except (SystemError, UnicodeDecodeError):
        return [record_of(message, prefix) for message in messages]
    input_ = _input_of(messages[0].topic(), messages[0].partition(), prefix)
    appended = [at for _, at in map(Message.timestamp, messages)]
    headers = [_headers(pairs) for pairs in found] if any(found) else repeat(())
    columns = map(Message.offset, messages), map(Message.key, messages), map(Message.value, messages)
    return list(map(Record, repeat(input_), *columns, appended, headers))


def _headers(pairs: Sequence[tuple[str, bytes | None]] | None) -> Headers:
    return tuple((name, value if value is not None else b"") for name, value in pairs) if pairs else ()


@lru_cache(maxsize=4_096)
def _input_of(topic: str, partition: int, prefix: str) -> Input:
    return Input(topic[len(prefix) :], partition)


def read_to_end(
    settings: Settings, topics: list[str], handle: Callable[[Record], None], *, timeout_s: float = 30.0
) -> dict[Input, int]:
    """Read whole topics from their start to where they end now; return the end offsets.

    A transaction that is being committed hides what stands behind its first record for a moment, also after its
    producer was told that it is done: that is waited for, as long as one may stay open.
    """
    ends = {input_: high for input_, (low, high) in held(settings, topics).items() if high > low}
    for record in read(settings, dict.fromkeys(ends, OFFSET_BEGINNING), ends, timeout_s=timeout_s):
        handle(record)
    return ends


def read(
    settings: Settings,
    starts: Mapping[Input, int],
    ends: Mapping[Input, int],
    *,
    timeout_s: float = 30.0,
    queue_kb: int | None = None,
) -> Iterator[Record]:
    """Yield what a `read_committed` consumer sees from `starts` on, at least up to `ends`; see `read_to_end`.

    `queue_kb` bounds what is fetched ahead, for whoever reads many partitions at once. Raises TidecastError where no
    broker answers within `timeout_s`.
    """
    if not ends:
        return
    prefix = settings.kafka.prefix
    ahead = {} if queue_kb is None else {"queued.max.messages.kbytes": queue_kb}
    consumer = Consumer(table_config(settings) | ahead)
    try:
        consumer.assign([TopicPartition(prefix + i.topic, i.partition, start) for i, start in starts.items()])
        waiting = set(ends)
        hidden_since: dict[Input, float] = {}
        open_s = settings.kafka.transaction_timeout_ms / 1_000 + _ENDING_S
        heard = time.monotonic()
        while waiting:
            messages = take(consumer, 1_000, min(timeout_s, _LOOK_AGAIN_S))
            now = time.monotonic()
            if not messages and not waiting <= hidden_since.keys() and now - heard > timeout_s:
                raise TidecastError(
                    f"{', '.join(map(str, sorted(waiting)))}: no answer from Kafka in {timeout_s:.0f} s"
                )
            for message in messages:
                error = message.error()
                if error is None:
                    record = record_of(message, prefix)
                    hidden_since.pop(record.input, None)
                    yield record
                    continue
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                input_ = Input(message.topic()[len(prefix) :], message.partition())
                if message.offset() >= ends[input_]:
                    waiting.discard(input_)
                else:
                    hidden_since.setdefault(input_, now)
            if messages:
                heard = time.monotonic()  # whoever is given the records takes its time
            # What stays open for longer belongs to a producer that is gone.
            waiting = {i for i in waiting if now - hidden_since.get(i, now) < open_s}
    finally:
        consumer.close()


def held(settings: Settings, topics: Sequence[str]) -> dict[Input, tuple[int, int]]:
    """Return of each partition the first offset held and the next to be written, open transactions included.

    Topics are asked in the order given, so nothing that a later one refers to is beyond its end.
    """
    prefix = settings.kafka.prefix
    consumer = Consumer(table_config(settings) | {"isolation.level": "read_uncommitted"})
    try:
        counts = partition_counts(consumer, 30.0)
        found: dict[Input, tuple[int, int]] = {}
        for topic in topics:
            for partition in range(counts.get(prefix + topic, 0)):
                found[Input(topic, partition)] = bounds(consumer, TopicPartition(prefix + topic, partition))
        return found
    finally:
        consumer.close()


def take(consumer: Consumer, limit: int, timeout_s: float) -> list[Message]:
    """Return what is there, up to `limit` messages, after waiting at most `timeout_s` for the first.

    `consume` alone would wait for all of them.
    """
    first = consumer.poll(timeout_s)
    return [] if first is None else [first, *consumer.consume(limit - 1, timeout=0)]


class EndRest:
    """Lets partitions rest a moment at their end: the embedded broker makes no fetch wait, and clients would spin.

    Does nothing where `kafka.rest_at_end_ms` is 0, as it is on a real Kafka.
    """

    def __init__(self, consumer: Consumer, settings: Settings) -> None:
        self._consumer = consumer
        self._rest_s = settings.kafka.rest_at_end_ms / 1_000
        self._until: dict[tuple[str, int], float] = {}

    def at_end(self, message: Message) -> None:
        """Let the partition whose end was reached rest."""
        if self._rest_s:
            place = (message.topic(), message.partition())
            self._consumer.pause([TopicPartition(*place)])
            self._until[place] = time.monotonic() + self._rest_s

    def wake(self, paused: Collection[tuple[str, int]] = ()) -> None:
        """Go on with those that have rested, but for what its owner has `paused`."""
        if not self._until:
            return
        now = time.monotonic()
        rested = [place for place, until in self._until.items() if until <= now]
        for place in rested:
            del self._until[place]
        due = [TopicPartition(*place) for place in rested if place not in paused]
        if due:
            self._consumer.resume(due)

    def clear(self) -> None:
        """Forget all: what was assigned is no longer."""
        self._until.clear()

    def wait_s(self, longest: float) -> float:
        """Return how long to wait for messages: not beyond a rest."""
        return min(longest, self._rest_s) if self._until else longest


def raise_typed(error: KafkaException) -> None:
    """Raise Fenced where `error` says that another process owns this identity; return otherwise."""
    code = error.args[0].code()
    if code in _FENCING_CODES:
        raise Fenced(
            f"this worker was fenced ({error.args[0].str()}): another one runs under its worker_id, or it slept longer "
            "than the transaction timeout; restart it, and give every worker a worker_id of its own"
        ) from error


def stale_member(error: KafkaException) -> bool:
    """Say whether `error` means that the group moved on without this member."""
    return error.args[0].code() in _STALE_MEMBER_CODES
