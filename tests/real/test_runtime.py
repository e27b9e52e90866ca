"""The runtime under a trivial stage on real Kafka and Redis: exactly once through SIGKILL at every named point."""

from __future__ import annotations

import json
import re

import pytest

from streams.runtime.checkpoint import decode_header
from tests.real.harness import Role, Shop, wait_until
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
    """A busy worker hears in the middle of a round that it loses a task: what it stepped is committed, and kept."""
    log = closed_log(clicks=60_000)
    shop.preload(log)
    shop.overrides = {"TIDECAST_RUNTIME__CHECKPOINT_INTERVAL_MS": "600000"}
    first = shop.start("tally", worker="worker-0", module=_MODULE)
    wait_until(lambda: _read(first) > 1_000, "the first at work", tell=lambda: shop.log("tally"))
    second = shop.start("tally", worker="worker-1", module=_MODULE)
    wait_until(lambda: _read(second) > 0, "a task of its own", tell=lambda: shop.log("tally"))
    left = len(log.messages) - _read(first) - _read(second)
    assert left > 0, "it was idle by then; give it more"
    shop.finish([first, second], log.end, {"tally": 2})
    claims = re.findall(r"(\d+) records rebuild its state", (shop.logs / "tally.log").read_text(encoding="utf-8"))
    assert len(claims) >= 4
    assert set(claims) == {"0"}


def _read(role: Role) -> int:
    """Return how many records the tasks of a worker are past."""
    status = role.status()
    return sum(offset for task in status["tasks"].values() for offset in task["offsets"].values()) if status else 0
