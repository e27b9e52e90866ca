"""A store that evicts rows, or gives back other bytes than were written: a worker ends and says what repairs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.real.harness import Shop
from tests.real.shop import closed_log

pytestmark = pytest.mark.realbroker


def test_a_store_that_evicts_is_refused(shop: Shop) -> None:
    """Before anything is read or written: an evicted row would be taken for a new user's."""
    shop.preload(closed_log(clicks=100))
    store = shop.store()
    store.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert shop.start("score").process.wait(60) == 2
    finally:
        store.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy is allkeys-lru" in shop.log("score")
    assert shop.read("predictions") == []
    assert shop.headers("score") == {}


def test_the_repair_that_a_damaged_row_calls_for_repairs_it(shop: Shop) -> None:
    """The worker ends with the command to run; after it, rows and predictions are what they would have been."""
    log = closed_log(clicks=1_000)
    shop.preload(log)
    shop.finish([shop.start("score")], log.end, {"score": 2})
    rows, said = shop.rows("score"), [record.value for record in shop.read("predictions")]
    store = shop.store()
    name = next(store.scan_iter(match=f"{shop.prefix}:{{score.*}}:u:*", count=5_000))
    store.set(name, store.get(name)[:-1])

    user = name.decode().partition("}:u:")[2]
    click = {"event_id": "late", "type": "view", "time": log.end, "user_id": user, "product_id": "p"}
    producer = shop.producer()
    number = int(name.decode().partition("}")[0].rpartition("-")[2])
    producer.produce(shop.prefix + "clickstream", json.dumps(click), key=user, partition=number)
    assert producer.flush(30) == 0
    shop.close_log(log.end + 1)
    assert shop.start("score").process.wait(60) == 4, shop.log("score")
    found = re.search("run '(tidecast state reset [^']+)'", shop.log("score"))
    assert found, shop.log("score")
    command = [sys.executable, "-m", "streams.cli", *shlex.split(found[1])[1:], "--yes"]
    done = subprocess.run(command, env={**os.environ, **shop.environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    shop.finish([shop.start("score")], log.end + 1, {"score": 2})
    again = shop.rows("score")
    key = f"{number}/u:{user}"
    assert {k: row for k, row in again.items() if k != key} == {k: row for k, row in rows.items() if k != key}
    assert len(again[key]) >= len(rows[key])
    after = [record.value for record in shop.read("predictions")]
    assert len(after) == len(said) + 1
    assert set(said) < set(after)
