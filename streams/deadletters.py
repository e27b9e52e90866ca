"""Reads the dead letters, and sends their records again: the work of `tidecast deadletters`.

What was redriven is remembered as committed offsets, one group for each reason (`tidecast.redrive.late`, …), in the
same transaction as the records: a letter is sent once, whatever is killed meanwhile.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args, get_type_hints

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.outputs import DeadLetter, decode_dead_letter
from schemas.wire import DecodeError
from streams import kafka
from streams.errors import ConfigurationError, TidecastError, TopicsError
from streams.producing import transactional_producer
from streams.records import CATALOG, CLICKSTREAM, DEADLETTERS, ORDERS, PLAN, REDRIVE_HEADER
from streams.settings import Settings

REASONS: tuple[str, ...] = get_args(get_type_hints(DeadLetter)["reason"])
"""Why a record can be refused."""

DEFAULT_REASONS = tuple(reason for reason in REASONS if reason != "late")
"""What is sent again unless reasons are named: a late letter may be the repeat of an event that counted."""

_TAKEN = (CLICKSTREAM, ORDERS, CATALOG, PLAN)
_BATCH = 500
_TIMEOUT_S = 30.0


def check_reasons(reasons: Sequence[str] | None) -> tuple[str, ...]:
    """Return the reasons asked for, all where none is given. Raises ConfigurationError for an unknown one."""
    for reason in reasons or ():
        if reason not in REASONS:
            raise ConfigurationError(f"--reason {reason!r} is none of {', '.join(REASONS)}")
    return tuple(dict.fromkeys(reasons or REASONS))


def read(settings: Settings) -> Iterator[DeadLetter]:
    """Give all dead letters there are now, each partition's in order."""
    consumer = Consumer(kafka.table_config(settings))
    try:
        starts = [TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in _partitions(consumer, settings)]
        for message in _until_end(consumer, starts):
            letter = _decode(message)
            if letter is not None:
                yield letter
    finally:
        consumer.close()


def redrive(
    settings: Settings, reasons: Sequence[str], *, dry_run: bool, refused: Callable[[str], None]
) -> dict[str, Any]:
    """Send again what was refused for `reasons` and was not sent yet; `refused` is told of each that cannot be.

    Returns counts. Raises Fenced where another redrive began meanwhile, TidecastError where Kafka does not answer.
    """
    sent: dict[str, int] = {}
    kept = 0
    try:
        _count(kafka.admin(settings), settings)
        # Also settles what a killed redrive left open, before its offsets are asked for.
        producer = None if dry_run else transactional_producer(settings, "tidecast.redrive")
        for reason in reasons:
            one = _Redrive(settings, reason, producer, refused)
            one.run()
            for topic, count in one.sent.items():
                sent[topic] = sent.get(topic, 0) + count
            kept += one.refused
    except KafkaException as error:
        if error.args[0].code() == KafkaError._INVALID_ARG:
            raise  # a setting that the client refuses
        kafka.raise_typed(error)
        raise TidecastError(f"redrive: Kafka: {error.args[0].str()}") from error
    return {"redriven": sum(sent.values()), "topics": sent, "refused": kept, "dry_run": dry_run}


class _Redrive:
    """The redrive of one reason."""

    def __init__(
        self, settings: Settings, reason: str, producer: Producer | None, refused: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._prefix = settings.kafka.prefix
        self._reason = reason
        self._producer = producer
        self._tell = refused
        self._counts: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.refused = 0

    def run(self) -> None:
        consumer = Consumer(kafka.consumer_config(self._settings, f"tidecast.redrive.{self._reason}"))
        try:
            self._counts = kafka.partition_counts(consumer)
            starts = []
            for answer in consumer.committed(_partitions(consumer, self._settings), timeout=_TIMEOUT_S):
                low, _ = kafka.bounds(consumer, answer)
                starts.append(TopicPartition(answer.topic, answer.partition, max(low, answer.offset)))
            batch: list[Message] = []
            for message in _until_end(consumer, starts):
                batch.append(message)
                if len(batch) == _BATCH:
                    self._send(consumer, batch)
                    batch = []
            if batch:
                self._send(consumer, batch)
        finally:
            consumer.close()

    def _send(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        letters = []
        for message in messages:
            letter = _decode(message)
            if letter is None or letter.reason != self._reason:
                continue
            problem = self._problem(letter)
            if problem is None:
                letters.append(letter)
            else:
                self.refused += 1
                self._tell(f"{letter.topic}[{letter.partition}] {letter.offset}: not sent, {problem}")
        for letter in letters:
            self.sent[letter.topic] = self.sent.get(letter.topic, 0) + 1
        producer = self._producer
        if producer is None:
            return
        ends = {(m.topic(), m.partition()): m.offset() + 1 for m in messages}
        producer.begin_transaction()
        for letter in letters:
            self._produce(producer, letter)
        producer.send_offsets_to_transaction(
            [TopicPartition(topic, partition, offset) for (topic, partition), offset in ends.items()],
            consumer.consumer_group_metadata(),
            _TIMEOUT_S,
        )
        producer.commit_transaction(_TIMEOUT_S)

    def _produce(self, producer: Producer, letter: DeadLetter) -> None:
        headers = [
            (name, None if value is None else base64.b64decode(value))
            for name, value in letter.headers
            if name != REDRIVE_HEADER
        ]
        headers.append((REDRIVE_HEADER, letter.id.encode()))
        producer.produce(
            self._prefix + letter.topic,
            letter.value(),
            key=letter.key(),
            partition=letter.partition,
            headers=headers,
        )

    def _problem(self, letter: DeadLetter) -> str | None:
        """Say why a letter cannot be sent, None where it can."""
        if letter.truncated:
            return f"only the first bytes of {letter.size} were kept (sha256 {letter.sha256}); send the original"
        if letter.topic not in _TAKEN:
            return f"no stage takes records of {letter.topic[:100]!r} from outside"
        partitions = self._counts.get(self._prefix + letter.topic)
        if partitions is None or not 0 <= letter.partition < partitions:
            return "its partition is gone"
        return None


def _partitions(consumer: Consumer, settings: Settings) -> list[TopicPartition]:
    topic = settings.kafka.prefix + DEADLETTERS
    return [TopicPartition(topic, partition) for partition in range(_count(consumer, settings))]


def _count(client: AdminClient | Consumer, settings: Settings) -> int:
    topic = settings.kafka.prefix + DEADLETTERS
    count = kafka.partition_counts(client).get(topic)
    if count is None:
        raise TopicsError(f"topics are missing: {topic}; run 'tidecast topics create'")
    return count


def _until_end(consumer: Consumer, starts: Sequence[TopicPartition]) -> Iterator[Message]:
    """Give the messages from `starts` to where the partitions end now: letters that come meanwhile wait."""
    ends = {}
    for start in starts:
        low, high = kafka.bounds(consumer, start)
        if max(low, start.offset) < high:
            ends[start.topic, start.partition] = high
    consumer.assign([start for start in starts if (start.topic, start.partition) in ends])
    while ends:
        first = consumer.poll(_TIMEOUT_S)
        if first is None:
            raise TidecastError(f"{DEADLETTERS}: no answer from Kafka in {_TIMEOUT_S:.0f} s")
        # consume() alone would wait for a full batch until its time is out.
        for message in (first, *consumer.consume(_BATCH, timeout=0)):
            place = (message.topic(), message.partition())
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                ends.pop(place, None)
            elif place in ends and message.offset() < ends[place]:
                yield message
            else:
                ends.pop(place, None)


def _decode(message: Message) -> DeadLetter | None:
    """Return the letter, None for what somebody else wrote into the topic."""
    try:
        letter = decode_dead_letter(message.value() or b"")
        letter.key(), letter.value()
        for _, content in letter.headers:
            base64.b64decode(content or "", validate=True)
    except (DecodeError, ValueError):
        return None
    return letter
