"""Laws of what is remembered: as long as said, whether the row is still there or not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.sets import MEMORY_MS
from schemas.internal import EventKind, decode_activity
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, CLICKSTREAM, EXAMPLES, ORDERS, PREDICTIONS, REDRIVE_HEADER
from streams.settings import Settings, TimeSettings
from streams.topologies.score import ScoreStage

START = 1_700_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR
LATENESS = HOUR
SETTINGS = Settings(time=TimeSettings(allowed_lateness_s=LATENESS // 1_000))
KINDS = ("view", "placed", "paid", "cancelled", "returned")
STEPS = ("", "checkpoint", "checkpoint", "evict", "crash", "checkpoint crash", "wipe crash")


@dataclass(frozen=True)
class Said:
    """What is said, `after` ms from what was said before; `back` ms behind that where it is redriven."""

    after: int
    kind: str
    order: str = "a"
    user: str | None = "u"
    back: int | None = None


def told(log: list[Said], steps: list[str]) -> TopologyDriver:
    """Say it, record by record; after each comes a step, then a click of the user that shows what is left of it."""
    driver = TopologyDriver(SETTINGS, [ScoreStage], now_ms=START + 1_000 * DAY)
    now = latest = START
    for number, said in enumerate(log):
        now += said.after
        latest = max(latest, now)
        driver.mark_time(latest)
        topic = CLICKSTREAM if said.kind == "view" else ORDERS
        headers = () if said.back is None else ((REDRIVE_HEADER, b"letter"),)
        driver.pipe(topic, b"", json.dumps(event(said, number, now)).encode(), headers=headers)
        step(driver, latest, steps[number % len(steps)])
        driver.pipe(CLICKSTREAM, b"", json.dumps(event(Said(0, "view"), len(log) + number, now)).encode())
        step(driver, latest, steps[(number + 1) % len(steps)])
    return driver


def event(said: Said, number: int, now: int) -> dict[str, object]:
    """Return it as the topics have it."""
    told = {"event_id": f"e{number}", "time": now - (said.back or 0), "user_id": said.user, "session_id": said.order}
    if said.kind == "view":
        return told | {"type": "view", "product_id": "p"}
    lines = [{"product_id": f"p-{said.order}", "quantity": 2 if said.kind in ("placed", "paid") else 1}]
    return told | {"order_id": said.order, "status": said.kind, "lines": lines}


def step(driver: TopologyDriver, now: int, how: str) -> None:
    """Work off what is there, and let the task's rows be written and swept, be evicted, or be rebuilt."""
    driver.mark_time(now + 1)
    driver.run(checkpoint=False)
    if "checkpoint" in how:
        driver.checkpoint("score")
    if "evict" in how:
        driver.checkpoint("score")
        driver.tasks("score")[0].trim(0)
    if "wipe" in how:
        driver.store.rows.clear()
        driver.store.periods.clear()
    if "crash" in how:
        driver.crash("score")


def outputs(driver: TopologyDriver) -> list[bytes | None]:
    return [record.value for topic in (ACTIVITY, EXAMPLES, PREDICTIONS) for record in driver.output(topic)]


GAPS = st.sampled_from((0, 1, HOUR, 5 * DAY, 15 * DAY, MEMORY_MS - 1, MEMORY_MS, MEMORY_MS + 1, 32 * DAY, 60 * DAY))
LOGS = st.lists(
    st.builds(
        Said,
        after=GAPS | st.sampled_from((-1, -LATENESS)),
        kind=st.sampled_from(KINDS),
        order=st.sampled_from("ab"),
        user=st.sampled_from(("u", "u", None)),
        back=st.none() | st.none() | GAPS,
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(LOGS, st.lists(st.sampled_from(STEPS), min_size=1, max_size=7))
@example([Said(0, "placed"), Said(15 * DAY, "placed", "b", None), Said(18 * DAY, "cancelled")], ["checkpoint"])
def test_sweeps_evictions_and_restarts_show_in_no_output(log: list[Said], steps: list[str]) -> None:
    """The same log gives the same bytes, whenever rows were swept, evicted, or read again after a crash."""
    assert outputs(told(log, steps)) == outputs(told(log, [""]))


@pytest.mark.parametrize(("kind", "swept"), list(product(("paid", "cancelled", "returned"), (False, True))))
@pytest.mark.parametrize(("after", "known"), [(MEMORY_MS, True), (MEMORY_MS + 1, False), (45 * DAY, False)])
def test_an_order_is_known_for_the_feature_memory(kind: str, after: int, known: bool, swept: bool) -> None:
    """It is undone, or paid without being bought twice, up to 30 days after it, however often its customer came back.

    Counted is from its own time to that of what is said of it.
    """
    log = [Said(0, "placed"), Said(after - DAY, "placed", "b"), Said(DAY, kind)]
    driver = told(log, ["checkpoint"] if swept else [""])
    rows = [row for one in driver.output(ACTIVITY) for row in decode_activity(one.value or b"").rows]
    of_order = [(row.kind, row.time) for row in rows if row.product_id == "p-a"]
    bought = (EventKind.PURCHASE, START)
    if kind == "paid":
        assert of_order == ([bought] if known else [bought, (EventKind.PURCHASE, START + after)])
    else:
        undone = EventKind.CANCEL if kind == "cancelled" else EventKind.RETURN
        assert of_order == ([bought, (undone, START)] if known else [bought])


@pytest.mark.parametrize("swept", [False, True])
def test_what_is_redriven_is_remembered_from_then_on(swept: bool) -> None:
    """An order of 40 days ago, redriven with its payment and its cancellation, was bought once and then undone."""
    back = 40 * DAY
    log = [Said(0, "placed", "b"), Said(50 * DAY, "placed", back=back), Said(HOUR, "paid", back=back)]
    log += [Said(5 * DAY, "cancelled", back=back)]
    driver = told(log, ["checkpoint"] if swept else [""])
    rows = [row for one in driver.output(ACTIVITY) for row in decode_activity(one.value or b"").rows]
    placed = START + 10 * DAY
    of_order = [(row.kind, row.time, row.quantity) for row in rows if row.product_id == "p-a"]
    assert of_order == [(EventKind.PURCHASE, placed, 2), (EventKind.CANCEL, placed, -2)]
