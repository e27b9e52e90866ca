"""A worker ends in time whatever it has in hand."""

from __future__ import annotations

import time

import pytest

from schemas.internal import ActivityBatch, ActivityRow, EventKind, encode_activity
from streams.records import ACTIVITY, HISTORY
from streams.topics import create
from tests.real.harness import Shop, wait_until

pytestmark = pytest.mark.realbroker
DAY_MS = 86_400_000
FIRST = 15_000
PRODUCTS = 2_000
DAYS = 100


def test_sigterm_amid_a_season_of_closing_buckets(shop: Shop) -> None:
    """Months of thousands of products are waiting to be closed: SIGTERM still ends the worker within 10 s, cleanly."""
    create(shop.settings())
    producer = shop.producer()

    def tell(day: int, products: range) -> None:
        at = (FIRST + day) * DAY_MS
        rows = [ActivityRow(f"p{n}", None, EventKind.PURCHASE, at, 1, 0, -1, True) for n in products]
        for task in (0, 1):
            said = encode_activity(ActivityBatch(task, 2, at, rows if task == 0 else []))
            producer.produce(shop.prefix + ACTIVITY, said, partition=0)

    for start in range(0, PRODUCTS, 500):
        tell(0, range(start, start + 500))
    for day in range(1, DAYS):
        tell(day, range(5))
    assert producer.flush(60) == 0

    role = shop.start("demand")

    def closed() -> int:
        tasks = (role.status() or {"tasks": {}})["tasks"]
        return sum(task["counts"].get("buckets_closed", 0) for task in tasks.values())

    wait_until(lambda: closed() >= PRODUCTS, "the first day closed", tell=role.status)
    started = time.monotonic()
    assert role.stop() == 0
    assert time.monotonic() - started < 10
    before = shop.read(HISTORY)
    assert 0 < len(before) < PRODUCTS * (DAYS - 1), "some was said, and some was left"

    role = shop.start("demand")
    wait_until(lambda: closed() > 0 and role.ready()[0], "it goes on", tell=role.status)
    assert role.stop() == 0
    keys = [record.key for record in shop.read(HISTORY)]
    assert len(before) < len(keys) == len(set(keys))
