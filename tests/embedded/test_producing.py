"""What an aborted transaction leaves behind hides nothing on the embedded broker, and its writer stays fenced."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from itertools import zip_longest

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from msgspec.structs import replace

from streams import kafka
from streams.embedded import EmbeddedServers
from streams.errors import Fenced
from streams.producing import transactional_producer
from streams.records import DEADLETTERS, Input, Output, Outputs, Record, Said, each
from streams.runtime import transactions as module
from streams.runtime.rereading import Rereader
from streams.runtime.transactions import Aborted, Transactions
from streams.settings import Settings
from tests.embedded.test_facts import consumer, create
from tests.real.harness import wait_until

_TOPIC = "transacted"


@pytest.fixture
def settings(servers: EmbeddedServers, request: pytest.FixtureRequest) -> Settings:
    """Return settings as `tidecast run` gives them, under a prefix of the test."""
    prefix = f"producing-{abs(hash(request.node.name))}-"
    for topic in (_TOPIC, DEADLETTERS):
        create(servers, prefix + topic)
    return Settings.model_validate(
        {"kafka": {"bootstrap_servers": servers.bootstrap, "prefix": prefix, "renew_producers": True}}
    )


def leave_open(producer: Producer, settings: Settings) -> None:
    """Write in a transaction, and let it stand."""
    producer.begin_transaction()
    producer.produce(settings.kafka.prefix + _TOPIC, b"aborted", partition=0)
    assert producer.flush(10) == 0


def commit(producer: Producer, settings: Settings, value: bytes) -> None:
    """Write in a transaction of its own."""
    producer.begin_transaction()
    producer.produce(settings.kafka.prefix + _TOPIC, value, partition=0)
    producer.commit_transaction(10)


def seen_from(settings: Settings, offset: int) -> list[bytes | None]:
    """Return the values that a reader sees which begins at an offset."""
    rereader = Rereader(settings)
    try:
        return [record.value for record in rereader.read(Input(_TOPIC, 0), offset)]
    finally:
        rereader.close()


def test_what_follows_a_dead_predecessors_transaction_is_seen_from_anywhere(settings: Settings) -> None:
    """However many died, one transaction open: each is ended and fenced, and what came after it is seen."""
    dead = transactional_producer(settings, "writer")
    for life in range(3):
        leave_open(dead, settings)  # at 4 * life, its end behind it
        alive = transactional_producer(settings, "writer")
        with pytest.raises(KafkaException) as caught:
            dead.commit_transaction(10)
        assert caught.value.args[0].code() == KafkaError._FENCED
        commit(alive, settings, b"%d" % life)  # at 4 * life + 2
        assert seen_from(settings, 4 * life + 2) == [b"%d" % life]
        dead = alive
    assert seen_from(settings, 0) == [b"0", b"1", b"2"]


def test_what_follows_an_own_abort_is_seen_from_anywhere(settings: Settings, servers: EmbeddedServers) -> None:
    """A worker that takes a transaction back and goes on hides nothing of what it writes then."""
    member = consumer(servers, settings.kafka.prefix + "group")
    transactions = Transactions(settings, "writer", member)
    transactions.settled()
    producer = transactions._producer
    assert producer is not None
    leave_open(producer, settings)
    transactions.begin([], [TopicPartition(settings.kafka.prefix + _TOPIC, 0, 1)])  # one is open already
    with pytest.raises(Aborted):
        transactions.finish()
    assert transactions._producer is not None
    commit(transactions._producer, settings, b"seen")
    assert kafka.partition_counts(member)[settings.kafka.prefix + _TOPIC] == 1
    assert seen_from(settings, 2) == [b"seen"]
    member.close()


def test_who_was_fenced_stays_so_through_an_own_abort(settings: Settings, servers: EmbeddedServers) -> None:
    """What the client itself refuses is taken back without asking the broker: no new id for whom a successor fenced."""
    old = Transactions(settings, "writer", consumer(servers, settings.kafka.prefix + "old"))
    old.settled()
    new = Transactions(settings, "writer", consumer(servers, settings.kafka.prefix + "new"))
    new.settled()
    old.begin([Output(_TOPIC, b"k", b"v" * 9_000_000)], [])
    with pytest.raises(Fenced):
        old.finish()
    mine = [Output(_TOPIC, b"k", b"v")]
    new.begin(mine, [])
    assert new.finish() == {_TOPIC: 1}
    old.close()
    new.close()


def test_whatever_is_handed_over_together_is_told_as_if_one_by_one(
    settings: Settings, servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, order, deletions, partitions and headers are those of the outputs; the client's room never runs out."""
    monkeypatch.setattr(module, "_PART", 7)
    monkeypatch.setattr(module, "_ROOM_BYTES", 5_000)
    plain = [Output(_TOPIC, b"k%d" % (n % 5), b"v%d" % n) for n in range(100)]
    odd = [Output(DEADLETTERS, b"k", b"v%d" % n, 0) for n in range(20)]
    odd += [Output(DEADLETTERS, b"gone", None), Output(DEADLETTERS, None, b"headed", headers=(("h", b"1"),))]
    mixed = [output for pair in zip_longest(plain, odd) for output in pair if output is not None]
    transactions = Transactions(settings, "writer", consumer(servers, settings.kafka.prefix + "group"))
    transactions.settled()
    transactions.begin(mixed, [])
    assert transactions.finish() == {_TOPIC: len(plain), DEADLETTERS: len(odd)}
    assert transactions.finish() is None
    told: dict[str, list[Output]] = {_TOPIC: [], DEADLETTERS: []}

    def take(record: Record) -> None:
        told[record.input.topic].append(Output(record.input.topic, record.key, record.value, None, record.headers))

    kafka.read_to_end(settings, [_TOPIC, DEADLETTERS], take)
    assert told[_TOPIC] == plain
    assert told[DEADLETTERS] == [replace(output, partition=None) for output in odd]


def test_what_is_said_as_many_and_as_one_keeps_its_order(settings: Settings, servers: EmbeddedServers) -> None:
    """Within a topic each stands where it was said, and all are counted."""
    said: list[Said] = [Output(_TOPIC, b"k", b"first"), Output(DEADLETTERS, b"k", b"letter")]
    said += [Outputs(_TOPIC, [b"k", None, b"j"], [b"1", b"2", b"3"]), Output(_TOPIC, b"k", b"between")]
    said += [Outputs(_TOPIC, [], []), Outputs(_TOPIC, [b"k"] * 30, [b"%d" % n for n in range(30)])]
    transactions = Transactions(settings, "writer", consumer(servers, settings.kafka.prefix + "group"))
    transactions.settled()
    transactions.begin(said, [])
    assert transactions.finish() == {_TOPIC: 35, DEADLETTERS: 1}
    transactions.close()
    seen: list[Record] = []
    kafka.read_to_end(settings, [_TOPIC], seen.append)
    plain = [output for output in each(said) if output.topic == _TOPIC]
    assert [(record.key, record.value) for record in seen] == [(output.key, output.value) for output in plain]


def test_what_waits_in_the_client_of_one_topic_leaves_no_other_out(
    settings: Settings, servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic with more than the client takes fills it; the next topic's outputs wait until it is empty."""
    full = kafka.producer_config
    small = {"queue.buffering.max.messages": 2_000, "queue.buffering.max.kbytes": 2_000, "linger.ms": 200}
    monkeypatch.setattr(kafka, "producer_config", lambda *given, **named: full(*given, **named) | small)
    monkeypatch.setattr(module, "_ROOM_BYTES", 200_000)
    outputs = [Output(DEADLETTERS, b"k", b"x" * 20_000) for _ in range(150)]
    outputs += [Output(_TOPIC, b"k", b"v" * 500) for _ in range(200)]
    transactions = Transactions(settings, "writer", consumer(servers, settings.kafka.prefix + "group"))
    transactions.settled()
    for _ in range(3):
        transactions.begin(outputs, [])
        assert transactions.finish() == {DEADLETTERS: 150, _TOPIC: 200}
    transactions.close()


def test_what_the_client_refuses_takes_all_of_it_back(settings: Settings, servers: EmbeddedServers) -> None:
    """A message that is too large is named, and nothing of its transaction is seen."""
    transactions = Transactions(settings, "writer", consumer(servers, settings.kafka.prefix + "group"))
    transactions.settled()
    small = [Output(_TOPIC, b"k", b"v") for _ in range(20)]
    transactions.begin([*small, Output(_TOPIC, b"k", b"v" * 9_000_000)], [])
    with pytest.raises(Aborted, match="too large"):
        transactions.finish()
    transactions.begin(small[:3], [])
    transactions.close()
    seen: list[Record] = []
    kafka.read_to_end(settings, [_TOPIC], seen.append)
    assert len(seen) == 3


def test_a_transaction_ends_while_its_consumer_is_in_a_callback(
    settings: Settings, servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that loses its tasks waits, in its consumer's own callback, for what is under way."""
    topic = settings.kafka.prefix + _TOPIC
    member = consumer(servers, settings.kafka.prefix + "group")
    transactions = Transactions(settings, "writer", member)
    transactions.settled()
    revoked, ended = threading.Event(), threading.Event()

    def reach(point: str) -> None:
        assert point != "after_produce" or revoked.wait(20)  # what comes next, comes while the consumer is taken

    def on_revoke(_: Consumer, __: list[TopicPartition]) -> None:
        revoked.set()
        if transactions._under_way is not None:
            wait([transactions._under_way], timeout=20)
            ended.set()

    member.subscribe([topic], on_revoke=on_revoke)
    wait_until(lambda: member.poll(0.05) is None and bool(member.assignment()), "the assignment")
    monkeypatch.setattr(module.hooks, "reach", reach)
    transactions.begin([Output(_TOPIC, b"k", b"v")], [TopicPartition(topic, 0, 1)])
    member.close()
    assert ended.is_set()
    assert transactions.ended()
    assert transactions.finish() is not None
    assert seen_from(settings, 0) == [b"v"]
