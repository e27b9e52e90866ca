"""Who viewed a product, told by score to demand, kept in its row, and shown to score again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from features.hashing import visitors
from features.sets import DAY, SCORE_FEATURES
from schemas.internal import ActivityRow, EventKind, decode_activity, decode_examples
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.logs import RecordedTopics
from streams.records import ACTIVITY, CLICKSTREAM, EXAMPLES
from streams.settings import ScoreSettings, Settings
from streams.topologies.score import ScoreStage
from streams.verification.features import verify_features

START = 19_000 * DAY
SETTINGS = Settings(score=ScoreSettings(product_staleness_ms=0))


def pipe(driver: TopologyDriver, number: int, time: int, user: str | None, kind: str = "view") -> None:
    """Let a user, or an unknown one, do something to the product p."""
    click = {"event_id": f"e{number}", "type": kind, "time": time, "product_id": "p", "user_id": user}
    driver.pipe(CLICKSTREAM, (user or "s").encode(), json.dumps(click).encode())


def rows(driver: TopologyDriver) -> list[ActivityRow]:
    """Return all rows of activity."""
    return [row for one in driver.output(ACTIVITY) for row in decode_activity(one.value or b"").rows]


def test_views_of_known_users_name_the_visitor() -> None:
    """Every view bears the hash of its user, whatever the task; unknown users and other kinds bear 0."""
    driver = TopologyDriver(SETTINGS, [ScoreStage], partitions=2, now_ms=START + DAY)
    users = ["u1", "u2", None, "u1", "ü"]
    kinds = ["view", "add_to_cart", "search", "wishlist", "remove_from_cart", "purchase"]
    for place, kind in enumerate(kinds):
        for number, user in enumerate(users):
            pipe(driver, 10 * place + number, START + place, user, kind)
    driver.mark_time(START + DAY)
    driver.run()
    told = sorted(row.visitor for row in rows(driver) if row.kind == EventKind.VIEW)
    assert told == sorted(visitors(users))
    assert {row.visitor for row in rows(driver) if row.kind != EventKind.VIEW} == {0}
    assert len(rows(driver)) == len(users) * len(kinds)


@pytest.mark.parametrize("by", ["engine", "oracle"])
def test_visitors_of_yesterday_come_back_to_score(by: str) -> None:
    """Views of three users over two tasks, some twice, one unknown: the next day's clicks are shown about three."""
    driver = TopologyDriver(SETTINGS, [ScoreStage, quiet_demand_stage], partitions=2, now_ms=START + 9 * DAY)
    for number, user in enumerate(("u1", "u2", "u3", "u1", None, "u2")):
        pipe(driver, number, START + number * 60_000, user)
    driver.mark_time(START + DAY // 2)
    driver.run()
    driver.crash("demand")
    pipe(driver, 10, START + DAY - 1, "u1")
    pipe(driver, 11, START + DAY, "u1")
    driver.mark_time(START + DAY + DAY // 2)
    driver.run()
    pipe(driver, 12, START + 2 * DAY, "u2")
    driver.mark_time(START + 3 * DAY)
    driver.run()
    shown = {
        example.as_of: np.frombuffer(example.vector, "<f8")
        for record in driver.output(EXAMPLES)
        for example in decode_examples(record.value or b"").examples
    }
    places = [SCORE_FEATURES.index(name) for name in ("product_visitors_1d", "product_visitors_7d")]
    found = {at: [round(vector[place]) for place in places] for at, vector in shown.items() if at >= START + DAY - 1}
    assert found == {START + DAY - 1: [0, 0], START + DAY: [3, 3], START + 2 * DAY: [1, 3]}
    assert verify_features(RecordedTopics.of(driver), SETTINGS, by=by).clean  # type: ignore[arg-type]
