"""How long from a click's append to its committed prediction, at a steady rate of live clicks and orders.

Run by the benchmark as a process of its own: `python -m benchmarks.latency BOOTSTRAP PREFIX RATE SECONDS`; prints one
line of JSON with milliseconds. Append time is the log's own stamp on the click; the prediction counts when a
`read_committed` consumer on the same machine holds it.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.workload import KINDS, Workload, zipf

_ORDERS = 0.01
_TICK_S = 0.005
_SETTLE_S = 5.0
_LAST_S = 10.0
_MARKERS = 10_000


class Watcher(threading.Thread):
    """Follows a topic from its end on and notes a time (ms) for each of `count` clicks, by their offsets from `first`.

    NaN where there is none. Into an array, since a dict that grows would stop the sender for as long as 50 ms.
    """

    def __init__(self, bootstrap: str, topic: str, first: int, count: int, *, appended: bool) -> None:
        super().__init__(daemon=True)
        self.times = np.full(count, np.nan)
        self._first = first
        self.stopping = False
        self._appended = appended
        config = {"bootstrap.servers": bootstrap, "group.id": f"latency-{topic}-{time.time_ns()}"}
        self._consumer = Consumer(config | {"isolation.level": "read_committed", "fetch.wait.max.ms": 10})
        self._consumer.assign([TopicPartition(topic, 0, end_of(self._consumer, topic))])

    def run(self) -> None:
        """Read until told to stop."""
        while not self.stopping:
            message = self._consumer.poll(0.1)
            if message is None or message.error() or message.headers():
                continue
            if self._appended:
                self.times[message.offset() - self._first] = message.timestamp()[1]
            else:
                # The id is topic-partition-offset-kind.
                place = int(orjson.loads(message.value())["id"].split("-")[-2]) - self._first
                if np.isnan(self.times[place]):
                    self.times[place] = time.time() * 1_000
        self._consumer.close()


def end_of(consumer: Consumer, topic: str) -> int:
    """Return the offset of the next message in partition 0."""
    return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)[1])


def main(bootstrap: str, prefix: str, rate: int, seconds: float) -> None:
    """Send clicks and orders at `rate` events a second and print the percentiles of what came back."""
    work = Workload()
    chance = np.random.default_rng(work.seed)
    count = int(rate * (seconds + _SETTLE_S))
    users, products = zipf(chance, work.users, count).tolist(), zipf(chance, work.products, count).tolist()
    kinds = chance.choice(len(KINDS), count, p=[0.85, 0.08, 0.04, 0.03]).tolist()
    ordered = (chance.random(count) < _ORDERS).tolist()
    asking = Consumer({"bootstrap.servers": bootstrap, "group.id": "latency"})
    first = end_of(asking, prefix + "clickstream")
    asking.close()
    # Time markers stand between the clicks, some a second.
    places = count + _MARKERS
    appends = Watcher(bootstrap, prefix + "clickstream", first, places, appended=True)
    answers = Watcher(bootstrap, prefix + "predictions", first, places, appended=False)
    watchers = [appends, answers]
    # What is made here lives to the end: looking for garbage in it would only stop the sender.
    gc.disable()
    for watcher in watchers:
        watcher.start()
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 2, "partitioner": "murmur2_random", "enable.idempotence": True}
    )
    started = time.monotonic()
    measured_from, sent = 0.0, 0
    while sent < count:
        due = min(count, int((time.monotonic() - started) * rate))
        now = int(time.time() * 1_000)
        if not measured_from and time.monotonic() - started > _SETTLE_S:
            measured_from = now
        for number in range(sent, due):
            user, product = f"u{users[number]}", f"p{products[number]}"
            if ordered[number]:
                line = {"product_id": product, "unit_price": 900}
                event = {"event_id": f"o{now}-{number}", "order_id": f"o{now}-{number}", "status": "placed"}
                value = orjson.dumps({**event, "time": now, "user_id": user, "lines": [line]})
                producer.produce(prefix + "orders", value, key=user)
                continue
            value = orjson.dumps(
                {
                    "event_id": f"l{now}-{number}",
                    "type": KINDS[kinds[number]],
                    "time": now,
                    "user_id": user,
                    "product_id": product,
                    "unit_price": 900,
                }
            )
            producer.produce(prefix + "clickstream", value, key=user)
        sent = due
        producer.poll(0)
        time.sleep(_TICK_S)
    producer.flush(30)
    deadline = time.monotonic() + _LAST_S
    while time.monotonic() < deadline and missing(appends, answers):
        time.sleep(0.1)
    for watcher in watchers:
        watcher.stopping = True
        watcher.join(5)
    took = (answers.times - appends.times)[appends.times >= measured_from]
    took = took[~np.isnan(took)]
    p50, p95, p99 = np.percentile(took, [50, 95, 99]).tolist()
    told = {"clicks": len(took), "missing": missing(appends, answers), "rate": rate, "p50": p50, "p95": p95, "p99": p99}
    sys.stdout.write(json.dumps(told) + "\n")


def missing(appends: Watcher, answers: Watcher) -> int:
    """Count the clicks that were appended, as far as is known, and have no prediction."""
    return int(np.count_nonzero(~np.isnan(appends.times) & np.isnan(answers.times)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
