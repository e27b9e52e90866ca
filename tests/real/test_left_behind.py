"""Nobody waits for ever or is overtaken: no member that its group gave up, no quiet partition beside busy ones."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streams.topics import create
from tests.real.harness import Role, Shop, wait_until
from tests.real.matrix import announce_pinned
from tests.real.shop import START_MS, closed_log

pytestmark = pytest.mark.realbroker


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
    producer = shop.producer()
    send = sender(shop, producer)
    view = {"type": "view", "product_id": "p"}
    send("clickstream", 1, 0, view)
    for number in range(2_000):
        send("clickstream", 0, number, view)
        send("orders", 0, number, {"order_id": f"{number}", "status": "placed", "lines": [{"product_id": "p"}]})
    assert producer.flush(30) == 0
    shop.overrides = {"TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "10"}
    role = shop.start("tally", module="tests.runtime.run_tally")
    wait_until(lambda: applied(role) >= 3_990, "nearly all answered", tell=role.status)
    assert role.stop() == 0
    answers = [(record.appended_at, json.loads(record.value or b"")["user"]) for record in shop.read("predictions")]
    busy = sorted(time for time, user in answers if user == "u0")
    (quiet,) = (time for time, user in answers if user == "u1")
    # What goes out in the busy one's first transaction, or before it, was not held back either.
    assert quiet < busy[-100]


def test_what_arrives_just_after_its_orders_is_not_late(shop: Shop) -> None:
    """A day's clicks that come a moment after its orders are none of them late; a quiet partition's clock follows."""
    create(shop.settings())
    shop.overrides = {"TIDECAST_TIME__IDLE_MS": "3000"}
    producer = shop.producer()
    send = sender(shop, producer)

    def send_day(topic: str, day: int, partition: int) -> None:
        line = {"product_id": "p"}
        for number in range(10):
            at = (day * 1_440 + number * 30) * 60_000
            order = {"order_id": f"{partition}-{at}", "status": "placed", "lines": [line]}
            send(topic, partition, at, order if topic == "orders" else {"type": "view", **line})
        assert producer.flush(30) == 0

    role = shop.start("tally", module="tests.runtime.run_tally")
    for partition in (0, 1):
        send_day("orders", 0, partition)
        send_day("clickstream", 0, partition)
    wait_until(lambda: applied(role) == 40, "the first day answered", tell=role.status)
    send_day("orders", 1, 0)
    looks = itertools.count()
    wait_until(lambda: next(looks) == 10, "a chance to mark time too early")
    send_day("clickstream", 1, 0)
    wait_until(lambda: applied(role) == 60, "the second day answered", tell=role.status)
    begun = START_MS + 86_400_000
    wait_until(lambda: min(mark or 0 for mark in role.watermarks()) > begun, "all clocks on", tell=role.status)
    assert role.stop() == 0
    assert shop.read("tidecast.deadletters") == []


def test_what_follows_upon_an_order_does_not_wait_until_orders_are_idle(shop: Shop) -> None:
    """Clicks within half the lateness after an order are answered long before the idle time is over, later ones not."""
    create(shop.settings())
    shop.overrides = {"TIDECAST_TIME__IDLE_MS": "600000"}
    producer = shop.producer()
    send = sender(shop, producer)
    role = shop.start("tally", module="tests.runtime.run_tally")
    line = {"product_id": "p"}
    lateness = shop.settings().time.allowed_lateness_s * 1_000
    for partition in (0, 1):
        send("orders", partition, 0, {"order_id": f"{partition}", "status": "placed", "lines": [line]})
        send("clickstream", partition, 1, {"type": "view", **line})
    assert producer.flush(30) == 0
    wait_until(lambda: applied(role) >= 2, "the orders", tell=role.status)
    for step in range(1, 6):
        for partition in (0, 1):
            send("clickstream", partition, step * lateness // 10 - step, {"type": "view", **line})
        assert producer.flush(30) == 0
        wait_until(lambda step=step: applied(role) >= 2 + 2 * step, "what came before", tell=role.status)  # type: ignore[misc]
    send("clickstream", 0, lateness, {"type": "view", **line})
    assert producer.flush(30) == 0
    wait_until(lambda: applied(role) == 14, "all of the near ones", tell=role.status)
    looks = itertools.count()
    wait_until(lambda: next(looks) == 20, "a chance to take the far one")
    assert applied(role) == 14
    assert role.stop() == 0


def test_a_worker_without_any_traffic_keeps_up_with_the_others(shop: Shop) -> None:
    """A partition that never had an event, and whose owner has no other, follows the time of its neighbour's events."""
    create(shop.settings())
    producer = shop.producer()
    send = sender(shop, producer)
    roles = [shop.start("tally", worker=name, module="tests.runtime.run_tally") for name in ("a", "b")]
    tell = lambda: f"{[role.status() for role in roles]}\n{shop.log('tally')}"  # noqa: E731
    wait_until(lambda: all(len(role.watermarks()) == 1 for role in roles), "a task each", tell=tell)
    late = shop.settings().time.allowed_lateness_s * 1_000
    for hours in (1, 2):
        send("clickstream", 0, hours * 3_600_000, {"type": "view", "product_id": "p"})
        assert producer.flush(30) == 0
        mark = START_MS + hours * 3_600_000 - late
        wait_until(lambda: min(m or 0 for role in roles for m in role.watermarks()) >= mark, "both there", tell=tell)  # noqa: B023
    assert [role.stop() for role in roles] == [0, 0]


def test_garbage_holds_nothing_up(shop: Shop) -> None:
    """A click after a quiet night is answered, whatever rubbish stands behind it or goes on arriving beside it."""
    create(shop.settings())
    producer = shop.producer()
    send = sender(shop, producer)
    role = shop.start("tally", module="tests.runtime.run_tally")
    for partition in (0, 1):
        send("orders", partition, 0, {"order_id": f"{partition}", "status": "placed", "lines": [{"product_id": "p"}]})
        send("clickstream", partition, 1, {"type": "view", "product_id": "p"})
    assert producer.flush(30) == 0
    wait_until(lambda: applied(role) == 4, "the evening", tell=role.status)
    send("clickstream", 0, 86_400_000, {"type": "view", "product_id": "p"})
    producer.produce(shop.prefix + "clickstream", b"garbage", partition=0)

    def answered() -> bool:
        producer.produce(shop.prefix + "orders", b"garbage", partition=0)
        producer.poll(0)
        return applied(role) == 5

    wait_until(answered, "the morning's click", deadline_s=30, tell=role.status)
    assert role.stop() == 0


def sender(shop: Shop, producer: Producer) -> Callable[[str, int, int, dict[str, Any]], None]:
    """Return a function that sends an event to a partition; its time is given in ms after the start."""

    def send(topic: str, partition: int, time: int, more: dict[str, Any]) -> None:
        name = f"{topic}-{partition}-{time}"
        event = {"event_id": name, "time": START_MS + time, "user_id": f"u{partition}", **more}
        producer.produce(shop.prefix + topic, json.dumps(event), partition=partition)
        producer.poll(0)

    return send


def applied(role: Role) -> int:
    """Return how many events a role applied."""
    status = role.status()
    return sum(task["counts"].get("events", 0) for task in status["tasks"].values()) if status else 0


def test_a_pinned_model_is_waited_for(shop: Shop) -> None:
    """Nothing is predicted by another one: the worker says in readiness what it lacks, and goes on when it is there."""
    log = closed_log(clicks=300)
    shop.preload(log)
    shop.overrides = {"TIDECAST_SCORE__MODEL_PIN": "pinned:1"}
    role = shop.start("score")
    wait_until(lambda: "pinned:1" in str(role.ready()[1]), "what it lacks", tell=role.ready)
    assert applied(role) == 0
    announce_pinned(shop)
    shop.finish([role], log.end, {"score": 2})
    said = [json.loads(record.value or b"")["model"] for record in shop.read("predictions")]
    assert len(said) > 250
    assert {f"{model['name']}:{model['version']}" for model in said} == {"pinned:1"}
