"""Nobody waits for ever: neither a member that its group gave up, nor a quiet partition beside busy ones."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streams.topics import create
from tests.real.harness import Role, Shop, wait_until
from tests.real.servers import KafkaServer, RedisServer
from tests.real.shop import START_MS, closed_log

pytestmark = pytest.mark.realbroker


@pytest.fixture
def shop(kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(kafka.bootstrap, redis_server.url, topic_prefix, tmp_path)
    yield shop
    shop.kill_all()


def test_a_member_given_up_between_poll_and_commit_joins_again(shop: Shop) -> None:
    """A worker that stood still with a batch in hand for longer than its session goes on, and says everything once."""
    log = closed_log(clicks=500)
    shop.preload(log)
    shop.overrides = {"TIDECAST_KAFKA__SESSION_TIMEOUT_MS": "2000"}
    role = shop.start("tally", module="tests.runtime.run_frozen")
    state = Path(f"/proc/{role.process.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "frozen in a step")
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    group = shop.prefix + "tidecast.tally"
    described = lambda: admin.describe_consumer_groups([group])[group].result(10)  # noqa: E731
    assert len(described().members) == 1
    wait_until(lambda: not described().members, "given up by the group")
    role.process.send_signal(signal.SIGCONT)
    shop.finish([role], log.end, {"tally": 2})
    ids = [json.loads(record.value or b"")["id"] for record in shop.read("predictions")]
    assert len(ids) == len(set(ids)) > 400


def test_a_quiet_partition_is_not_held_back_while_others_are_busy(shop: Shop) -> None:
    """A click whose partition has no orders is answered while the worker still has its hands full with another one."""
    create(shop.settings())
    producer = Producer({"bootstrap.servers": shop.bootstrap, "linger.ms": 20})

    def send(topic: str, partition: int, number: int, more: dict[str, Any]) -> None:
        event = {"event_id": f"{topic}{number}", "time": START_MS + number, "user_id": f"u{partition}", **more}
        producer.produce(shop.prefix + topic, json.dumps(event), partition=partition)
        producer.poll(0)

    view = {"type": "view", "product_id": "p"}
    send("clickstream", 1, 0, view)
    for number in range(400):
        send("clickstream", 0, number, view)
        send("orders", 0, number, {"order_id": f"{number}", "status": "placed", "lines": [{"product_id": "p"}]})
    assert producer.flush(30) == 0
    shop.overrides = {"TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "10"}
    role = shop.start("tally", module="tests.runtime.run_tally")
    wait_until(lambda: applied(role) >= 790, "nearly all answered", tell=role.status)
    assert role.stop() == 0
    answers = [(record.appended_at, json.loads(record.value or b"")["user"]) for record in shop.read("predictions")]
    busy = sorted(time for time, user in answers if user == "u0")
    (quiet,) = (time for time, user in answers if user == "u1")
    assert busy[0] < quiet < busy[-100]


def applied(role: Role) -> int:
    """Return how many events a role applied."""
    status = role.status()
    return sum(task["counts"].get("events", 0) for task in status["tasks"].values()) if status else 0
