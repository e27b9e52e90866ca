"""The oracle's products and categories: their features by brute force from activity. See `features.oracle`."""

from __future__ import annotations

from collections.abc import Sequence

from features.algebra import Decayed, HyperLogLog, Ratio, Total, result
from features.sets import DAY, HOUR, MINUTE, SCORE_SET, VALUE_LIMIT, VISITORS_LIMIT, Activity
from schemas.internal import ActivityRow, CategoryRow, EventKind

ActivityLike = ActivityRow | CategoryRow
"""A row of a product's activity, or of a category's."""

KINDS = {kind.name.lower(): int(kind) for kind in EventKind}
KEPT = {5 * MINUTE: 24, HOUR: 26, DAY: 32}
"""How many tiles a row keeps behind its newest stamp: older ones are gone, however far behind the reader stands."""
KEPT_VISITORS = 9
"""The same of the days of visitors."""


def _readable(row: ActivityLike, newest: int, now: int, coarsest_ms: int) -> bool:
    """Return whether a row whose newest stamp is `newest` lets a reader at `now` see this one.

    It lies in the coarsest tile, up to `coarsest_ms`, that is finished at `now`; the ring must still keep that tile.
    """
    tile_ms = coarsest_ms
    if tile_ms == DAY and row.time // DAY >= now // DAY:
        tile_ms = HOUR
    if tile_ms == HOUR and row.time // HOUR >= now // HOUR:
        tile_ms = 5 * MINUTE
    return newest // tile_ms - KEPT[tile_ms] < row.time // tile_ms < now // tile_ms


def _step(row: ActivityLike) -> tuple[int, int]:
    """Return the kind that a row counts for, and 1 or -1."""
    undoes = row.kind in (EventKind.RETURN, EventKind.CANCEL)
    return (int(EventKind.PURCHASE), -1) if undoes else (row.kind, 1)


def product_values(activity: Sequence[ActivityRow], now: int, price_minor: int) -> dict[str, float]:
    """Return a product's features as of `now` for an event of price `price_minor`, from all rows of its activity."""
    return activity_values("product", activity, now, price_minor)


def category_values(activity: Sequence[CategoryRow], now: int, price_minor: int) -> dict[str, float]:
    """Return a category's features as of `now`: a product's of the same names, of all that happened in the category."""
    return activity_values("category", activity, now, price_minor)


def activity_values(entity: Activity, activity: Sequence[ActivityLike], now: int, price_minor: int) -> dict[str, float]:
    """Return the features of a product or category, see `product_values` and `category_values`."""
    newest = max((row.time for row in activity), default=-1)
    values: dict[str, float] = {}
    for feature in SCORE_SET:
        if feature.entity != entity:
            continue
        window = feature.window
        assert window is not None, f"{feature.name}: a {entity}'s feature has a window"
        if feature.aggregate == "distinct":
            rows = [row for row in activity if isinstance(row, ActivityRow)]  # only these name visitors
            values[feature.name] = _visitors(rows, newest, now, window.tiles)
            continue
        first = now // window.tile_ms - window.tiles + (window.tile_ms != 5 * MINUTE)
        inside = [
            row
            for row in activity
            if row.time // window.tile_ms >= first and _readable(row, newest, now, window.tile_ms)
        ]
        steps = [(*_step(row), row.time) for row in inside]
        if feature.aggregate == "count":
            kind = KINDS[feature.kinds[0]]
            values[feature.name] = result(Total(), [(step, time) for of, step, time in steps if of == kind])
        elif feature.aggregate == "decayed":
            assert feature.half_life_ms is not None, f"{feature.name}: a decayed sum has a half-life"
            decayed = Decayed(now, window.tile_ms, window.tiles, feature.half_life_ms)
            views = [(step, time) for of, step, time in steps if of == EventKind.VIEW]
            values[feature.name] = result(decayed, views)
        elif feature.prior is not None:
            bought = [(step, time) for of, step, time in steps if of == EventKind.PURCHASE]
            views = [(2 * step, time) for of, step, time in steps if of == EventKind.VIEW]
            values[feature.name] = result(Ratio(*feature.prior), bought + views)
        else:
            values[feature.name] = _price_ratio(inside, now, price_minor)
    return values


def _visitors(rows: Sequence[ActivityRow], newest: int, now: int, days: int) -> float:
    """Return about how many different known users viewed the product on the `days` before that of `now`."""
    today, first = now // DAY, newest // DAY - KEPT_VISITORS + 1
    people = {
        row.visitor
        for row in rows
        if row.kind == EventKind.VIEW and row.visitor and max(today - days, first) <= row.time // DAY < today
    }
    estimate = HyperLogLog(register_bits=6, rank_bits=14, limit=VISITORS_LIMIT)
    return result(estimate, [(visitor, now) for visitor in sorted(people)])


def _price_ratio(rows: Sequence[ActivityLike], now: int, price_minor: int) -> float:
    """Return the price over the mean price of the days before today, 1 where either is unknown."""
    prices = [
        min(row.price, VALUE_LIMIT)
        for row in rows
        if row.price >= 0 and row.kind <= EventKind.PURCHASE and row.time // DAY < now // DAY
    ]
    usual = sum(prices) / len(prices) if prices else 0.0
    return price_minor / usual if price_minor >= 0 and usual > 0 else 1.0
