"""Transactional producers by identity: opening one ends what its predecessor left open, and fences it."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streams import kafka
from streams.records import DEADLETTERS
from streams.settings import Settings

_TIMEOUT_S = 60.0


def transactional_producer(settings: Settings, identity: str, last: Producer | None = None) -> Producer:
    """Return a producer, ready for its first transaction; offsets committed before are safe to read from now on.

    Where `kafka.renew_producers` is set, it bears an id that wrote nothing before; whoever goes on after an abort gives
    its `last` producer, and is refused where that one was fenced. Raises KafkaException.
    """
    name = settings.kafka.prefix + identity
    if not settings.kafka.renew_producers:
        return _initialised(settings, name)
    # What a predecessor left open may not hide the count: only with it can that be ended.
    config = kafka.consumer_config(settings, f"{identity}.lives") | {"isolation.level": "read_uncommitted"}
    lives = Consumer(config)
    # Any topic would do: the offset only counts.
    place = settings.kafka.prefix + DEADLETTERS
    try:
        life = _count(lives, place)
        while last is None:
            last = _initialised(settings, f"{name}.{life}")
            life, before = _count(lives, place), life
            if life != before:
                last = None
        # By the last one's own transaction, which whoever is fenced cannot commit; and before the new id is used:
        # whoever comes next must find what it leaves open.
        last.begin_transaction()
        last.send_offsets_to_transaction(
            [TopicPartition(place, 0, life + 1)], lives.consumer_group_metadata(), _TIMEOUT_S
        )
        last.commit_transaction(_TIMEOUT_S)
        return _initialised(settings, f"{name}.{life + 1}")
    finally:
        lives.close()


def _count(lives: Consumer, topic: str) -> int:
    [known] = lives.committed([TopicPartition(topic, 0)], timeout=_TIMEOUT_S)
    if known.error is not None:
        raise KafkaException(known.error)
    return max(0, int(known.offset))


def _initialised(settings: Settings, transactional_id: str) -> Producer:
    producer = Producer(kafka.producer_config(settings, transactional_id=transactional_id))
    producer.init_transactions(_TIMEOUT_S)
    return producer
