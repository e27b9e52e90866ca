"""The runtime under a trivial stage on real Kafka and Redis: exactly once through SIGKILL at every named point."""

from __future__ import annotations

import json

import pytest

from streams.runtime.checkpoint import decode_header
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
