"""Bytes that cannot be read stop nothing: each is a dead letter with its reason, every good event is processed."""

from __future__ import annotations

import json
import random
import urllib.request
from collections import Counter

import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from schemas import events
from schemas.outputs import decode_dead_letter
from streams.records import MARKER_HEADER
from streams.runtime.refusals import DUPLICATE, refusals, total
from streams.topics import create
from tests.real.harness import Role, Shop, wait_until
from tests.real.shop import START_MS, ClosedLog, closed_log

pytestmark = [pytest.mark.realbroker, pytest.mark.timeout(600)]
_BAD = 10_000
_NO_DIGITS = [byte for byte in range(256) if byte not in b"0123456789"]


def test_ten_thousand_bad_messages_among_good_ones(shop: Shop) -> None:
    """Nothing stops; what the contract refuses is in the dead letters, and the accounts balance to the message."""
    log = closed_log(clicks=2_000)
    shop.preload(ClosedLog([], log.end - 20 * 86_400_000))  # creates the topics; too early to make anything late
    _produce(shop, log)
    shop.finish([shop.start("score")], log.end, {"score": shop.partitions})
    refused = set()
    good = 0
    for topic, parse in (("clickstream", events.parse_click), ("orders", events.parse_order)):
        for record in shop.read(topic):
            if any(name == MARKER_HEADER for name, _ in record.headers):
                continue
            try:
                time = parse(record.value or b"", shop.settings().kafka.max_message_bytes).time
            except ValueError:
                refused.add((topic, record.input.partition, record.offset))
                continue
            if time > record.appended_at + 300_000:
                refused.add((topic, record.input.partition, record.offset))
            else:
                good += 1
    letters = [decode_dead_letter(record.value or b"") for record in shop.read("tidecast.deadletters")]
    unread = {(one.topic, one.partition, one.offset) for one in letters if one.reason != "late"}
    assert unread == refused
    assert len(letters) == len({one.id for one in letters})
    assert {one.reason for one in letters} == {"undecodable", "invalid", "oversized", "future", "late"}
    late = sum(one.reason == "late" for one in letters)
    counts = shop.counts("score")
    orders = sum(counts.get(name, 0) for name in ("orders_applied",))
    predicted = sum(json.loads(r.value or b"{}")["kind"] == "purchase" for r in shop.read("predictions"))
    assert counts["clicks_predicted"] == predicted
    assert predicted + counts["clicks_without_user"] + orders + counts["duplicates"] + late == good
    told = {(topic, why): count for topic, whys in refusals(counts).items() for why, count in whys.items()}
    dead = Counter((one.topic, one.reason) for one in letters)
    assert {key: count for key, count in told.items() if key[1] != DUPLICATE} == dead


def test_bad_records_of_tables_are_counted_where_they_came_from(shop: Shop) -> None:
    """Each is one dead letter however often tables are read again, and counts by topic and reason in its worker."""
    create(shop.settings())
    producer = shop.producer()
    for topic, value in (("catalog", b"{}"), ("catalog", b"\xff"), ("plan", b"{}")):
        producer.produce(shop.prefix + topic, value, key=b"p1")
    assert producer.flush(30) == 0
    first = shop.start("demand")
    wanted = {"catalog": {"invalid": 1, "undecodable": 1}, "plan": {"invalid": 1}}
    wait_until(lambda: _refused(first) == wanted, "the refusals", tell=lambda: (first.status(), shop.log("demand")))
    wait_until(
        lambda: {(topic, why) for topic, whys in wanted.items() for why in whys} == _shown(first), "them in the metrics"
    )
    assert first.stop() == 0
    again = shop.start("demand")
    wait_until(lambda: again.ready()[0], "ready again", tell=lambda: shop.log("demand"))
    assert _refused(again) == {}
    assert again.stop() == 0
    letters = [decode_dead_letter(record.value or b"") for record in shop.read("tidecast.deadletters")]
    assert sorted((one.topic, one.reason) for one in letters) == [
        ("catalog", "invalid"), ("catalog", "undecodable"), ("plan", "invalid")
    ]  # fmt: skip


def _refused(role: Role) -> dict[str, dict[str, int]]:
    return refusals(total(task["counts"] for task in (role.status() or {"tasks": {}})["tasks"].values()))


def _shown(role: Role) -> set[tuple[str, str]]:
    """Topic and reason of what the metrics say was refused once."""
    with urllib.request.urlopen(f"http://127.0.0.1:{role.port}/metrics", timeout=2) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families if family.name == "tidecast_refused" for sample in family.samples]
    return {(sample.labels["topic"], sample.labels["reason"]) for sample in samples if sample.value == 1}


def _produce(shop: Shop, log: ClosedLog) -> None:
    chance = random.Random(3)
    producer = Producer(
        {"bootstrap.servers": shop.bootstrap, "message.max.bytes": 8_000_000, "partitioner": "murmur2_random"}
    )
    per_good = _BAD / len(log.messages)
    owed = 0.0
    for message in log.messages:
        producer.produce(shop.prefix + message.topic, message.value, key=message.key)
        owed += per_good
        while owed >= 1:
            owed -= 1
            topic = chance.choice(["clickstream", "orders"])
            key = None if chance.random() < 0.3 else f"u{chance.randrange(100)}"
            producer.produce(shop.prefix + topic, _bad(chance, message.value), key=key)
        producer.poll(0)
    for size in (5_000_000, 1_500_000):
        producer.produce(shop.prefix + "clickstream", b"[" + b" " * size + b"]", key="big")
    marker = json.dumps({"time": log.end, "source": "test"})
    for topic in ("clickstream", "orders"):
        for partition in range(shop.partitions):
            producer.produce(shop.prefix + topic, marker, partition=partition, headers=[(MARKER_HEADER, b"end")])
    assert producer.flush(60) == 0


def _bad(chance: random.Random, good: bytes) -> bytes:
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        torn = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            # No digits: a well-formed wrong time is a lie, not a damage, and would make the honest rest late.
            torn[chance.randrange(len(torn))] = chance.choice(_NO_DIGITS)
        return bytes(torn)
    if kind == 2:
        return chance.choice(
            [b"", b"null", b"[]", b"{}", b'"x"', b"NaN", b"1e999", b"[" * 5_000, b"\xff\xfe", b"{" * 900]
        )
    try:
        event = json.loads(good)
    except ValueError:
        return good  # torn already
    event["event_id"] = f"bad{chance.getrandbits(60)}"
    wrong: list[tuple[str, object]] = [
        ("type", "teleport"),
        ("status", "teleported"),
        ("time", 10**30),
        ("time", float("nan")),
        ("time", float("inf")),
        ("time", -1),
        ("time", True),
        ("time", "yesterday"),
        ("time", 4_000_000_000_000),
        ("time", START_MS - 400 * 86_400_000),
        ("time", 1_000),
        ("unit_price", -5),
        ("unit_price", 1e400),
        ("unit_price", "free"),
        ("user_id", 7),
        ("user_id", "x" * 10_000),
        ("user_id", "\0"),
        ("event_id", None),
        ("product_id", {"a": [1]}),
        ("lines", []),
        ("lines", [{"product_id": "p", "quantity": -1}]),
        ("lines", [{"product_id": "p", "quantity": 0.5}]),
        ("currency", "Euro"),
    ]
    if kind == 3:
        event.pop(chance.choice(list(event)))
    else:
        name, value = chance.choice(wrong)
        event[name] = value
    return json.dumps(event).encode()
