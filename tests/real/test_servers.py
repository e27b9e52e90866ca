"""What the rest of the suite takes for granted about its servers is true of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.real.containers import KafkaContainer, RedisContainer
from tests.real.servers import KafkaServer, RedisServer

pytestmark = pytest.mark.realbroker
Kafka = KafkaServer | KafkaContainer


def make_topic(kafka: Kafka, name: str, partitions: int = 1) -> str:
    """Create a topic and wait for it."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        future.result(30)
    return name


def transactional(kafka: Kafka, transactional_id: str, timeout_ms: int = 10_000) -> Producer:
    """Return a producer whose transactions are initialised."""
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
        }
    )
    producer.init_transactions(30)
    return producer


def member(kafka: Kafka, group: str, **settings: str | int) -> Consumer:
    """Return a consumer that reads committed records from the start."""
    return Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "range",
            "session.timeout.ms": 6_000,
            **settings,
        }
    )


def read_all(kafka: Kafka, topic: str, isolation: str, expected: int, limit_s: float = 20) -> list[bytes]:
    """Return what a consumer sees of partition 0 until it has `expected` records and the partition's end."""
    consumer = member(
        kafka, "reader", **{"isolation.level": isolation, "enable.partition.eof": True, "group.instance.id": "reader"}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is None:
            values.append(message.value())
        elif message.error().code() == KafkaError._PARTITION_EOF and len(values) >= expected:
            break
    consumer.close()
    return values


def test_read_committed_hides_aborted_records(kafka: Kafka, topic_prefix: str) -> None:
    """A read_committed consumer sees exactly the committed transactions."""
    topic = make_topic(kafka, topic_prefix + "out")
    producer = transactional(kafka, topic_prefix + "writer")
    for number in range(4):
        producer.begin_transaction()
        producer.produce(topic, str(number).encode(), partition=0)
        producer.flush(10)  # else an abort drops what was never sent, and proves nothing
        if number % 2:
            producer.abort_transaction(10)
        else:
            producer.commit_transaction(10)
    assert read_all(kafka, topic, "read_committed", 2) == [b"0", b"2"]
    assert read_all(kafka, topic, "read_uncommitted", 4) == [b"0", b"1", b"2", b"3"]


def test_offsets_commit_with_the_records_or_not_at_all(kafka: Kafka, topic_prefix: str) -> None:
    """Offsets sent to an aborted transaction are not committed; those of a committed one are."""
    topic = make_topic(kafka, topic_prefix + "in")
    consumer = member(kafka, topic_prefix + "group")
    consumer.subscribe([topic])
    _until_assigned(consumer)
    producer = transactional(kafka, topic_prefix + "writer")
    committed = []
    for offset, commit in ((5, True), (9, False)):
        producer.begin_transaction()
        target = TopicPartition(topic, 0, offset, metadata="epoch")
        producer.send_offsets_to_transaction([target], consumer.consumer_group_metadata(), 10)
        if commit:
            producer.commit_transaction(10)
        else:
            producer.abort_transaction(10)
        committed.append(consumer.committed([TopicPartition(topic, 0)], 10)[0].offset)
    assert committed == [5, 5]
    consumer.close()


def test_an_old_generation_cannot_commit_offsets(kafka: Kafka, topic_prefix: str) -> None:
    """A producer with the group metadata of an old generation is refused by send_offsets_to_transaction."""
    topic = make_topic(kafka, topic_prefix + "in", 2)
    first = member(kafka, topic_prefix + "group")
    first.subscribe([topic])
    _until_assigned(first)
    stale = first.consumer_group_metadata()
    second = member(kafka, topic_prefix + "group")
    second.subscribe([topic])
    deadline = time.monotonic() + 30
    while len(second.assignment()) != 1 and time.monotonic() < deadline:
        first.poll(0.1)
        second.poll(0.1)
    producer = transactional(kafka, topic_prefix + "zombie")
    producer.begin_transaction()
    with pytest.raises(KafkaException) as caught:
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], stale, 10)
    assert caught.value.args[0].code() in {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError._FENCED,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
    producer.abort_transaction(10)
    second.close()
    first.close()


def test_a_second_producer_fences_the_first(kafka: Kafka, topic_prefix: str) -> None:
    """init_transactions under the same transactional id aborts the predecessor's work and fences it."""
    topic = make_topic(kafka, topic_prefix + "out")
    old = transactional(kafka, topic_prefix + "worker")
    old.begin_transaction()
    old.produce(topic, b"old", partition=0)
    old.flush(10)
    new = transactional(kafka, topic_prefix + "worker")
    new.begin_transaction()
    new.produce(topic, b"new", partition=0)
    new.commit_transaction(10)
    with pytest.raises(KafkaException) as caught:
        old.commit_transaction(10)
    assert caught.value.args[0].code() == KafkaError._FENCED
    assert read_all(kafka, topic, "read_committed", 1) == [b"new"]


def test_an_abandoned_transaction_times_out(kafka: Kafka, topic_prefix: str) -> None:
    """An open transaction is aborted by the broker about a second after its timeout; readers wait no longer."""
    topic = make_topic(kafka, topic_prefix + "out")
    abandoned = transactional(kafka, topic_prefix + "gone", timeout_ms=2_000)
    abandoned.begin_transaction()
    abandoned.produce(topic, b"never", partition=0)
    abandoned.flush(10)
    started = time.monotonic()
    plain = Producer({"bootstrap.servers": kafka.bootstrap})
    plain.produce(topic, b"after", partition=0)
    plain.flush(10)
    assert read_all(kafka, topic, "read_committed", 1) == [b"after"]
    assert 1.0 < time.monotonic() - started < 8.0
    with pytest.raises(KafkaException):
        abandoned.commit_transaction(10)


def test_a_duplicate_static_member_is_fenced(kafka: Kafka, topic_prefix: str) -> None:
    """Of two members with one group.instance.id, the older gets the error _FATAL or FENCED_INSTANCE_ID."""
    topic = make_topic(kafka, topic_prefix + "in")
    settings = {"group.instance.id": "worker-0"}
    old = member(kafka, topic_prefix + "group", **settings)
    old.subscribe([topic])
    _until_assigned(old)
    new = member(kafka, topic_prefix + "group", **settings)
    new.subscribe([topic])
    codes: set[int] = set()
    deadline = time.monotonic() + 30
    while not codes and time.monotonic() < deadline:
        new.poll(0.1)
        try:
            message = old.poll(0.1)
        except KafkaException as error:
            codes.add(error.args[0].code())
        else:
            if message is not None and message.error() is not None:
                codes.add(message.error().code())
    assert codes & {KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID}
    new.close()


def test_append_time_is_the_brokers(kafka: Kafka, topic_prefix: str) -> None:
    """A LogAppendTime topic stamps records itself and is found by offsets_for_times."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    topic = topic_prefix + "in"
    new = NewTopic(topic, 1, 1, config={"message.timestamp.type": "LogAppendTime"})
    admin.create_topics([new])[topic].result(30)
    before = int(time.time() * 1000)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, b"2014", partition=0, timestamp=1_396_310_400_000)
    producer.flush(10)
    consumer = member(kafka, topic_prefix + "group")
    found = consumer.offsets_for_times([TopicPartition(topic, 0, before - 60_000)], 10)
    beyond = consumer.offsets_for_times([TopicPartition(topic, 0, before + 600_000)], 10)
    assert (found[0].offset, beyond[0].offset) == (0, -1)
    consumer.close()


def test_kafka_keeps_its_data_over_a_kill(tmp_path: Path, backend: str) -> None:
    """A killed and restarted broker has the same address and the acknowledged records."""
    own: Kafka = KafkaServer(tmp_path) if backend == "native" else KafkaContainer()
    try:
        own.start()
        topic = make_topic(own, "kept")
        producer = Producer({"bootstrap.servers": own.bootstrap, "acks": "all"})
        producer.produce(topic, b"kept", partition=0)
        assert producer.flush(10) == 0
        own.kill()
        own.restart()
        assert read_all(own, topic, "read_committed", 1) == [b"kept"]
    finally:
        own.stop()


@pytest.mark.parametrize("empty", [True, False])
def test_redis_restarts_on_its_port(redis_server: RedisServer | RedisContainer, empty: bool) -> None:
    """A restart keeps the address; the data are gone, or kept when asked."""
    redis_server.client().set("key", "value")
    redis_server.restart(empty=empty)
    assert redis_server.client().get("key") == (None if empty else b"value")
    assert redis_server.client().config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    redis_server.client().flushall()


def test_a_paused_redis_holds_connections_and_answers_nothing(redis_server: RedisServer | RedisContainer) -> None:
    """A frozen server lets a command time out; woken, it answers again."""
    client = redis.Redis(port=redis_server.port, socket_timeout=0.3, retry=None)
    client.ping()
    redis_server.pause()
    try:
        with pytest.raises(redis.TimeoutError):
            client.ping()
    finally:
        redis_server.resume()
    assert redis_server.client().ping()


def test_native_servers_die_with_their_parent(backend: str) -> None:
    """SIGKILLing the process that started Kafka and Redis ends both."""
    if backend != "native":
        return  # containers belong to the daemon
    parent = subprocess.Popen([sys.executable, "-m", "tests.real.servers"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    assert line.startswith("kafka=127.0.0.1:")
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text(encoding="ascii").split()
    assert len(children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(_runs(int(pid)) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(int(pid)) for pid in children)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until_assigned(consumer: Consumer) -> None:
    deadline = time.monotonic() + 30
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    assert consumer.assignment(), "no assignment in 30 s"
