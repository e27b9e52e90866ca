"""`tidecast state` and `tidecast deadletters` against real servers and a real score worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.outputs import encode_dead_letter
from streams import kafka as edge
from streams.errors import ConfigurationError, RecoveryError, TidecastError
from streams.records import CLICKSTREAM, DEADLETTERS, ORDERS, PREDICTIONS, REDRIVE_HEADER, Input, Record
from streams.resetting import Place, inspect, repair
from streams.runtime.checkpoint import Checkpoint, Header, encode_header
from streams.settings import KafkaSettings, RedisSettings, Settings
from streams.store import RedisStore
from streams.topics import create

pytestmark = pytest.mark.realbroker


@pytest.fixture
def settings(kafka: Any, redis_server: Any, topic_prefix: str) -> Settings:
    """Return settings for topics of the test's own."""
    kafka_settings = KafkaSettings(
        bootstrap_servers=kafka.bootstrap, prefix=topic_prefix, partitions=1, session_timeout_ms=3_000
    )
    made = Settings(kafka=kafka_settings, redis=RedisSettings(url=redis_server.url, prefix=topic_prefix))
    create(made)
    return made


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as a child process reads them."""
    assert settings.redis.url is not None
    return {
        "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": str(settings.kafka.bootstrap_servers),
        "TIDECAST_KAFKA__PREFIX": settings.kafka.prefix,
        "TIDECAST_KAFKA__PARTITIONS": "1",
        "TIDECAST_KAFKA__SESSION_TIMEOUT_MS": "3000",
        "TIDECAST_REDIS__URL": settings.redis.url.get_secret_value(),
        "TIDECAST_REDIS__PREFIX": settings.redis.prefix,
    }


def _tidecast(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streams.cli", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def _produce_clicks(settings: Settings, first: int, count: int) -> None:
    producer = Producer(edge.producer_config(settings))
    for number in range(first, first + count):
        click = {
            "event_id": f"e{number}",
            "type": "view",
            "time": 1_700_000_000_000 + number * 1_000,
            "user_id": f"u{number % 7}",
            "product_id": "p",
        }
        producer.produce(settings.kafka.prefix + CLICKSTREAM, json.dumps(click), key=click["user_id"], partition=0)
    # The other input holds nobody back.
    marker = json.dumps({"time": 1_700_000_000_000 + (first + count) * 1_000, "source": "test"})
    producer.produce(settings.kafka.prefix + ORDERS, marker, partition=0, headers={"tidecast-marker": b"time"})
    producer.flush(30)


def _predicted(settings: Settings) -> Counter[str]:
    found: Counter[str] = Counter()

    def take(record: Record) -> None:
        found[json.loads(record.value or b"")["payload"]["event_id"]] += 1

    _read(settings, PREDICTIONS, take)
    return found


def _read(settings: Settings, topic: str, take: Callable[[Record], None]) -> None:
    consumer = Consumer(edge.table_config(settings))
    partition = TopicPartition(settings.kafka.prefix + topic, 0, 0)
    low, high = edge.bounds(consumer, partition)
    consumer.assign([partition])
    while low < high:
        message = consumer.poll(30)
        assert message is not None
        if message.error() is not None:
            break
        take(edge.record_of(message, settings.kafka.prefix))
    consumer.close()


@pytest.fixture
def score(environment: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """Run a score worker until so many predictions are there, then stop it; return its exit code and log."""
    begun: list[subprocess.Popen[bytes]] = []

    def run(settings: Settings, more: int | None) -> tuple[int, str]:
        wanted = None if more is None else _predicted(settings).total() + more
        log = tmp_path / f"score-{len(begun)}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "streams.cli", "run", "--role", "score"]
            process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
        begun.append(process)
        deadline = time.monotonic() + 120
        while process.poll() is None and (wanted is None or _predicted(settings).total() < wanted):
            assert time.monotonic() < deadline, f"{_predicted(settings).total()} of {wanted}: {log.read_text()}"
            time.sleep(0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return process.wait(30), log.read_text()

    yield run
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_row_is_shown_and_left_alone(settings: Settings, environment: dict[str, str], score: Any) -> None:
    """What a worker stored is shown beside its checkpoint; an id, a store and a schema without rows are told apart."""
    _produce_clicks(settings, 0, 50)
    assert score(settings, 50)[0] == 0
    before = _stored(settings)
    shown = json.loads(_tidecast(environment, "features", "show", "user", "u3", "--json").stdout)
    task = json.loads(_tidecast(environment, "state", "show", "score-0", "--json").stdout)
    assert {name: task["checkpoint"][name] for name in shown["checkpoint"]} == shown["checkpoint"]
    assert [event["kind"] for event in shown["log"]] == ["view"] * 7
    assert shown["last_touched"] == shown["as_of"] == 1_700_000_000_000 + 45_000
    values = {one["name"]: one["value"] for one in shown["features"]}
    assert values["user_views_1h"] == values["session_events"] == 7
    assert f"{values['session_duration']:g}  seconds" in _tidecast(environment, "features", "show", "user", "u3").stdout
    unknown = _tidecast(environment, "features", "show", "user", "u9")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert f"task {task['task']}, " in unknown.stderr
    assert _tidecast(environment, "features", "show", "product", "p").returncode == 1
    assert _stored(settings) == before
    store = _client(settings)
    for key in before:
        store.rename(key, key.replace(b"{score.", b"{score.0"))
    other = _tidecast(environment, "features", "show", "user", "u3")
    assert other.returncode == RecoveryError.exit_code
    assert "rows of another layout or feature schema" in other.stderr


def _client(settings: Settings) -> redis.Redis:
    assert settings.redis.url is not None
    return redis.Redis.from_url(settings.redis.url.get_secret_value())


def _stored(settings: Settings) -> dict[bytes, bytes]:
    """All strings under the test's prefix."""
    client: Any = _client(settings)
    keys = [key for key in client.scan_iter(f"{settings.redis.prefix}:*") if client.type(key) == b"string"]
    return dict(zip(keys, client.mget(keys), strict=True))


def test_a_reset_task_is_rebuilt_and_repeats_nothing(
    settings: Settings, environment: dict[str, str], score: Any
) -> None:
    """After a reset the log rebuilds the state; what was predicted stays predicted once, what is new follows."""
    _produce_clicks(settings, 0, 50)
    assert score(settings, 50)[0] == 0
    shown = json.loads(_tidecast(environment, "state", "show", "score-0", "--json").stdout)
    end = shown["committed"]["clickstream[0]"]["offset"]
    assert shown["checkpoint"]["offsets"]["clickstream[0]"] == end >= 50
    done = _tidecast(environment, "state", "reset", "score-0", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{shown['keys']} keys deleted" in done.stdout
    assert f"clickstream[0] from 0, up to {end} only to rebuild state" in done.stdout
    _produce_clicks(settings, 50, 10)
    assert score(settings, 10)[0] == 0
    predicted = _predicted(settings)
    assert (len(predicted), predicted.total()) == (60, 60)


def test_each_contradiction_is_cleared(settings: Settings, environment: dict[str, str], score: Any) -> None:
    """CheckpointAhead, LogTruncated, CheckpointOrphaned, a log that ends early: refused, shown, reset, and it runs."""
    place = Place.parse("score-0", settings)
    clicks = settings.kafka.prefix + CLICKSTREAM
    client = edge.admin(settings)

    def refused(*said: str) -> None:
        code, log = score(settings, None)
        assert code == RecoveryError.exit_code, log
        assert f"tidecast state reset {place.name}" in log
        shown = _tidecast(environment, "state", "show", place.name)
        assert [words for words in said if words not in shown.stdout] == []
        done = _tidecast(environment, "state", "reset", place.name, "--yes")
        assert done.returncode == 0, done.stderr

    _produce_clicks(settings, 0, 50)
    assert score(settings, 50)[0] == 0

    # Offsets set back below the checkpoint, as by a restored broker: those predictions come again.
    _commit(settings, [TopicPartition(clicks, 0, 40, metadata="1")])
    refused("CheckpointAhead")
    assert score(settings, 10)[0] == 0

    # The log lost five records that nobody had read: what is left is predicted.
    end = inspect(place, settings).logs[Input(CLICKSTREAM, 0)][1]
    _produce_clicks(settings, 50, 10)
    client.delete_records([TopicPartition(clicks, 0, end + 5)])[TopicPartition(clicks, 0)].result(30)
    refused("LogTruncated", "which is not in the log")
    assert score(settings, 5)[0] == 0

    # The topic was made anew, and Kafka forgot what had been committed of the old one.
    client.delete_topics([clicks])[clicks].result(30)
    _await(lambda: create(settings).get(clicks) == "created")
    _produce_clicks(settings, 100, 5)
    _await(lambda: Input(CLICKSTREAM, 0) not in inspect(place, settings).committed)
    refused("CheckpointOrphaned")
    assert score(settings, 5)[0] == 0

    # The same where what had been committed was kept: it is all new, and predicted from the start.
    _commit(settings, [TopicPartition(clicks, 0, 900, metadata="1")])
    refused("beyond the log's end")
    assert score(settings, 5)[0] == 0


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_reset_that_cannot_be_done_changes_nothing(settings: Settings) -> None:
    """Offsets are moved before anything is deleted: while a worker is a member, both stay as they were."""
    _produce_clicks(settings, 0, 5)
    place = Place.parse("score-0", settings)
    _commit(settings, [TopicPartition(settings.kafka.prefix + CLICKSTREAM, 0, 900, metadata="1")])
    member = Consumer(edge.consumer_config(settings, "tidecast.score", instance_id="member"))
    member.subscribe([settings.kafka.prefix + CLICKSTREAM])
    deadline = time.monotonic() + 30
    while not member.assignment():
        member.poll(0.1)
        assert time.monotonic() < deadline
    try:
        with pytest.raises(TidecastError, match="still has members"):
            repair(place, inspect(place, settings), settings)
    finally:
        member.close()
    after = inspect(place, settings)
    assert {str(input_): one.offset for input_, one in after.committed.items()} == {"clickstream[0]": 900}


def test_a_reset_of_another_versions_rows_touches_nothing_else(settings: Settings) -> None:
    """Not the offsets that this version's workers go on from; a name that stands for nothing is refused."""
    _produce_clicks(settings, 0, 5)
    _commit(settings, [TopicPartition(settings.kafka.prefix + CLICKSTREAM, 0, 900, metadata="1")])
    place = Place.parse("score.0ld-0", settings)
    with pytest.raises(ConfigurationError, match=r"score\.0ld-0: the store holds nothing of it"):
        inspect(place, settings)
    header = encode_header(Header("0ld", 1, 1, [(CLICKSTREAM, 0, 3)], None, None, (0, 0), []))
    store = RedisStore.connect(settings)
    store.checkpoint(place.name, Checkpoint(None, header, {"u:1": b"12345678"}, {}, {}))
    store.close()
    found = inspect(place, settings)
    assert "none with this version" in found.verdict
    assert repair(place, found, settings) == ["score.0ld-0: 2 keys deleted"]
    after = inspect(Place.parse("score-0", settings), settings)
    assert {str(input_): one.offset for input_, one in after.committed.items()} == {"clickstream[0]": 900}


def _commit(settings: Settings, offsets: list[TopicPartition]) -> None:
    """Commit for the score group as soon as Kafka holds its stopped member for gone."""
    consumer = Consumer(edge.consumer_config(settings, "tidecast.score"))
    deadline = time.monotonic() + 30
    while True:
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
            break
        except Exception as error:
            if time.monotonic() > deadline:
                raise AssertionError("the group never became empty") from error
            time.sleep(0.2)
    consumer.close()


def _letter(settings: Settings, producer: Producer, offset: int, reason: str, value: bytes) -> None:
    letter = encode_dead_letter(
        topic=CLICKSTREAM,
        partition=0,
        offset=offset,
        reason=reason,
        detail="for the \x1b[31mtest",
        appended_at=1,
        key=b"\x00key",
        value=value,
        headers=[("trace", b"\xff"), (REDRIVE_HEADER, b"an older one")],
    )
    producer.produce(settings.kafka.prefix + DEADLETTERS, letter, key=b"\x00key")


def test_letters_are_redriven_once(settings: Settings, environment: dict[str, str]) -> None:
    """A letter goes back once, byte for byte, to where it came from; one that was cut never does."""
    producer = Producer(edge.producer_config(settings))
    originals = [b"\xff\x00 not json", b'{"late": 1}', b'{"late": 2}']
    for offset, (reason, value) in enumerate(zip(("undecodable", "late", "late"), originals, strict=True)):
        _letter(settings, producer, offset, reason, value)
    _letter(settings, producer, 9, "late", b"x" * 100_000)
    producer.produce(settings.kafka.prefix + DEADLETTERS, b"no letter")
    producer.flush(30)

    shown = _tidecast(environment, "deadletters", "show", "--limit", "2", "--reason", "late")
    assert "\x1b" not in shown.stdout
    assert "clickstream[0] 9  late" in shown.stdout
    assert "clickstream[0] 1  late" not in shown.stdout
    assert "clickstream: late 3" in shown.stderr

    def redrive(*arguments: str) -> tuple[int, int]:
        done = _tidecast(environment, "deadletters", "redrive", *arguments)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        if summary["refused"]:
            assert "clickstream[0] 9: not sent, only the first bytes of 100000 were kept" in done.stderr
        return summary["redriven"], summary["refused"]

    def there() -> list[Record]:
        found: list[Record] = []
        _read(settings, CLICKSTREAM, found.append)
        return found

    assert redrive("--reason", "late", "--dry-run") == (2, 1)
    assert there() == []
    assert redrive("--reason", "late") == (2, 1)
    assert redrive("--reason", "late") == (0, 0)
    assert redrive() == (1, 0)
    assert redrive() == (0, 0)
    back = there()
    assert [record.value for record in back] == [originals[1], originals[2], originals[0]]
    assert {record.key for record in back} == {b"\x00key"}
    assert back[0].headers == (("trace", b"\xff"), (REDRIVE_HEADER, b"clickstream-0-1-deadletter"))
    _letter(settings, producer, 10, "late", b"another")
    producer.flush(30)
    assert redrive("--reason", "late") == (1, 0)
    assert _tidecast(environment, "deadletters", "redrive", "--reason", "boring").returncode == 2


def test_a_strangers_letters_lock_nobody_out(settings: Settings, environment: dict[str, str]) -> None:
    """What is no letter is passed by; one that asks for another place than a record's own is refused by name."""
    producer = Producer(edge.producer_config(settings))
    topic = settings.kafka.prefix + DEADLETTERS
    _letter(settings, producer, 0, "invalid", b"mine")
    letter = json.loads(
        encode_dead_letter(
            topic=CLICKSTREAM,
            partition=0,
            offset=1,
            reason="invalid",
            detail="",
            appended_at=1,
            key=None,
            value=b"",
            headers=[],
        )
    )
    for change in (
        {"value_b64": "###"},
        {"key_b64": "a"},
        {"headers": [["h", "?"]]},
        {"partition": -1},
        {"topic": "tidecast.models"},
    ):
        producer.produce(topic, json.dumps(letter | change).encode())
    producer.flush(30)
    shown = _tidecast(environment, "deadletters", "show")
    assert (shown.returncode, "Traceback" in shown.stderr) == (0, False)
    done = _tidecast(environment, "deadletters", "redrive")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["topics"] == {CLICKSTREAM: 1}
    assert json.loads(done.stdout.splitlines()[-1])["refused"] == 2
    assert "no stage takes records of 'tidecast.models'" in done.stderr
    assert "its partition is gone" in done.stderr
