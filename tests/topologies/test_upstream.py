"""Laws of what stands between the stages: one foreign record misleads nobody, whatever it says."""

from __future__ import annotations

import pytest

from schemas.internal import (
    ActivityBatch,
    ActivityRow,
    EventKind,
    Example,
    ExampleBatch,
    Outcome,
    encode_activity,
    encode_examples,
)
from schemas.outputs import decode_dead_letter
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, DEADLETTERS, EXAMPLES, HISTORY
from streams.settings import DemandSettings, Settings
from streams.topologies.learn import LearnStage

DAY_MS = 86_400_000
FIRST = 15_000
NOW = (FIRST + 30) * DAY_MS
FUTURE = NOW + 400 * DAY_MS


def sales(day: int, *, time: int | None = None, at: int = 0) -> list[ActivityRow]:
    """Return a sale on a day."""
    stamp = (FIRST + day) * DAY_MS + 5 if time is None else time
    return [ActivityRow("p", None, EventKind.PURCHASE, stamp, 1, 100, 100, True, at)]


FOREIGN_ACTIVITY = {
    "a task beyond the count": ActivityBatch(99, 1, None, []),
    "another number of tasks": ActivityBatch(0, 2, NOW, []),
    "a watermark of the future": ActivityBatch(0, 1, FUTURE, []),
    "a sale of the future": ActivityBatch(0, 1, None, sales(0, time=FUTURE)),
    "a change of the future": ActivityBatch(0, 1, None, sales(0, at=FUTURE)),
}


def demand(foreign: ActivityBatch | None) -> tuple[list[tuple[bytes | None, bytes | None]], list[str]]:
    """Return history over days of sales with a foreign record amid them, and the reasons of dead letters."""
    settings = Settings(demand=DemandSettings(retire_after=3, horizon=1))
    driver = TopologyDriver(settings, [quiet_demand_stage], now_ms=NOW)
    for day in range(10):
        batch = ActivityBatch(0, 1, (FIRST + day) * DAY_MS, sales(day))
        driver.pipe(ACTIVITY, b"0", encode_activity(batch), partition=0)
        if day == 5 and foreign is not None:
            driver.pipe(ACTIVITY, b"?", encode_activity(foreign), partition=0)
        driver.run()
        if day == 6:
            driver.crash("demand")
    reasons = [decode_dead_letter(record.value or b"").reason for record in driver.output(DEADLETTERS)]
    return [(record.key, record.value) for record in driver.output(HISTORY)], reasons


@pytest.mark.parametrize("what", FOREIGN_ACTIVITY)
def test_demand_is_not_misled(what: str) -> None:
    """Buckets close as if it were not there; it is in the dead letters."""
    undisturbed, none = demand(None)
    assert len(undisturbed) >= 8
    assert none == []
    assert demand(FOREIGN_ACTIVITY[what]) == (undisturbed, ["invalid"])


def test_a_watermark_never_falls() -> None:
    """A lower one, or none, moves nothing back."""
    settings = Settings(demand=DemandSettings(retire_after=3, horizon=1))
    driver = TopologyDriver(settings, [quiet_demand_stage], now_ms=NOW)
    for watermark in ((FIRST + 5) * DAY_MS, None, (FIRST + 1) * DAY_MS):
        driver.pipe(ACTIVITY, b"0", encode_activity(ActivityBatch(0, 1, watermark, [])), partition=0)
        driver.run()
        assert driver.tasks("demand")[0].state.watermark() == (FIRST + 5) * DAY_MS


EXAMPLE = Example("i", "u", (FIRST + 1) * DAY_MS, b"", (0, 0), None, 0.5, "m")
FOREIGN_EXAMPLES = {
    "another task's partition": ExampleBatch(1, 2, None, "h", [], []),
    "another number of tasks": ExampleBatch(0, 3, None, "h", [], []),
    "a watermark of the future": ExampleBatch(0, 2, FUTURE, "h", [], []),
    "an example of the future": ExampleBatch(
        0, 2, None, "h", [Example("i", "u", FUTURE, b"", (0, 0), None, 0.5, "m")], []
    ),
    "an outcome of the future": ExampleBatch(0, 2, None, "h", [], [Outcome("order", "u", "o", FUTURE)]),
}


@pytest.mark.parametrize("what", FOREIGN_EXAMPLES)
def test_the_learner_is_not_misled(what: str) -> None:
    """It is in the dead letters; time goes on, and nothing is kept for it."""
    driver = TopologyDriver(Settings(), [LearnStage], partitions=2, now_ms=NOW)
    driver.pipe(EXAMPLES, b"0", encode_examples(FOREIGN_EXAMPLES[what]), partition=0)
    for day in range(10):
        for task in (0, 1):
            batch = ExampleBatch(task, 2, (FIRST + day) * DAY_MS, "h", [EXAMPLE] if day == 1 else [], [])
            driver.pipe(EXAMPLES, b"0", encode_examples(batch), partition=task)
    driver.run()
    [letter] = driver.output(DEADLETTERS)
    assert decode_dead_letter(letter.value or b"").reason == "invalid"
    state = driver.tasks("learn")[0].state
    assert state.watermark() == (FIRST + 9) * DAY_MS
    floor = state.floor() or {}
    assert [offset for _, offset in sorted(floor.items())] == [10, 9]
