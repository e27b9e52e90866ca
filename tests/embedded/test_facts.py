"""What `streams.embedded` says of the embedded broker is so.

The limits are pinned too: where one of those tests fails, the broker has learnt something and the text must change.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from streams.embedded import EmbeddedServers

Settings = str | int | bool


def client(kind: Callable[..., Producer | Consumer], servers: EmbeddedServers, **settings: Settings) -> Any:
    """Return a producer or consumer of the embedded broker; underscores in names stand for dots."""
    named = {name.replace("_", "."): value for name, value in settings.items()}
    return kind({"bootstrap.servers": servers.bootstrap, "log_level": 0, **named})


def consumer(servers: EmbeddedServers, group: str, **settings: Settings) -> Consumer:
    """Return a consumer that starts at the beginning."""
    base: dict[str, Settings] = {"group_id": group, "auto_offset_reset": "earliest", "enable_auto_commit": False}
    return client(Consumer, servers, **{**base, **settings})


def transactional(servers: EmbeddedServers, transactional_id: str, **settings: Settings) -> Producer:
    """Return a producer whose transactions are initialised."""
    producer = client(Producer, servers, transactional_id=transactional_id, **settings)
    producer.init_transactions(10)
    return producer


def create(servers: EmbeddedServers, name: str, partitions: int = 1, **config: str) -> str:
    """Create a topic."""
    new = NewTopic(name, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
    admin = AdminClient({"bootstrap.servers": servers.bootstrap})  # kept: its end would cancel the request
    admin.create_topics([new])[name].result(10)
    return name


def read(servers: EmbeddedServers, topic: str, isolation: str = "read_committed", start: int = 0) -> list[Message]:
    """Return the records of partition 0 that a reader sees now."""
    reader = consumer(servers, "reader", isolation_level=isolation, enable_partition_eof=True)
    reader.assign([TopicPartition(topic, 0, start)])
    messages: list[Message] = []
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        message = reader.poll(0.2)
        if message is None:
            continue
        if message.error() is not None:
            break
        messages.append(message)
    reader.close()
    return messages


def values(servers: EmbeddedServers, topic: str, isolation: str = "read_committed") -> list[bytes | None]:
    """Return the values of partition 0 that a reader sees now."""
    return [message.value() for message in read(servers, topic, isolation)]


def joined(member: Consumer, topic: str, limit_s: float = 15) -> int:
    """Subscribe and return the number of partitions that were assigned."""
    member.subscribe([topic])
    deadline = time.monotonic() + limit_s
    while not member.assignment() and time.monotonic() < deadline:
        member.poll(0.05)
    return len(member.assignment())


def test_transactions_are_atomic_for_read_committed(servers: EmbeddedServers) -> None:
    """Aborted records are hidden from read_committed readers, and only from them."""
    topic = create(servers, "transactions")
    producer = transactional(servers, "writer")
    for number in range(4):
        producer.begin_transaction()
        producer.produce(topic, b"%d" % number)
        producer.flush(5)
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(10)
    assert values(servers, topic) == [b"0", b"2"]
    assert values(servers, topic, "read_uncommitted") == [b"0", b"1", b"2", b"3"]


def test_an_abort_hides_what_its_producer_writes_next(servers: EmbeddedServers) -> None:
    """Who begins to read behind the abort sees nothing more of that producer id; who reads over it sees everything."""
    topic = create(servers, "hidden")
    producer = transactional(servers, "aborts")
    producer.begin_transaction()
    producer.produce(topic, b"aborted")
    producer.flush(5)
    producer.abort_transaction(10)
    producer.begin_transaction()
    producer.produce(topic, b"hidden")
    producer.commit_transaction(10)
    assert values(servers, topic) == [b"hidden"]
    assert read(servers, topic, start=2) == []


def test_an_abandoned_transaction_never_times_out(servers: EmbeddedServers) -> None:
    """It holds readers back past its timeout; initialising its transactional id again aborts it and fences it."""
    topic = create(servers, "abandoned")
    abandoned = transactional(servers, "gone", transaction_timeout_ms=1_000)
    abandoned.begin_transaction()
    abandoned.produce(topic, b"never")
    abandoned.flush(5)
    plain = client(Producer, servers)
    plain.produce(topic, b"after")
    plain.flush(5)
    time.sleep(2.5)  # the law is about wall time: the broker's timeout
    assert values(servers, topic) == []
    transactional(servers, "gone")
    assert values(servers, topic) == [b"after"]
    with pytest.raises(KafkaException) as caught:
        abandoned.commit_transaction(10)
    assert caught.value.args[0].code() == KafkaError._FENCED


def test_offsets_and_their_metadata_follow_the_transaction(servers: EmbeddedServers) -> None:
    """Offsets and metadata of a committed transaction are kept, those of an aborted one are not."""
    topic = create(servers, "offsets", 2)
    member = consumer(servers, "offsets", group_instance_id="worker-0")
    assert joined(member, topic) == 2
    producer = transactional(servers, "offsets-writer")
    for offset, end in ((5, producer.commit_transaction), (9, producer.abort_transaction)):
        producer.begin_transaction()
        target = TopicPartition(topic, 0, offset, metadata=f"epoch {offset}")
        producer.send_offsets_to_transaction([target], member.consumer_group_metadata(), 10)
        end(10)
        found = member.committed([TopicPartition(topic, 0)], 5)[0]
        assert (found.offset, found.metadata) == (5, "epoch 5")
    member.close()


def test_an_old_generation_is_not_fenced(servers: EmbeddedServers) -> None:
    """Offsets sent with the metadata of an old generation are accepted (real Kafka refuses them)."""
    topic = create(servers, "generations", 2)
    first, second = consumer(servers, "generations"), consumer(servers, "generations")
    assert joined(first, topic) == 2
    stale = first.consumer_group_metadata()
    second.subscribe([topic])
    deadline = time.monotonic() + 15
    while len(second.assignment()) != 1 and time.monotonic() < deadline:
        first.poll(0.05)
        second.poll(0.05)
    producer = transactional(servers, "zombie")
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 3)], stale, 10)
    producer.commit_transaction(10)
    assert second.committed([TopicPartition(topic, 0)], 5)[0].offset == 3
    first.close()
    second.close()


def test_a_killed_static_member_returns_at_once(servers: EmbeddedServers) -> None:
    """A member with group.instance.id that was SIGKILLed gets its partitions back when it starts again."""
    topic = create(servers, "static", 4)
    code = f"""
from confluent_kafka import Consumer
member = Consumer({{"bootstrap.servers": "{servers.bootstrap}", "group.id": "static", "group.instance.id": "worker-0"}})
member.subscribe(["{topic}"])
while not member.assignment():
    member.poll(0.05)
print("assigned", flush=True)
member.poll(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"assigned\n"
        child.kill()
    member = consumer(servers, "static", group_instance_id="worker-0")
    assert joined(member, topic, 5) == 4
    member.close()


def test_append_time_is_the_brokers_and_is_found_again(servers: EmbeddedServers) -> None:
    """LogAppendTime stamps records by the broker's clock, and offsets_for_times finds them."""
    topic = create(servers, "append-time", message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    producer = client(Producer, servers)
    producer.produce(topic, b"2014", timestamp=1_396_310_400_000)
    producer.flush(5)
    assert read(servers, topic)[0].timestamp()[1] >= before
    reader = consumer(servers, "times")
    found = [reader.offsets_for_times([TopicPartition(topic, 0, at)], 5)[0].offset for at in (before, before + 10**6)]
    assert found == [0, -1]
    reader.close()


def test_records_keep_their_shape(servers: EmbeddedServers) -> None:
    """Headers, null keys, null values and every compression come back as sent."""
    topic = create(servers, "shapes")
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = client(Producer, servers, compression_type=codec, enable_idempotence=True)
        producer.produce(topic, codec.encode() * 50, headers=[("name", b"value"), ("empty", None)])
        producer.produce(topic, None, key=b"key")
        producer.flush(5)
    messages = read(servers, topic)
    assert len(messages) == 10
    assert messages[8].value() == b"zstd" * 50
    assert messages[8].headers() == [("name", b"value"), ("empty", None)]
    assert (messages[9].key(), messages[9].value()) == (b"key", None)


def test_topics_are_created_changed_and_deleted_as_asked(servers: EmbeddedServers) -> None:
    """Configuration is kept, what Kafka would refuse is refused, partitions grow, topics go."""
    admin = AdminClient({"bootstrap.servers": servers.bootstrap})
    create(servers, "admin", max_message_bytes="1000")
    refusals = {
        KafkaError.TOPIC_ALREADY_EXISTS: NewTopic("admin", 1, 1),
        KafkaError.INVALID_CONFIG: NewTopic("odd", 1, 1, config={"no.such": "x"}),
        KafkaError.INVALID_REPLICATION_FACTOR: NewTopic("three", 1, 3),
    }
    for code, topic in refusals.items():
        with pytest.raises(KafkaException) as caught:
            admin.create_topics([topic])[topic.topic].result(10)
        assert caught.value.args[0].code() == code
    admin.create_partitions([NewPartitions("admin", 3)])["admin"].result(10)
    assert len(admin.list_topics("admin", timeout=5).topics["admin"].partitions) == 3
    failed: list[int] = []
    producer = client(Producer, servers)
    producer.produce("admin", b"x" * 5_000, on_delivery=lambda error, _: failed.append(error.code()))
    producer.flush(5)
    assert failed == [KafkaError.MSG_SIZE_TOO_LARGE]
    admin.delete_topics(["admin"])["admin"].result(10)
    assert "admin" not in admin.list_topics(timeout=5).topics


def test_compaction_never_happens(servers: EmbeddedServers) -> None:
    """A compacted topic keeps every version of a key."""
    settings = {"cleanup_policy": "compact", "segment_ms": "100", "min_cleanable_dirty_ratio": "0.01"}
    topic = create(servers, "compacted", **settings)
    producer = client(Producer, servers)
    for number in range(20):
        producer.produce(topic, b"%d" % number, key=b"key")
        producer.flush(5)
    time.sleep(1.5)  # a compacting broker would have had its chance
    assert len(values(servers, topic)) == 20
