"""Laws of what training sees: the same as serving, and nothing that a demand task has yet to close."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.network import SequenceNetwork, tensors_of
from models.promotion import histories
from models.sequence import SequenceForecaster, SequenceSpec
from models.windows import Panel
from schemas.codec import decode_plan
from schemas.internal import ActivityBatch, ActivityRow, EventKind, encode_activity
from schemas.outputs import HistoryBucket, decode_history
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, HISTORY, PLAN
from streams.settings import DemandSettings, Settings
from streams.topologies.calendar import Calendar
from streams.topologies.demand import DemandStage
from streams.topologies.facts import Facts
from streams.topologies.layout import activity_partition
from streams.train import closed_through, with_plan

DAY_MS = 86_400_000
FIRST = 15_000
DAYS = 70
HORIZON = 5
REST = 3
SPEC = SequenceSpec("D", "UTC", horizon=HORIZON, context=56, hidden=6, head=5)
SOLD_ON = {
    "steady": range(DAYS),
    "young": range(50, DAYS),
    "woken": (*range(10), *range(60, DAYS)),
    "rare": range(6, DAYS, 7),
}


@pytest.fixture(scope="module")
def shop() -> tuple[DemandStage, TopologyDriver, list[bytes]]:
    """Run the demand stage over sales of old, young, resting and woken products, with a temperature planned ahead."""
    chosen = Settings(demand=DemandSettings(horizon=HORIZON, retire_after=REST))
    stages: list[DemandStage] = []

    def stage(settings: Settings) -> DemandStage:
        stages.append(DemandStage(settings))
        return stages[-1]

    driver = TopologyDriver(chosen, [stage], now_ms=(FIRST + 1_000) * DAY_MS)
    plans = []
    for day in range(DAYS + HORIZON + 1):
        for product, value in ((None, 20 + 10 * np.sin(day)), ("young", 5.0 + day)):
            if product is None or day % 9 == 0:
                entry = {"event_id": f"{product}{day}", "product_id": product, "time": (FIRST + day) * DAY_MS}
                plans.append(json.dumps(entry | {"covariates": {"temperature": value}}).encode())
                driver.pipe(PLAN, (product or "").encode(), plans[-1])
    for day in range(DAYS):
        at = (FIRST + day) * DAY_MS
        rows = [
            ActivityRow(product, None, EventKind.PURCHASE, at + 5, 1 + (day * 7) % 5, 0, -1, True)
            for product, days in SOLD_ON.items()
            if day in days
        ]
        driver.pipe(ACTIVITY, b"0", encode_activity(ActivityBatch(0, 1, at + DAY_MS, rows)), partition=0)
        driver.run()
    return stages[-1], driver, plans


def test_training_sees_what_serving_sees(shop: tuple[DemandStage, TopologyDriver, list[bytes]]) -> None:
    """The panel's latest windows and those of the worker give one network the same forecasts, to the bit."""
    stage, driver, plans = shop
    facts = Facts()
    for plan in plans:
        facts.learn(decode_plan(plan))
    calendar = Calendar("D", "UTC")
    rows = [decode_history(record.value or b"") for record in driver.output(HISTORY)]
    panel = Panel.from_rows(rows, "D", "UTC")
    ahead = np.concatenate([panel.quantity, np.full((len(panel.products), HORIZON), np.nan)], axis=1)
    wide = Panel("D", "UTC", panel.products, panel.first_index, ahead, *([ahead] * 4))
    planned = with_plan(wide, facts, calendar)
    spec = SPEC.with_covariates(("temperature",), np.array([20.0]), np.array([7.0]))
    forecaster = SequenceForecaster.from_tensors(spec, tensors_of(SequenceNetwork(spec)))
    trained = histories(with_plan(panel, facts, calendar), planned, np.arange(len(panel.products)), HORIZON)
    number = panel.first_index + panel.buckets - 1
    state = driver.tasks("demand")[0].state
    served = [
        stage.models.history(forecaster, product, state._series[product], number, stage.facts)  # type: ignore[attr-defined]
        for product in panel.products
    ]
    for product, one, other in zip(panel.products, trained, served, strict=True):
        for mine, theirs in zip(forecaster.forecast([one]), forecaster.forecast([other]), strict=True):
            assert mine.tobytes() == theirs.tobytes(), product


def rows_of(last: dict[str, int]) -> list[HistoryBucket]:
    """Return rows of one sale a day of each product, up to its last day."""
    return [
        HistoryBucket(
            id=f"{product}|{day}",
            product_id=product,
            bucket_start=(FIRST + day) * DAY_MS,
            freq="D",
            quantity=0 if product.startswith("resting") and day > until - REST else 1,
            value_minor=0,
            views=0,
            carts=0,
            price=None,
            covariates={},
            revision=0,
        )
        for product, until in last.items()
        for day in range(until + 1)
    ]


def test_nothing_is_trained_on_that_a_task_has_yet_to_close() -> None:
    """The slowest task with a living series sets the end; series at rest, however long, hold nobody back."""
    calendar = Calendar("D", "UTC")
    tasks = 2
    names = [f"p{n}" for n in range(50)]
    mine, other = ([name for name in names if activity_partition(name, tasks) == task] for task in (0, 1))
    fast, slow = dict.fromkeys(mine, 40), dict.fromkeys(other, 33)
    resting = {f"resting{n}": 20 for n in range(10)}

    def through(last: dict[str, int]) -> int | None:
        found = closed_through(rows_of(last), calendar, tasks, REST)
        return None if found is None else found - FIRST

    assert through(fast | slow | resting) == 33
    assert through(fast | resting) == 40
    assert through(resting) is None
