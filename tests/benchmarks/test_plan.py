"""Laws of the cost model, and that its page is made of what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plan import Costs, Limits, Shop, main, page, plan

ROOT = Path(__file__).parents[2]
COSTS = Costs(rate=30_000, store_us=1.0, user=300, product=400, cached_user=4_000, restart_s=3)
shops = st.builds(
    Shop,
    events_per_day=st.floats(1, 1e11),
    users=st.floats(1, 1e10),
    products=st.floats(1, 1e8),
    peak=st.floats(1, 20),
)


@given(shops, st.floats(1, 10))
def test_more_of_a_shop_needs_no_less(shop: Shop, times: float) -> None:
    """More events, users or products: no fewer workers, partitions, shards, and no fewer bytes of Redis."""
    least = plan(shop, COSTS)
    for more in (
        replace(shop, events_per_day=shop.events_per_day * times),
        replace(shop, users=shop.users * times),
        replace(shop, products=shop.products * times),
        replace(shop, peak=shop.peak * times),
    ):
        most = plan(more, COSTS)
        for field in ("peak_rate", "workers", "partitions", "redis_bytes", "shards"):
            assert getattr(most, field) >= getattr(least, field)


@given(shops)
def test_what_is_planned_is_enough(shop: Shop) -> None:
    """At peak no worker and no shard is busier than it may be, and the rows have their room."""
    needed, limits = plan(shop, COSTS), Limits()
    rounding = 1 + 1e-9
    assert needed.peak_rate <= needed.workers * COSTS.rate * limits.load * rounding
    assert needed.peak_rate * COSTS.store_us / 1e6 <= needed.shards * limits.load * rounding
    assert needed.redis_bytes * 1.5 <= needed.shards * limits.shard_bytes * rounding
    assert needed.partitions >= needed.workers
    assert needed.partitions >= needed.shards, "a shard without a task would hold nothing"


@pytest.mark.parametrize("wrong", ["--users=-5", "--users=nan", "--products=inf", "--peak=0.5", "--events-per-day=x"])
def test_a_number_that_no_shop_has_is_refused(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line names the option, the value and what to give; the exit code is 2, and no plan is printed."""
    monkeypatch.setattr("sys.argv", ["plan", wrong])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    option, _, value = wrong.partition("=")
    assert (ended.value.code, said.out) == (2, "")
    assert f"argument {option}: '{value}': give a number from " in said.err


def test_the_page_is_made_of_the_measurements() -> None:
    """docs/scaling.md is what the committed figures give."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    memory = json.loads((ROOT / "benchmarks" / "memory.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8") == page(results, memory)
