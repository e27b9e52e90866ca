"""Laws of closing buckets: what is said of demand depends on what was sold, not on which upstream task was faster."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.internal import ActivityBatch, ActivityRow, EventKind, encode_activity
from schemas.outputs import decode_history, decode_prediction
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, HISTORY, PREDICTIONS
from streams.settings import DemandSettings, Settings

DAY_MS = 86_400_000
FIRST = 15_000
REST = 3

Sale = tuple[int, int, str]
"""Day since the first, upstream task, product."""
SALES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1), st.sampled_from("abc")), min_size=1, max_size=25)


def said(sales: list[Sale], cuts: list[int], turns: list[int]) -> tuple[dict[tuple[str, int], int], set[str]]:
    """Return history and ids of forecasts, where each task's sales come in time, cut into batches, in those turns."""
    chosen = Settings(demand=DemandSettings(retire_after=REST, horizon=1))
    driver = TopologyDriver(chosen, [quiet_demand_stage])
    batches: list[list[list[Sale]]] = [[], []]
    for task in (0, 1):
        mine = sorted(sale for sale in sales if sale[1] == task)
        while mine:
            cut = cuts[len(batches[task]) % len(cuts)]
            batches[task].append(mine[:cut])
            mine = mine[cut:]
    place, last = 0, max(sale[0] for sale in sales) + 1
    while any(batches):
        task = turns[place % len(turns)]
        place += 1
        task = task if batches[task] else 1 - task
        batch = batches[task].pop(0)
        tell(driver, task, max(day for day, _, _ in batch), [(product, day) for day, _, product in batch])
    for task in (0, 1):
        tell(driver, task, last, [])
    history: dict[tuple[str, int], int] = {}
    for record in driver.output(HISTORY):
        row = decode_history(record.value or b"")
        assert row.revision == 0
        history[row.product_id, row.bucket_start // DAY_MS - FIRST] = row.quantity
    ids = [decode_prediction(record.value or b"").id for record in driver.output(PREDICTIONS)]
    assert len(ids) == len(set(ids))
    return history, set(ids)


def tell(driver: TopologyDriver, task: int, day: int, sold: list[tuple[str, int]]) -> None:
    """Say what an upstream task says of a batch: its rows, and that it is at the beginning of `day`."""
    rows = [
        ActivityRow(product, None, EventKind.PURCHASE, (FIRST + at) * DAY_MS + 5, 1, 0, -1, True)
        for product, at in sold
    ]
    value = encode_activity(ActivityBatch(task, 2, (FIRST + day) * DAY_MS, rows))
    driver.pipe(ACTIVITY, str(task).encode(), value, partition=0)
    driver.run()


@settings(deadline=None, max_examples=60)
@given(SALES, st.lists(st.integers(1, 8), min_size=1, max_size=4), st.lists(st.integers(0, 1), min_size=1, max_size=8))
def test_history_and_forecasts_are_those_of_the_sales(sales: list[Sale], cuts: list[int], turns: list[int]) -> None:
    """From its first sale on, and as long as it sold within `retire_after` buckets, each closed bucket is told once."""
    history, ids = said(sales, cuts, turns)
    sold: dict[str, dict[int, int]] = defaultdict(dict)
    for day, _, product in sales:
        sold[product][day] = sold[product].get(day, 0) + 1
    closed = range(max(sale[0] for sale in sales) + 1)
    expected = {
        (product, day): days.get(day, 0)
        for product, days in sold.items()
        for day in closed
        if any(day - ago in days for ago in range(REST + 1))
    }
    assert history == expected
    assert ids == {f"{product}|{(FIRST + day + 1) * DAY_MS}|demand|0" for product, day in expected}
