"""What happens in a category, told by score to demand, kept in its row, and shown to score again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from features.sets import DAY, SCORE_FEATURES
from schemas.internal import CategoryRow, EventKind, Example, decode_activity, decode_examples, encode_activity
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.logs import RecordedTopics
from streams.records import ACTIVITY, CLICKSTREAM, EXAMPLES, ORDERS
from streams.settings import RuntimeSettings, ScoreSettings, Settings
from streams.topologies.layout import activity_partition
from streams.topologies.score import ScoreStage
from streams.verification.features import verify_features
from streams.verification.report import By

START = 19_000 * DAY
HOUR = DAY // 24
SETTINGS = Settings(score=ScoreSettings(product_staleness_ms=0))
PARTITIONS = 3


def click(driver: TopologyDriver, number: int, time: int, **fields: Any) -> None:
    """Let a user view something."""
    told = {"event_id": f"e{number}", "type": "view", "time": time, "product_id": "p", "user_id": "u", **fields}
    driver.pipe(CLICKSTREAM, b"u", json.dumps(told).encode())


def order(driver: TopologyDriver, number: int, time: int, status: str, *lines: tuple[str, str | None]) -> None:
    """Tell an order of lines (product, category)."""
    bought = [{"product_id": product, "category_id": category, "unit_price": 700} for product, category in lines]
    told = {"event_id": f"o{number}", "order_id": "o", "status": status, "time": time, "user_id": "u", "lines": bought}
    driver.pipe(ORDERS, b"u", json.dumps(told).encode())


def shop(*stages: Any, now: int = 9 * DAY, settings: Settings = SETTINGS) -> TopologyDriver:
    """Return a driver of three tasks a stage."""
    return TopologyDriver(settings, [ScoreStage, *stages], partitions=PARTITIONS, now_ms=START + now)


def told(driver: TopologyDriver) -> list[tuple[int, CategoryRow]]:
    """Return all category rows of activity, each with its partition."""
    return [
        (record.input.partition, row)
        for record in driver.output(ACTIVITY)
        for row in decode_activity(record.value or b"").categories
    ]


def examples(driver: TopologyDriver) -> dict[int, Example]:
    """Return the examples by their times."""
    return {
        example.as_of: example
        for record in driver.output(EXAMPLES)
        for example in decode_examples(record.value or b"").examples
    }


def named(example: Example) -> dict[str, float]:
    """Return a vector by the names of its columns."""
    return dict(zip(SCORE_FEATURES, np.frombuffer(example.vector, "<f8").tolist(), strict=True))


def test_each_event_on_a_product_tells_its_category_in_the_categorys_partition() -> None:
    """Clicks of known and unknown users and order lines, undone at the time of the purchase; without category none."""
    driver = shop()
    click(driver, 1, START, category_id="c", unit_price=500)
    click(driver, 2, START + 1, category_id="d", type="add_to_cart", user_id=None)
    click(driver, 3, START + 2)
    click(driver, 4, START + 3, category_id="e", type="search", product_id=None)
    order(driver, 1, START + 4, "placed", ("p", "c"), ("q", "ü"), ("r", None))
    order(driver, 2, START + HOUR, "cancelled", ("p", "c"))
    driver.mark_time(START + DAY)
    driver.run()
    expected = [
        CategoryRow("c", int(EventKind.VIEW), START, 500),
        CategoryRow("d", int(EventKind.ADD_TO_CART), START + 1, -1),
        *(CategoryRow(name, int(EventKind.PURCHASE), START + 4, 700) for name in "cü"),
        *(CategoryRow(name, int(EventKind.CANCEL), START + 4, 700) for name in "cü"),
    ]
    found = told(driver)
    assert sorted((row for _, row in found), key=repr) == sorted(expected, key=repr)
    assert all(partition == activity_partition(row.category_id, PARTITIONS) for partition, row in found)


@pytest.mark.parametrize("by", ["engine", "oracle"])
def test_what_happened_in_a_category_comes_back_to_score(by: By) -> None:
    """Of all products and users of the category, through a crash: counts, conversion and price against the mean."""
    driver = shop(quiet_demand_stage)
    for number, (product, price) in enumerate((("p", 100), ("q", 200), ("r", 600))):
        click(driver, number, START + number * 60_000, product_id=product, category_id="c", unit_price=price)
    click(driver, 3, START + HOUR, product_id="q", category_id="c", type="add_to_cart", user_id=None)
    order(driver, 1, START + 2 * HOUR, "placed", ("p", "c"), ("q", "c"))
    driver.mark_time(START + 3 * HOUR)
    driver.run()
    driver.crash("demand")
    driver.crash("score")
    click(driver, 10, START + 3 * HOUR + 1, product_id="new", category_id="c", unit_price=50)
    order(driver, 2, START + 4 * HOUR, "returned", ("p", "c"))
    driver.mark_time(START + DAY)
    driver.run()
    click(driver, 11, START + DAY + 1, product_id=None, type="search", category_id="c", unit_price=700)
    click(driver, 12, START + DAY + 2, product_id="p", unit_price=700)
    click(driver, 13, START + DAY + 3, product_id="p", category_id="never seen", unit_price=700)
    driver.mark_time(START + 2 * DAY)
    driver.run()
    found = examples(driver)
    names = [name for name in SCORE_FEATURES if name.startswith("category_")]
    shown = {at: {name: named(example)[name] for name in names} for at, example in found.items()}
    counts = dict(zip(names[:6], (0, 3, 3, 1, 2, 2), strict=True))
    same_day = {**counts, "category_conversion_30d": 3 / 53, "category_price_ratio": 1.0}
    assert shown[START + 3 * HOUR + 1] == pytest.approx(same_day)
    # A mean of (100 + 200 + 600 + 700 + 700 + 50) / 6, the cart's price being unknown.
    counts = dict(zip(names[:6], (0, 1, 4, 1, 1, 1), strict=True))
    next_day = {**counts, "category_conversion_30d": 2 / 54, "category_price_ratio": 700 / (2_350 / 6)}
    assert shown[START + DAY + 1] == pytest.approx(next_day)
    nothing = {**dict.fromkeys(names, 0.0), "category_conversion_30d": 1 / 50, "category_price_ratio": 1.0}
    assert shown[START + DAY + 2] == shown[START + DAY + 3] == nothing
    assert found[START + DAY + 1].product_version is None
    assert found[START + DAY + 2].category_version is found[START + DAY + 3].category_version is None
    version = found[START + DAY + 1].category_version
    assert version is not None
    assert version[0] == activity_partition("c", PARTITIONS)
    report = verify_features(RecordedTopics.of(driver), SETTINGS, by=by)
    assert (report.clean, report.compared) == (True, len(found)), report


def test_rows_of_a_category_and_a_product_of_one_name_are_two() -> None:
    """A product named as a category is another row: each shows what happened to itself."""
    driver = shop(quiet_demand_stage)
    click(driver, 1, START, product_id="x", category_id="c")
    for number in range(3):
        click(driver, 10 + number, START + number, product_id="p", category_id="x")
    driver.mark_time(START + HOUR)
    driver.run()
    click(driver, 20, START + 2 * HOUR, product_id="x", category_id="x")
    driver.mark_time(START + DAY)
    driver.run()
    values = named(examples(driver)[START + 2 * HOUR])
    assert (values["product_views_1d"], values["category_views_1d"]) == (1, 3)


def test_activity_without_categories_is_as_good_as_ever() -> None:
    """What was written before there were categories is applied to products, and leaves no category's row."""
    source, driver = shop(), shop(quiet_demand_stage)
    click(source, 1, START, category_id="c")
    source.mark_time(START + DAY)
    source.run()
    for record in source.output(ACTIVITY):
        batch = decode_activity(record.value or b"")
        told_before = {name: getattr(batch, name) for name in ("task", "tasks", "watermark", "rows")}
        value = encode_activity(type(batch)(**told_before))
        driver.pipe(ACTIVITY, record.key, value, partition=record.input.partition)
    driver.run()
    keys = [key for _, key in driver.store.rows]
    assert "p:p" in keys
    assert not any(key.startswith("c:") for key in keys)


def test_rows_of_categories_are_forgotten_with_their_last_event() -> None:
    """A category that nobody names any more leaves the store when nothing of it can count any longer."""
    driver = shop(quiet_demand_stage, now=200 * DAY)
    click(driver, 1, START, category_id="old")
    for day in range(1, 120):
        click(driver, 10 + day, START + day * DAY, category_id="new", product_id=f"p{day}")
        driver.mark_time(START + day * DAY + HOUR)
        driver.run()
    kept = {key for _, key in driver.store.rows if key.startswith("c:")}
    assert kept == {"c:new"}


def test_few_rows_of_categories_are_kept_in_memory() -> None:
    """With a cache of few rows, those of many categories come and go, and what is shown stays right."""
    driver = shop(
        quiet_demand_stage, settings=SETTINGS.model_copy(update={"runtime": RuntimeSettings(cache_max_rows=5)})
    )
    for start in range(0, 300, 50):
        for number in range(start, start + 50):
            click(driver, number, START + number, category_id=f"c{number % 75}", product_id="p")
        driver.mark_time(START + start + 50)
        driver.run()
    for number in range(75):
        click(driver, 1_000 + number, START + 2 * HOUR + number, category_id=f"c{number}", type="search")
    driver.mark_time(START + DAY)
    driver.run()
    late = [named(example) for at, example in examples(driver).items() if at >= START + 2 * HOUR]
    assert [values["category_views_1d"] for values in late] == [4.0] * 75
