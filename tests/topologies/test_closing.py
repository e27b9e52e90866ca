"""Laws of closing buckets: what is said of demand depends on what was sold, not on which upstream task was faster."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.internal import ActivityBatch, ActivityRow, EventKind, encode_activity
from schemas.outputs import decode_history, decode_prediction
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, HISTORY, PREDICTIONS
from streams.runtime.checkpoint import decode_header
from streams.settings import DemandSettings, Settings
from streams.topologies.series import Series

DAY_MS = 86_400_000
FIRST = 15_000
REST = 3
LATER = (FIRST + 1_000) * DAY_MS

Sale = tuple[int, int, str]
"""Day since the first, upstream task, product."""
SALES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1), st.sampled_from("abc")), min_size=1, max_size=25)


def said(sales: list[Sale], cuts: list[int], turns: list[int]) -> tuple[dict[tuple[str, int], int], set[str]]:
    """Return history and ids of forecasts, where each task's sales come in time, cut into batches, in those turns."""
    chosen = Settings(demand=DemandSettings(retire_after=REST, horizon=1))
    driver = TopologyDriver(chosen, [quiet_demand_stage], partitions=2, now_ms=LATER)
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


@dataclass(frozen=True)
class Happening:
    """What one upstream task says at minute `at` of one product: of its own minute, or of the earlier `time`."""

    task: int
    at: int
    product: str
    kind: EventKind
    time: int
    price: int

    def row(self) -> ActivityRow:
        """Return it as the score stage would."""
        sign = -1 if self.kind in (EventKind.CANCEL, EventKind.RETURN) else 1
        later = _ms(self.at) if self.at > self.time else 0
        return ActivityRow(
            self.product, None, self.kind, _ms(self.time), sign, sign * max(self.price, 0), self.price, True, later
        )


def _ms(minute: int) -> int:
    return FIRST * DAY_MS + minute * 60_000


@st.composite
def happenings(draw: st.DrawFn) -> list[Happening]:
    """Views, carts and sales of a few products over some days; cancellations, and what was redriven, bear an earlier
    time."""
    kinds = st.sampled_from([EventKind.VIEW, EventKind.ADD_TO_CART, EventKind.PURCHASE, EventKind.CANCEL])
    found = []
    for _ in range(draw(st.integers(1, 40))):
        kind, at = draw(kinds), draw(st.integers(0, 10 * 1_440))
        back = draw(st.integers(0, 4 * 1_440)) if kind == EventKind.CANCEL or draw(st.integers(0, 9)) == 0 else 0
        task, product, price = (
            draw(st.integers(0, 1)),
            draw(st.sampled_from("abc")),
            draw(st.sampled_from([-1, 100, 250])),
        )
        found.append(Happening(task, at, product, kind, max(0, at - back), price))
    return found


def told(
    happened: list[Happening], cuts: list[int], turns: list[int], crashes: set[int]
) -> tuple[dict[str, bytes], dict[str, list[bytes]], dict[str, bytes], dict[str, int]]:
    """Return all history, all forecasts, the rows of series and waiting changes, and the tally: batches cut and taken
    in those turns, memory lost after those."""
    chosen = Settings(demand=DemandSettings(retire_after=REST, horizon=1))
    driver = TopologyDriver(chosen, [quiet_demand_stage], partitions=2, now_ms=LATER)
    queues = [sorted((h for h in happened if h.task == task), key=lambda h: h.at) for task in (0, 1)]
    place = 0
    while any(queues):
        task = turns[place % len(turns)]
        task = task if queues[task] else 1 - task
        cut = cuts[place % len(cuts)]
        batch, queues[task] = queues[task][:cut], queues[task][cut:]
        pipe(driver, task, _ms(batch[-1].at), [one.row() for one in batch])
        if place in crashes:
            driver.crash("demand")
            driver.run()
        elif place % 3 == 0:
            driver.checkpoint("demand")
        place += 1
    for task in (0, 1):
        pipe(driver, task, _ms(max(one.at for one in happened) + 1_440), [])
    driver.checkpoint("demand")
    history: dict[str, bytes] = {}
    for record in driver.output(HISTORY):
        row = decode_history(record.value or b"")
        assert row.id not in history
        history[row.id] = record.value or b""
    forecasts: dict[str, list[bytes]] = defaultdict(list)
    for record in driver.output(PREDICTIONS):
        forecasts[decode_prediction(record.value or b"").id].append(record.value or b"")
    task_state = driver.tasks("demand")[0]
    header, _ = driver.store.read(task_state.name, [])
    closed = msgspec.msgpack.decode(msgspec.msgpack.decode(decode_header(header or b"").extra)["state"])["closed"]
    keys = [f"s:{product}" for product in "abc"] + [f"{kind}:{shard}" for kind in "lw" for shard in range(64)]
    rows = dict(zip(keys, driver.store.read(task_state.name, keys)[1], strict=True))
    kept = {key: as_of(row, closed) if key[0] == "s" else row for key, row in rows.items() if row is not None}
    return history, dict(forecasts), kept, driver.counts("demand")


def as_of(row: bytes, closed: int) -> bytes:
    """Return a row of a series without what is void after the task's latest close."""
    series = Series.unpack(row)
    series.drop_void(closed)
    return series.pack()


def pipe(driver: TopologyDriver, task: int, watermark: int, rows: list[ActivityRow]) -> None:
    """Say a batch of an upstream task."""
    value = encode_activity(ActivityBatch(task, 2, watermark, rows))
    driver.pipe(ACTIVITY, str(task).encode(), value, partition=0)
    driver.run(checkpoint=False)


@settings(deadline=None, max_examples=80)
@given(
    happenings(),
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.lists(st.integers(0, 1), min_size=1, max_size=8),
    st.sets(st.integers(0, 12), max_size=3),
)
def test_what_is_told_depends_on_the_events_alone(
    happened: list[Happening], cuts: list[int], turns: list[int], crashes: set[int]
) -> None:
    """History, forecasts, their revisions and contents, and the rows: none knows how the upstream tasks were cut, which
    was ahead, or that memory was lost."""
    assert told(happened, cuts, turns, crashes) == told(happened, [40], [0, 1], set())


def test_a_cancellation_after_the_close_revises() -> None:
    """It bears the day of its purchase; the history and the forecast of that day come again as revision 1."""
    noon = 720
    bought = Happening(0, noon, "a", EventKind.PURCHASE, noon, 100)
    cancelled = Happening(0, noon + 1_440, "a", EventKind.CANCEL, noon, 100)
    history, forecasts, _, counts = told([bought, cancelled], [1], [0], set())
    quantities = {key: decode_history(value).quantity for key, value in history.items()}
    start, after = FIRST * DAY_MS, (FIRST + 1) * DAY_MS
    assert quantities == {f"a|{start}|history|0": 1, f"a|{start}|history|1": 0, f"a|{after}|history|0": 0}
    assert set(forecasts) == {f"a|{after}|demand|0", f"a|{after}|demand|1", f"a|{after + DAY_MS}|demand|0"}
    assert counts["buckets_revised"] == 1
