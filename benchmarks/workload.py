"""The work that every contender gets: clicks of Zipf users on Zipf products, written to a topic beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

START_MS = 1_700_000_000_000
KINDS = ("view", "add_to_cart", "wishlist", "search")
CATEGORIES = 200


@dataclass(frozen=True, slots=True)
class Workload:
    """How much: events, users, products, partitions."""

    events: int = 100_000
    users: int = 100_000
    products: int = 10_000
    partitions: int = 1
    seed: int = 1


def zipf(chance: np.random.Generator, size: int, count: int, exponent: float = 1.1) -> np.ndarray:
    """Return `count` ranks below `size` with Zipf weights."""
    weights = 1.0 / np.arange(1, size + 1) ** exponent
    return np.searchsorted(np.cumsum(weights) / weights.sum(), chance.random(count))


def create_topics(bootstrap: str, prefix: str, names: Iterable[str]) -> None:
    """Create the topics that only the bare loop and the peers use."""
    new = [NewTopic(prefix + name, num_partitions=1, replication_factor=1) for name in names]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics(new).values():
        made.result(30)


def preload(bootstrap: str, prefix: str, work: Workload, copied: int) -> None:
    """Write the catalog, the clicks to `<prefix>clickstream`, and close clicks and orders with end markers.

    The first `copied` of them go to `<prefix>clicks` too, which holds nothing else.
    """
    chance = np.random.default_rng(work.seed)
    users = zipf(chance, work.users, work.events).tolist()
    products = zipf(chance, work.products, work.events).tolist()
    kinds = chance.choice(len(KINDS), work.events, p=[0.85, 0.08, 0.04, 0.03]).tolist()
    times = (START_MS + np.cumsum(chance.integers(0, 200, work.events))).tolist()
    write_catalog(bootstrap, prefix, work)
    producer = _producer(bootstrap)
    for number in range(work.events):
        user = f"u{users[number]}"
        value = orjson.dumps(
            {
                "event_id": f"e{number}",
                "type": KINDS[kinds[number]],
                "time": times[number],
                "user_id": user,
                "session_id": None,
                "product_id": f"p{products[number]}",
                "category_id": f"c{products[number] % CATEGORIES}",
                "unit_price": 500 + products[number] % 4_000,
                "currency": "EUR",
            }
        )
        for topic in ("clickstream", "clicks")[: 1 + (number < copied)]:
            _produce(producer, prefix + topic, user, value)
    producer.flush(60)
    marker = json.dumps({"time": times[-1], "source": "bench"})
    for topic in ("clickstream", "orders"):
        for partition in range(work.partitions):
            producer.produce(prefix + topic, marker, partition=partition, headers=[("tidecast-marker", b"end")])
    if producer.flush(60):
        raise RuntimeError("the workload could not be written; is the broker up?")


def write_catalog(bootstrap: str, prefix: str, work: Workload) -> None:
    """Write price and stock of every product to `<prefix>catalog`."""
    producer = _producer(bootstrap)
    for product in range(work.products):
        entry = {
            "event_id": f"k{product}",
            "product_id": f"p{product}",
            "time": START_MS,
            "category_id": f"c{product % CATEGORIES}",
            "unit_price": 500 + product % 4_000,
            "currency": "EUR",
            "stock": product % 50,
        }
        _produce(producer, prefix + "catalog", f"p{product}", orjson.dumps(entry))
    if producer.flush(60):
        raise RuntimeError("the catalog could not be written; is the broker up?")


def _producer(bootstrap: str) -> Producer:
    return Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "log_level": 2, "partitioner": "murmur2_random"})


def _produce(producer: Producer, topic: str, key: str, value: bytes) -> None:
    """Write one message, waiting while the producer's queue is full."""
    while True:
        try:
            producer.produce(topic, value, key=key)
            return
        except BufferError:
            producer.poll(0.1)
