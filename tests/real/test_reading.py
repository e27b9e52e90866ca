"""Reading a topic to its end as a read_committed consumer, while producers are still at work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer

from streams.kafka import producer_config, read_to_end
from streams.records import HISTORY, Record
from streams.topics import create
from tests.real.harness import Shop, wait_until

pytestmark = pytest.mark.realbroker


def test_what_is_being_committed_is_waited_for(shop: Shop) -> None:
    """What stands in an open transaction when the reading begins is read once it is committed, and what follows it."""
    settings = shop.settings()
    create(settings)
    topic = settings.kafka.prefix + HISTORY
    plain = Producer(producer_config(settings))
    producer = Producer(producer_config(settings, transactional_id=f"{shop.prefix}writer"))
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"in it", b"k", partition=0)
    assert producer.flush(30) == 0
    plain.produce(topic, b"behind it", b"k", partition=0)
    assert plain.flush(30) == 0
    found: list[Record] = []
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_to_end, settings, [HISTORY], found.append)
        producer.produce(topic, b"later", b"k", partition=1)
        assert producer.flush(30) == 0
        wait_until(lambda: reading.running(), "the reading begun")
        producer.commit_transaction(30)
        reading.result(60)
    assert [record.value for record in found if record.input.partition == 0] == [b"in it", b"behind it"]


def test_a_transaction_that_nobody_ends_holds_nobody_up(shop: Shop) -> None:
    """What was left open is aborted by Kafka in time; what stands behind it is read, and none of it."""
    settings = shop.settings()
    create(settings)
    topic = settings.kafka.prefix + HISTORY
    producer = Producer(
        producer_config(settings, transactional_id=f"{shop.prefix}gone") | {"transaction.timeout.ms": 2_000}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"never", b"k", partition=0)
    assert producer.flush(30) == 0
    plain = Producer(producer_config(settings))
    plain.produce(topic, b"behind it", b"k", partition=0)
    assert plain.flush(30) == 0
    found: list[Record] = []
    read_to_end(settings, [HISTORY], found.append)
    assert [record.value for record in found] == [b"behind it"]
