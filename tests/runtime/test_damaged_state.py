"""Laws of stored bytes that are not what was written: a worker says so with the repair, and guesses nothing."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.driver import TopologyDriver
from streams.errors import RecoveryError
from streams.settings import Settings
from streams.topologies.demand import DemandStage
from streams.topologies.learn import LearnStage
from streams.topologies.score import ScoreStage

T0 = 1_700_000_100_000
HOUR = 3_600_000
Place = tuple[str, str]
"""A task's name and a key of it."""


def _write(driver: TopologyDriver) -> None:
    for i in range(300):
        driver.now_ms = time = T0 + i * HOUR
        user, product = f"u{i % 7}", f"p{i % 5}"
        line = {"product_id": product, "category_id": f"c{i % 3}"}
        told = {"event_id": f"{i}", "time": time, "user_id": user}
        click = {**told, **line, "type": "view", "session_id": f"s{i // 9}", "price": 500 + i}
        driver.pipe("clickstream", user.encode(), json.dumps(click).encode())
        if i % 4 == 0:
            order = {**told, "order_id": f"o{i}", "status": "placed", "lines": [{**line, "unit_price": 500 + i}]}
            driver.pipe("orders", user.encode(), json.dumps(order).encode())
        if i % 60 == 0:
            driver.mark_time(time)
            driver.run()
    driver.mark_time(T0 + 299 * HOUR + 1)
    driver.run()


STAGES = (ScoreStage, DemandStage, LearnStage)
DRIVER = TopologyDriver(Settings(), STAGES, partitions=2)
_write(DRIVER)
WHOLE = dict(DRIVER.store.rows)
KINDS: dict[tuple[str, str], list[Place]] = defaultdict(list)
for _task, _key in sorted(WHOLE):
    KINDS[_task.partition(".")[0], _key.partition(":")[0]].append((_task, _key))


def _read(place: Place, damaged: bytes) -> None:
    """Restart the stage of a row that is damaged, and read that row."""
    task, key = place
    DRIVER.store.rows = {**WHOLE, place: damaged}
    stage, number = task.partition(".")[0], int(task.rpartition("-")[2])
    try:
        DRIVER.crash(stage)
        DRIVER.tasks(stage)[number].load({key: damaged})
    finally:
        DRIVER.store.rows = dict(WHOLE)


@st.composite
def places(draw: st.DrawFn) -> Place:
    """A row of any kind, each kind as often as the others."""
    return draw(st.sampled_from(KINDS[draw(st.sampled_from(sorted(KINDS)))]))


def test_every_kind_of_row_is_among_them() -> None:
    """What the stages write is what the other laws are about; whole rows are read."""
    assert sorted(KINDS) == [
        *(("demand", kind) for kind in "chlps"),
        *(("learn", kind) for kind in ("h", "model")),
        *(("score", kind) for kind in "dhou"),
    ]
    for places_of_kind in KINDS.values():
        _read(places_of_kind[0], WHOLE[places_of_kind[0]])


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(place=places(), data=st.data())
def test_a_row_that_was_cut_is_refused(place: Place, data: st.DataObject) -> None:
    """The error names the task and the command that repairs it."""
    row = WHOLE[place]
    left = data.draw(st.integers(0, len(row) - 1))
    if place[1].startswith("d:") and left:
        left -= left % 16 - 1  # ids stand by themselves: what is cut between two of them is a shorter row
    with pytest.raises(RecoveryError, match=f"tidecast state reset {place[0]}"):
        _read(place, row[:left])


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=400)
@given(place=places(), at=st.floats(0, 1), put=st.binary(min_size=1, max_size=12), cut=st.integers(0, 12))
def test_a_row_with_other_bytes_in_it_is_read_or_refused(place: Place, at: float, put: bytes, cut: int) -> None:
    """Nothing else ends the worker, whatever the bytes are."""
    row = WHOLE[place]
    start = int(at * len(row))
    try:
        _read(place, row[:start] + put + row[start + cut :])
    except RecoveryError as error:
        assert place[0] in str(error)  # noqa: PT017 (that it is read is as good)


def test_a_scorer_says_whose_row_it_could_not_read() -> None:
    """A product's row is not its own: the repair names the task of demand."""
    product = KINDS["demand", "p"][0]
    task = DRIVER.tasks("score")[0]
    with pytest.raises(RecoveryError, match=f"tidecast state reset {product[0]}"):
        task.load_foreign(product[0], {product[1]: WHOLE[product][:-1]}, T0)
