"""Reads the log for the join, in a thread of its own, and hands batches of facts to a Faust agent.

Why not Faust's own consumer: it reads uncommitted records unless the whole app is transactional, so that predictions of
aborted transactions would be judged; it takes about 5,000 records a second, where all clicks and predictions pass by
here; and it cannot drop a record by its key before it pays for it. Here a record that is not wanted costs 3 µs, one
that is 5. No group is joined and nothing is committed: a start begins `control.lookback_s` before the log's end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import decode_click, decode_marker, decode_order
from schemas.outputs import DemandPrediction, PurchasePrediction, decode_announcement, decode_history, decode_prediction
from schemas.wire import DecodeError
from streams import kafka
from streams.control.facts import Batch, Bought, Cancelled, Fact, InShadow
from streams.control.pacing import Clocks, Sampler
from streams.errors import TopicsError
from streams.records import CLICKSTREAM, HISTORY, MARKER_HEADER, MODELS, ORDERS, PREDICTIONS, SHADOW, Input
from streams.settings import Settings

_LOG = logging.getLogger("tidecast.control")
_TOPICS = (CLICKSTREAM, ORDERS, PREDICTIONS, SHADOW, HISTORY, MODELS)
_OUTCOMES = (CLICKSTREAM, ORDERS)
_TIMED = (*_OUTCOMES, PREDICTIONS)
_TIMEOUT_S = 30.0
_BATCH = 2_000
_PAUSE_S = 0.5


class Reader(threading.Thread):
    """Gives each batch to `hand_over`, which blocks while the agent is behind; `pending` is asked for the free room.

    `failure` says why it ended, if not by `stop`.
    """

    def __init__(
        self,
        settings: Settings,
        sampler: Sampler,
        hand_over: Callable[[Batch], None],
        pending: Callable[[], int],
    ) -> None:
        super().__init__(name="control-reader", daemon=True)
        self._settings = settings
        self._limit = settings.kafka.max_message_bytes
        self._hand_over = hand_over
        self._pending = pending
        self._stopping = threading.Event()
        self._inputs: dict[tuple[str, int], Input] = {}
        self._known_from: dict[Input, int | None] = {}
        self._clocks = Clocks((), (), lateness_ms=0, idle_s=0)
        self._paused: set[Input] = set()
        self._watermark: int | None = None
        self._sampler = sampler
        self.unreadable = 0
        self.failure: Exception | None = None

    def stop(self) -> None:
        """Ask it to end; `join` it then."""
        self._stopping.set()

    def run(self) -> None:
        """Read until `stop`."""
        consumer = Consumer(kafka.table_config(self._settings))
        try:
            self._assign(consumer)
            self._rest = kafka.EndRest(consumer, self._settings)
            while not self._stopping.is_set():
                self._turn(consumer)
        except Exception as error:  # noqa: BLE001  (a thread has nobody else to tell)
            self.failure = error
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer) -> None:
        prefix = self._settings.kafka.prefix
        counts = kafka.partition_counts(consumer)
        missing = [prefix + topic for topic in _TOPICS if prefix + topic not in counts]
        if missing:
            raise TopicsError(f"topics are missing: {', '.join(missing)}; run 'tidecast topics create'")
        inputs = [Input(topic, p) for topic in _TOPICS for p in range(counts[prefix + topic])]
        self._inputs = {(prefix + input_.topic, input_.partition): input_ for input_ in inputs}
        since = max(0, int((time.time() - self._settings.control.lookback_s) * 1_000))
        asked = [TopicPartition(prefix + i.topic, i.partition, since) for i in inputs]
        starts = []
        for input_, found in zip(inputs, consumer.offsets_for_times(asked, timeout=_TIMEOUT_S), strict=True):
            low, high = kafka.bounds(consumer, self._partition(input_))
            # Announcements are few, and the newest of each model may be old.
            offset = low if input_.topic == MODELS else found.offset if found.offset >= 0 else high
            starts.append(TopicPartition(prefix + input_.topic, input_.partition, offset))
            if input_.topic in _OUTCOMES and offset > low:
                self._known_from[input_] = None
        self._clocks = Clocks(
            [i for i in inputs if i.topic in _OUTCOMES],
            [i for i in inputs if i.topic == PREDICTIONS],
            lateness_ms=self._settings.time.allowed_lateness_s * 1_000,
            idle_s=self._settings.time.idle_ms / 1_000,
        )
        consumer.assign(starts)
        self._pace(consumer)

    def _turn(self, consumer: Consumer) -> None:
        now = time.monotonic()
        newest: dict[Input, Message] = {}
        ended: set[Input] = set()
        facts = []
        self._rest.wake({(part.topic, part.partition) for part in map(self._partition, self._paused)})
        # All clicks and predictions pass here: what is not wanted goes before anything of it is decoded.
        for message in consumer.consume(_BATCH, timeout=_PAUSE_S):
            error = message.error()
            if error is not None:
                self._on_error(consumer, message, error, ended)
                continue
            input_ = self._inputs[message.topic(), message.partition()]
            ended.discard(input_)
            newest[input_] = message
            value = message.value()
            if value is None or not self._wanted(input_.topic, message, value):
                continue
            try:
                fact = self._fact(input_, message, value)
            except DecodeError:
                self.unreadable += 1
                continue
            if fact is not None:
                facts.append(fact)
        for input_, message in newest.items():
            self._mark(input_, message)
        for input_ in ended:
            self._clocks.ended(input_, now)
        watermark = self._clocks.watermark(now)
        if facts or watermark != self._watermark:
            self._watermark = watermark
            known = [time for time in self._known_from.values() if time is not None]
            self._hand_over(Batch(facts, watermark, max(known, default=None)))
        self._sampler.adapt(now, 1.0 - self._pending() / self._settings.control.max_pending)
        self._pace(consumer)

    def _wanted(self, topic: str, message: Message, value: bytes) -> bool:
        if topic in (PREDICTIONS, SHADOW):
            return self._sampler.wants(message.key() or b"")
        if topic == CLICKSTREAM:
            # Purchases of all users are kept: few, and the share of users judged may grow again.
            return b'"purchase"' in value
        if topic == HISTORY:
            return self._sampler.wants((message.key() or b"").rpartition(b"|")[0])
        return True

    def _fact(self, input_: Input, message: Message, value: bytes) -> Fact | None:
        topic = input_.topic
        if topic == PREDICTIONS:
            return decode_prediction(value)
        if topic == SHADOW:
            prediction = decode_prediction(value)
            return InShadow(prediction) if isinstance(prediction, DemandPrediction) else None
        if topic == HISTORY:
            return decode_history(value)
        if topic == MODELS:
            return decode_announcement(value)
        if _marker(message) is not None:
            return None
        if topic == CLICKSTREAM:
            click = decode_click(value, self._limit)
            if click.type == "purchase" and click.user_id is not None and self._saw(input_, click.time, message):
                return Bought(click.user_id, click.time, None)
            return None
        order = decode_order(value, self._limit)
        if not self._saw(input_, order.time, message) or order.user_id is None:
            return None
        if order.status in ("placed", "paid"):
            return Bought(order.user_id, order.time, order.order_id)
        return Cancelled(order.user_id, order.time, order.order_id) if order.status == "cancelled" else None

    def _mark(self, input_: Input, message: Message) -> None:
        """Move a partition's clock by its newest record: most were passed by unread."""
        if input_.topic not in _TIMED:
            return
        value = message.value() or b""
        try:
            if input_.topic == PREDICTIONS:
                prediction = decode_prediction(value)
                if isinstance(prediction, PurchasePrediction):
                    self._clocks.saw(input_, prediction.as_of, prediction.horizon_s * 1_000)
            elif _marker(message) is not None:
                self._saw(input_, decode_marker(value).time, message)
            elif input_.topic == CLICKSTREAM:
                self._saw(input_, decode_click(value, self._limit).time, message)
        except DecodeError:
            self.unreadable += 1

    def _saw(self, input_: Input, time_ms: int, message: Message) -> bool:
        """Move a partition's clock; False for an event too far ahead of its append time, which no stage takes."""
        times = self._settings.time
        if time_ms > message.timestamp()[1] + times.max_ahead_s * 1_000:
            return False
        self._clocks.saw(input_, time_ms)
        if self._known_from.get(input_, 0) is None:
            self._known_from[input_] = time_ms + times.allowed_lateness_s * 1_000
        return True

    def _pace(self, consumer: Consumer) -> None:
        waiting = self._clocks.waiting(time.monotonic())
        if waiting - self._paused:
            consumer.pause([self._partition(input_) for input_ in waiting - self._paused])
        if self._paused - waiting:
            consumer.resume([self._partition(input_) for input_ in self._paused - waiting])
        self._paused = waiting

    def _on_error(self, consumer: Consumer, message: Message, error: KafkaError, ended: set[Input]) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            input_ = self._inputs[message.topic(), message.partition()]
            self._rest.at_end(message)
            if input_.topic in _TIMED:
                ended.add(input_)
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            _LOG.warning(
                "%s[%d]: what was to be read is gone; going on at its start", message.topic(), message.partition()
            )
            consumer.seek(TopicPartition(message.topic(), message.partition(), OFFSET_BEGINNING))
        elif error.fatal():
            raise KafkaException(error)
        else:
            _LOG.warning("Kafka: %s", error.str())

    def _partition(self, input_: Input) -> TopicPartition:
        return TopicPartition(self._settings.kafka.prefix + input_.topic, input_.partition)


def _marker(message: Message) -> bytes | None:
    headers = message.headers()
    return next((value for name, value in headers if name == MARKER_HEADER), None) if headers else None
