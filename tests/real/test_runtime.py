"""The runtime under a trivial stage on real Kafka and Redis: exactly once through SIGKILL at every named point."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time

import pytest

from streams.runtime.checkpoint import decode_header
from streams.topics import create
from tests.real.harness import Shop, wait_until
from tests.real.shop import closed_log

pytestmark = pytest.mark.realbroker
_MODULE = "tests.runtime.run_tally"
# Recovery has something to rebuild only where no checkpoint followed the last commit.
_POINTS = (
    "after_decode",
    "before_produce",
    "after_produce",
    "before_commit",
    "mid_checkpoint",
    "after_checkpoint",
    "after_commit",
    "during_recovery",
)


def test_sigkill_at_every_point_changes_nothing_that_is_seen(shop: Shop) -> None:
    """One worker killed at each named point in turn says what an undisturbed one says, each once."""
    log = closed_log(clicks=3_000)
    shop.preload(log)
    shop.overrides = {"TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "50"}
    for point in _POINTS:
        role = shop.start("tally", hook=f"{point}:{1 if point == 'during_recovery' else 2}", module=_MODULE)
        assert role.process.wait(60) == -9, shop.log("tally")
    shop.finish([shop.start("tally", module=_MODULE)], log.end, {"tally": 2})
    assert shop.hooks_hit() == list(_POINTS)
    said = [json.loads(record.value or b"") for record in shop.read("predictions")]
    ids = [one["id"] for one in said]
    assert len(ids) == len(set(ids))
    other = Shop(shop.bootstrap, shop.redis_url, shop.prefix + "x-", shop.logs)
    other.preload(log)
    try:
        other.finish([other.start("tally", module=_MODULE)], log.end, {"tally": 2})
    finally:
        other.kill_all()
    undisturbed = {one["id"]: one for one in (json.loads(r.value or b"") for r in other.read("predictions"))}
    assert {one["id"]: one for one in said} == undisturbed
    assert shop.rows("tally") == other.rows("tally")


def test_graceful_stop_leaves_a_checkpoint_at_the_committed_offsets(shop: Shop) -> None:
    """After SIGTERM a restart has nothing to rebuild and is ready at once."""
    log = closed_log(clicks=500)
    shop.preload(log)
    shop.finish([shop.start("tally", module=_MODULE)], log.end, {"tally": 2})
    again = shop.start("tally", module=_MODULE, hook="during_recovery")
    wait_until(lambda: again.ready()[0], "ready again", tell=lambda: shop.log("tally"))
    assert again.stop() == 0


def test_what_is_rebuilt_is_kept_as_it_goes(shop: Shop) -> None:
    """A wiped store is filled in bounded steps: killed on the way, the next start goes on where the checkpoint says."""
    log = closed_log(clicks=2_000)
    shop.preload(log)
    shop.finish([shop.start("tally", module=_MODULE)], log.end, {"tally": 2})
    rows, ends = shop.rows("tally"), _offsets(shop)
    shop.store().flushall()
    shop.overrides = {"TIDECAST_RUNTIME__CHECKPOINT_MAX_ROWS": "10", "TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "50"}
    killed = shop.start("tally", module=_MODULE, hook="mid_checkpoint:8")
    assert killed.process.wait(60) == -9, shop.log("tally")
    begun = _offsets(shop)
    assert any(0 < offset < ends[place] for place, offset in begun.items())
    shop.finish([shop.start("tally", module=_MODULE)], log.end, {"tally": 2})
    assert shop.rows("tally") == rows


def _offsets(shop: Shop) -> dict[tuple[str, int], int]:
    """Return the offsets of all checkpoints."""
    found = [decode_header(header).offsets for header in shop.headers("tally").values()]
    return {(topic, partition): offset for offsets in found for topic, partition, offset in offsets}


def test_whoever_takes_over_under_load_has_nothing_to_rebuild(shop: Shop) -> None:
    """A busy worker hears in the middle of a round that it loses its tasks: what it stepped is committed, and kept."""
    shop.overrides = {
        "TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "2000",
        "TIDECAST_RUNTIME__CHECKPOINT_INTERVAL_MS": "600000",
    }
    create(shop.settings())
    over = threading.Event()
    load = threading.Thread(target=_send, args=(shop, over))
    load.start()
    try:
        for number in range(4):
            role = shop.start("tally", worker=f"worker-{number}", module=_MODULE)
            wait_until(lambda: role.status() is not None and _read(shop) > 0, "at work", tell=lambda: shop.log("tally"))  # noqa: B023
            before = _read(shop)
            wait_until(lambda: _read(shop) > before + 5_000, "load", tell=lambda: shop.log("tally"))  # noqa: B023
    finally:
        over.set()
        load.join()
    assert [role.stop() for role in shop.roles] == [0] * 4
    claims = re.findall(r"(\d+) records rebuild its state", (shop.logs / "tally.log").read_text(encoding="utf-8"))
    assert len(claims) >= 4
    assert set(claims) == {"0"}
    said = [json.loads(record.value or b"")["id"] for record in shop.read("predictions")]
    assert len(said) == len(set(said)) > 15_000


def _send(shop: Shop, over: threading.Event) -> None:
    """Send clicks and orders of now, some 4,000 a second, until it is over."""
    producer = shop.producer()
    for first in itertools.count(0, 20):
        if over.wait(0.005):
            break
        for number in range(first, first + 20):
            event = {"event_id": f"{number}", "time": int(time.time() * 1_000), "user_id": f"u{number % 50}"}
            if number % 10:
                topic, more = "clickstream", {"type": "view", "product_id": "p"}
            else:
                topic, more = "orders", {"order_id": f"{number}", "status": "placed", "lines": [{"product_id": "p"}]}
            producer.produce(shop.prefix + topic, json.dumps(event | more), partition=number // 10 % 2)
        producer.poll(0)
    assert producer.flush(30) == 0


def _read(shop: Shop) -> int:
    """Return how many records the tasks of all workers are past."""
    states = [role.status() or {"tasks": {}} for role in shop.roles]
    return sum(sum(task["offsets"].values()) for state in states for task in state["tasks"].values())
