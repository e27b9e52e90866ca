"""The features that the peers' jobs compute are Tidecast's, where the definitions coincide."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.peers.features import FEATURES, KINDS, WINDOWS, new_row, score, vector
from features.columns import Event
from features.oracle import UserOracle
from features.sets import DAY, HOUR, MINUTE, SCORE_SET, USER_ENTITIES, USER_WINDOWS

law = settings(deadline=None, max_examples=40)
SAME = {feature.name for feature in SCORE_SET if feature.entity in USER_ENTITIES} & set(FEATURES)
START = 1_700_000_000_000 // (30 * DAY) * 30 * DAY
"""Where Tidecast cuts sessions: within 30 days of it, it does not."""
STEPS = (0, 1, 40_000, 5 * MINUTE, 30 * MINUTE, 30 * MINUTE + 1, HOUR, 6 * HOUR, DAY, 8 * DAY)


@st.composite
def _clicks(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Clicks of one user in order, within 30 days unless they bring no session."""
    clicks: list[dict[str, Any]] = []
    within = draw(st.booleans())
    time = START
    for number in range(draw(st.integers(1, 40))):
        time += draw(st.sampled_from(STEPS))
        if within and time >= START + 30 * DAY:
            break
        clicks.append(
            {
                "event_id": f"e{number}",
                "type": draw(st.sampled_from(tuple(KINDS))),
                "time": time,
                "user_id": "u",
                "session_id": draw(st.sampled_from((None, None, "a", "b"))),
                "product_id": draw(st.sampled_from((None, "p", "q", "r"))),
                "category_id": draw(st.sampled_from((None, "c", "d", "e"))),
                "unit_price": draw(st.sampled_from((None, 0, 1, 250))),
                "quantity": draw(st.integers(1, 3)),
            }
        )
    return clicks


def _event(click: dict[str, Any]) -> Event:
    price = -1 if click["unit_price"] is None else click["unit_price"]
    bought = max(price, 0) * click["quantity"] if click["type"] == "purchase" else 0
    ids = click["product_id"], click["session_id"]
    category = click["category_id"]
    told = click["quantity"], bought, price
    return Event(click["user_id"], KINDS[click["type"]], click["time"], *ids, *told, category=category)


def _click(number: int, kind: str, time: int, price: int | None) -> dict[str, Any]:
    named = dict.fromkeys(("session_id", "product_id", "category_id"))
    return {
        "event_id": f"e{number}",
        "type": kind,
        "time": time,
        "user_id": "u",
        "unit_price": price,
        "quantity": 1,
    } | named


@law
@given(_clicks())
@example([_click(0, "view", START, 1), _click(1, "view", START + 30 * DAY, None)])
def test_events_in_order_have_the_features_of_the_oracle(clicks: list[dict[str, Any]]) -> None:
    """Every feature of user and session that both name is equal, event by event."""
    row, oracle, products = new_row(), UserOracle(), dict[str, list[int]]()
    calm = clicks[-1]["time"] < START + 30 * DAY
    for click in clicks:
        found = dict(zip(FEATURES, vector(row, products, click), strict=True))
        expected = oracle.apply(_event(click))
        names = SAME if calm else {name for name in SAME if not name.startswith("session_")}
        assert {name: found[name] for name in names} == pytest.approx(
            {name: expected[name] for name in names}, abs=1e-4
        )


def test_there_are_enough_features_and_most_are_the_same() -> None:
    """At least 40, over the windows of Tidecast; of the user's and the session's, only the return rate is left out."""
    assert len(FEATURES) >= 40
    assert {window.name: (window.tile_ms, window.tiles) for window in USER_WINDOWS} == WINDOWS
    both = {feature.name for feature in SCORE_SET if feature.entity in USER_ENTITIES}
    assert both - SAME == {"user_return_rate_30d"}


@law
@given(_clicks(), st.randoms(use_true_random=False))
def test_late_events_count_where_they_belong(clicks: list[dict[str, Any]], chance: Any) -> None:
    """Whatever order events within a window arrive in, its totals are those of its tiles."""
    chance.shuffle(clicks)
    row = new_row()
    for click in clicks:
        score(row, {}, click)
    for (tile_ms, length), window in zip(WINDOWS.values(), row["windows"], strict=True):
        tiles = [tile[0] for tile in window["tiles"]]
        newest = max(click["time"] for click in clicks) // tile_ms
        counted = [click["time"] // tile_ms for click in clicks if click["time"] // tile_ms > newest - length]
        assert tiles == sorted(set(tiles)) == sorted(set(counted))
        assert sum(window["totals"][:6]) == len(counted)
        assert window["totals"] == [sum(column) for column in list(zip(*window["tiles"], strict=True))[1:]]


@law
@given(_clicks())
def test_state_survives_json(clicks: list[dict[str, Any]]) -> None:
    """A state that went through JSON at every event says the same."""
    kept, written = new_row(), new_row()
    for click in clicks:
        written = json.loads(json.dumps(written))
        assert score(written, {}, click) == score(kept, {}, click)
