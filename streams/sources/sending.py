"""Events into Kafka: an idempotent producer, time markers into every partition, and errors that say what to do.

Shared by the replay of files and the simulated shop.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.codec import Marker, encode_event
from streams.errors import TidecastError, TopicsError
from streams.kafka import partition_counts, producer_config, table_config
from streams.records import CATALOG, CLICKSTREAM, DEADLETTERS, MARKER_HEADER, ORDERS, PLAN
from streams.settings import Settings

MARKED = (CLICKSTREAM, ORDERS)
"""The topics whose empty partitions would hold back the others without markers."""
_FLUSH_S = 120.0


class Sender:
    """Sends events and markers; `counts` are records handed over, by topic. Use as a context: leaving flushes."""

    def __init__(self, settings: Settings, source: str, topics: tuple[str, ...]) -> None:
        self._settings = settings
        self._prefix = settings.kafka.prefix
        self._source = source
        self._failure: KafkaError | None = None
        self.counts: Counter[str] = Counter()
        self._handed = 0
        # A callback for each delivery would cost more than the sending; failures are all that matters.
        own = {"error_cb": self._on_error, "delivery.report.only.error": True}
        self._producer = Producer(producer_config(settings) | own)
        self._partitions = self._check(topics)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.flush()
        else:
            # Something went wrong already: do not wait long for what cannot be sent.
            self._producer.flush(5.0)

    def send(self, topic: str, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]] | None = None) -> None:
        """Hand a record over. Raises TidecastError where an earlier one could not be delivered."""
        self._produce(topic, key, value, -1, headers)
        self.counts[topic] += 1

    def mark(self, time_ms: int, kind: bytes = b"time") -> None:
        """Tell every partition of the inputs that all before `time_ms` was sent; b"end": that nothing will follow."""
        # The end comes after all that bears the last event's time: at that time itself, orders would wait for clicks.
        value = encode_event(Marker(time_ms + (kind == b"end"), self._source))
        for topic in MARKED:
            for partition in range(self._partitions[topic]):
                self._produce(topic, None, value, partition, [(MARKER_HEADER, kind)])

    def flush(self) -> None:
        """Wait until all that was handed over is acknowledged. Raises TidecastError where it is not."""
        left = self._producer.flush(_FLUSH_S)
        self._raise_failure()
        if left:
            raise TidecastError(f"{left} records were not acknowledged within {_FLUSH_S:.0f} s; is the broker well?")

    def ends(self) -> Counter[str]:
        """Return how many records each topic's log has ever held (the sum of its end offsets)."""
        found: Counter[str] = Counter()
        consumer = Consumer(table_config(self._settings))
        try:
            for topic, partitions in self._partitions.items():
                for partition in range(partitions):
                    where = TopicPartition(self._prefix + topic, partition)
                    found[topic] += consumer.get_watermark_offsets(where, timeout=10.0)[1]
        except KafkaException as error:
            raise TidecastError(f"the ends of the topics cannot be read ({error.args[0].str()})") from error
        finally:
            consumer.close()
        return found

    def _produce(
        self, topic: str, key: bytes | None, value: bytes, partition: int, headers: list[tuple[str, bytes]] | None
    ) -> None:
        options: dict[str, Any] = {} if partition < 0 else {"partition": partition}
        if headers:
            options["headers"] = headers
        while True:
            try:
                self._producer.produce(self._prefix + topic, value, key, on_delivery=self._on_delivery, **options)
            except BufferError:
                # The queue is full: the broker is slower than the files. Wait for room.
                self._producer.poll(0.1)
                self._raise_failure()
                continue
            except KafkaException as error:
                raise TidecastError(
                    f"{self._prefix}{topic}: a record cannot be sent ({error.args[0].str()})"
                ) from error
            break
        self._handed += 1
        if not self._handed & 255:
            self._producer.poll(0)
            self._raise_failure()

    def _check(self, topics: tuple[str, ...]) -> dict[str, int]:
        counts = partition_counts(self._producer)
        absent = [self._prefix + topic for topic in topics if self._prefix + topic not in counts]
        if absent:
            raise TopicsError(f"there is no topic {', '.join(absent)}; run 'tidecast topics create'")
        found = {topic: counts[self._prefix + topic] for topic in topics}
        if found[CLICKSTREAM] != found[ORDERS]:
            raise TopicsError(
                f"{self._prefix}{CLICKSTREAM} has {found[CLICKSTREAM]} partitions, {self._prefix}{ORDERS} "
                f"{found[ORDERS]}; they must be equal, or a user's clicks and orders go to different tasks"
            )
        return found

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() and self._failure is None:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise TidecastError(f"Kafka did not take a record ({self._failure.str()}); run the command again to go on")


ALL_TOPICS = (CLICKSTREAM, ORDERS, CATALOG, PLAN, DEADLETTERS)
"""What a replay writes to."""
