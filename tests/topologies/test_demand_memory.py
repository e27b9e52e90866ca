"""Laws of what demand forgets: how much is said of a product does not depend on whether its row is still stored."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.outputs import decode_history
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.records import HISTORY, PREDICTIONS, REDRIVE_HEADER
from streams.runtime.keeping import keep
from streams.settings import DemandSettings, Settings
from streams.topologies.score import ScoreStage

DAY = 86_400_000
T0 = 1_700_006_400_000
Sale = tuple[int, int]
"""Days after the one before, and days before that on which it was made; a sale of before is redriven."""
# 56 days of history are kept, and rows three more.
SETTINGS = Settings(demand=DemandSettings(retire_after=3, horizon=1))


def _said(sales: list[Sale], *, sweeps: bool) -> tuple[list[bytes], dict[tuple[int, int], int]]:
    """Return what is said of demand, and the history of the product by (day, revision).

    Another product sells day by day; with `sweeps`, rows leave the store, and memory, as soon as they may.
    """
    driver = TopologyDriver(SETTINGS, [ScoreStage, quiet_demand_stage], now_ms=T0 + 1_000 * DAY)
    told: dict[int, list[int]] = {}
    day = 0
    for after, before in sales:
        day += after
        told.setdefault(day, []).append(before)
    for now in range(day + 6):
        time = T0 + now * DAY + 5
        for number, before in enumerate([None, *told.get(now, [])]):
            name, made = f"{now}-{number}", time - (before or 0) * DAY
            line = {"product_id": "other" if before is None else "mug", "quantity": 3 + number}
            order = {"event_id": name, "order_id": name, "status": "placed", "time": made, "lines": [line]}
            headers = ((REDRIVE_HEADER, b"letter"),) if before else ()
            driver.pipe("orders", b"", json.dumps(order).encode(), headers=headers)
        driver.mark_time(time)
        driver.run(checkpoint=False)
        if sweeps:
            for _ in range(3):
                keep(driver.store, driver.tasks("demand")[0], 1_000, 500)
    records = driver.output(HISTORY)
    rows = [decode_history(record.value or b"") for record in records]
    history = {((r.bucket_start - T0) // DAY, r.revision): r.quantity for r in rows if r.product_id == "mug"}
    assert len(history) == sum(row.product_id == "mug" for row in rows), "each id is said once"
    return [record.value or b"" for record in (*records, *driver.output(PREDICTIONS))], history


AFTER = st.sampled_from([0, 1, 3, 5, 9, 55, 56, 57, 58, 59, 60, 61, 70])
BEFORE = st.sampled_from([0, 0, 0, 1, 4, 10, 55, 57, 59, 61, 70])


@settings(max_examples=15)
@example([(0, 0), (60, 0)])
@example([(0, 0), (70, 70)])
@given(st.lists(st.tuples(AFTER, BEFORE), max_size=4))
def test_what_is_said_does_not_depend_on_what_is_stored(sales: list[Sale]) -> None:
    """Rests, seasons and sales of long ago: byte for byte the same, whether rows go at once or never."""
    assert _said(sales, sweeps=True) == _said(sales, sweeps=False)


def test_what_lies_between_two_lives_is_in_no_history() -> None:
    """A sale that comes late wakes a product as one in time does: no days without a sale in between."""
    _, on_time = _said([(0, 0), (10, 0), (2, 0)], sweeps=False)
    _, late = _said([(0, 0), (12, 2), (0, 0)], sweeps=False)
    assert {day for day, _ in late} == {day for day, _ in on_time}
    assert not {4, 5, 6, 7, 8, 9} & {day for day, _ in late}


@settings(max_examples=25)
@example([15, 20])
@example([20, 15])
@given(st.permutations([8, 12, 15, 16, 20]).map(lambda days: days[:3]))
def test_late_sales_are_told_in_any_order(days: list[int]) -> None:
    """The history ends as that of sales in time, day by day; each day begins with revision 0."""
    late = [(0, 0), *((30 if n == 0 else 1, 30 + n - day) for n, day in enumerate(days))]
    in_time = [(0, 0)]
    for before, day in pairwise([0, *sorted(days)]):
        in_time.append((day - before, 0))
    in_time.append((32 - max(days), 0))  # the other's last day
    told = _said([*late, (33 - 30 - len(days), 0)], sweeps=False)[1]
    assert {day for day, revision in told if revision == 0} == {day for day, _ in told}
    wanted = _said(in_time, sweeps=False)[1]
    assert {day for day, _ in told if day < 30} == {day for day, _ in wanted if day < 30}
