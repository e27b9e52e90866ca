"""A purchase probability after each click in plain Python: the state and arithmetic that every peer's job shares.

So that differences come from the frameworks, each job asks its library for a user's state, calls `score`, and gives the
state back. It is made of dicts, lists and numbers only, for libraries that keep it as JSON. The standard library is all
this may import: it runs in the environment of each peer.

Names are those of Tidecast's features where the definition is the same for events in order. What is left out favours
the peers: a late event counts in its tile, but its vector is as of the newest; there are no returns; neither a
product's visitors nor what happens in a category are counted; and its counters are of all time and live in the process,
since a table of another key would need a second topic and a join.
"""

from __future__ import annotations

import math
from operator import mul
from typing import Any

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

KINDS = {"view": 0, "search": 1, "add_to_cart": 2, "remove_from_cart": 3, "wishlist": 4, "purchase": 5}
VIEW, SEARCH, CART, REMOVAL, WISH, PURCHASE = range(6)
SPEND, VIEWED, PRICED = 6, 7, 8
"""Columns of a tile behind its kinds: what was spent; of the 7d window also the prices viewed, and how many."""

WINDOWS = {"1h": (5 * MINUTE, 12), "1d": (HOUR, 24), "7d": (6 * HOUR, 28), "30d": (DAY, 30)}
"""Length and number of the tiles of each window."""
SESSION_GAP_MS = 30 * MINUTE
LONGEST_S = 30 * DAY / 1_000
MOST_PRODUCTS = 32
MOST_EVENTS = 15
INTEREST = [0.5 ** (age * 6 * HOUR / DAY) for age in range(28)]
"""What a view counts for that is so many tiles of the 7d window old: half as much for each day."""

FEATURES = (
    *(f"user_views_{name}" for name in WINDOWS),
    *(f"user_carts_{name}" for name in WINDOWS),
    *(f"user_purchases_{name}" for name in ("1d", "7d", "30d")),
    *(f"user_spend_{name}" for name in ("1d", "7d", "30d")),
    "user_searches_1d",
    "user_removals_1d",
    "user_wishes_30d",
    "user_interest",
    *(f"user_since_{kind}" for kind in ("view", "cart", "purchase")),
    *("user_last_price", "user_mean_price_7d", "user_price_ratio_7d"),
    "user_mean_gap",
    *(f"user_category_{name}" for name in ("views", "carts", "purchases", "since", "top", "share")),
    "user_categories",
    *(f"session_{name}" for name in ("events", "views", "carts", "distinct_products", "product_seen")),
    *(f"session_{name}" for name in ("duration", "since_previous", "mean_gap")),
    *(f"session_{name}" for name in ("mean_price", "max_price", "min_price")),
    "product_views",
    "product_carts",
    "product_purchases",
    "product_conversion",
    "product_price_ratio",
    *("hour_sin", "hour_cos", "weekday_sin", "weekday_cos"),
    *(f"event_is_{kind}" for kind in ("search", "cart", "removal", "wish", "purchase")),
    "event_price",
)

INTERCEPT = -3.0
WEIGHTS = [(-1) ** place * 1e-3 / (1 + place) for place in range(len(FEATURES))]
"""Any will do: what is measured is what they cost."""

Row = dict[str, Any]
Products = dict[str, list[int]]


def new_row() -> Row:
    """Return the state of a user of whom nothing is known."""
    return {
        "windows": [{"totals": [0] * (9 if name == "7d" else 7), "tiles": []} for name in WINDOWS],
        "latest": [0] * 6,
        "price": -1,
        "last": [],
        "time": 0,
        "session": _new_session(None, 0),
    }


def score(row: Row, products: Products, click: dict[str, Any]) -> dict[str, Any]:
    """Count `click` in its user's `row` and in `products`, in place, and return what to say of it.

    >>> click = {"event_id": "e1", "type": "view", "time": 1_700_000_000_000, "user_id": "u1", "product_id": "p1"}
    >>> score(new_row(), {}, click)["user"]
    'u1'
    """
    logit = INTERCEPT + sum(map(mul, WEIGHTS, vector(row, products, click)))
    probability = 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))
    return {"id": click["event_id"], "user": click["user_id"], "probability": probability}


def vector(row: Row, products: Products, click: dict[str, Any]) -> list[float]:
    """Count `click` and return the features as of it, in the order of FEATURES."""
    kind, time = KINDS[click["type"]], click["time"]
    shown = click.get("unit_price")
    price = shown or 0
    value = price * click.get("quantity", 1) if kind == PURCHASE else 0
    for (tile_ms, length), window in zip(WINDOWS.values(), row["windows"], strict=True):
        _count(window, time // tile_ms, length, kind, value, shown)
    hour, day, week, month = (window["totals"] for window in row["windows"])
    latest = row["latest"]
    since = [_seconds(time, latest[kind]) for kind in (VIEW, CART, PURCHASE)]
    prices = _prices(row, week, kind, time, shown)
    latest[kind] = max(latest[kind], time)
    turn, of_week = time % DAY // MINUTE / 1440 * math.tau, (time - 4 * DAY) // HOUR % 168 / 168 * math.tau
    return [
        *(hour[VIEW], day[VIEW], week[VIEW], month[VIEW]),
        *(hour[CART], day[CART], week[CART], month[CART]),
        *(day[PURCHASE], week[PURCHASE], month[PURCHASE]),
        *(day[SPEND] / 100, week[SPEND] / 100, month[SPEND] / 100),
        *(day[SEARCH], day[REMOVAL], month[WISH]),
        _interest(row["windows"][2]["tiles"]),
        *since,
        *prices,
        *_last_events(row["last"], kind, time, click.get("category_id")),
        *_session(row, click, kind, time),
        *_product(products, click.get("product_id"), kind, price),
        *(math.sin(turn), math.cos(turn), math.sin(of_week), math.cos(of_week)),
        *(kind == SEARCH, kind == CART, kind == REMOVAL, kind == WISH, kind == PURCHASE),
        price / 100,
    ]


def _count(window: dict[str, Any], now: int, length: int, kind: int, value: int, price: int | None) -> None:
    """Count an event in tile `now`, and take the tiles that fall out of the window off its totals.

    A tile is its number, then what it holds of each column of the totals.
    """
    tiles, totals = window["tiles"], window["totals"]
    newest = tiles[-1][0] if tiles else -1
    if now == newest:
        tile = tiles[-1]
    elif now > newest:
        tile = [now, *[0] * len(totals)]
        tiles.append(tile)
        while tiles[0][0] <= now - length:
            for column, held in enumerate(tiles.pop(0)[1:]):
                totals[column] -= held
    elif now > newest - length:
        tile = _late_tile(tiles, now, len(totals))
    else:
        return
    tile[1 + kind] += 1
    totals[kind] += 1
    if value:
        tile[1 + SPEND] += value
        totals[SPEND] += value
    if kind == VIEW and price is not None and len(totals) > VIEWED:
        tile[1 + VIEWED] += price
        totals[VIEWED] += price
        tile[1 + PRICED] += 1
        totals[PRICED] += 1


def _late_tile(tiles: list[list[int]], now: int, columns: int) -> list[int]:
    """Return the tile of a late event, which may have to be put in between."""
    at = len(tiles)
    while at and tiles[at - 1][0] >= now:
        at -= 1
    if tiles[at][0] != now:
        tiles.insert(at, [now, *[0] * columns])
    return tiles[at]


def _interest(tiles: list[list[int]]) -> float:
    """Return the views of the tiles of the 7d window, each at its weight."""
    now = tiles[-1][0]
    return sum([INTEREST[now - tile[0]] * tile[1 + VIEW] for tile in tiles])


def _seconds(now: int, then: int) -> float:
    """Return the seconds since `then`, as many as there can be where that is never."""
    return min((now - then) / 1_000, LONGEST_S) if 0 < then <= now else LONGEST_S


def _prices(row: Row, week: list[int], kind: int, time: int, price: int | None) -> tuple[float, float, float]:
    """Return the price viewed last, the mean of the week, and this one over the mean of the others; note this one."""
    last, latest = row["price"], row["latest"][VIEW]
    viewed, priced = week[VIEWED], week[PRICED]
    mean = viewed / priced / 100 if priced else 0.0
    if kind == VIEW:
        known = -1 if price is None else price
        if time >= latest:
            row["price"] = known if time > latest else max(known, last)
        if price is not None:
            viewed, priced = viewed - price, priced - 1
    ratio = price * priced / viewed if price is not None and viewed > 0 else 1.0
    return max(last, 0) / 100 if time - latest < 30 * DAY else 0.0, mean, ratio


def _last_events(last: list[list[Any]], kind: int, time: int, category: str | None) -> tuple[float, ...]:
    """Add an event to the last ones, and return their mean gap and what they say of its category.

    Each is its stamp, its kind and its category.
    """
    last.append([time, kind, category])
    while len(last) > MOST_EVENTS or last[0][0] <= time - 30 * DAY:
        last.pop(0)
    gap = (time - last[0][0]) / 1_000 / (len(last) - 1) if len(last) > 1 else 0.0
    named = [event[2] for event in last if event[2]]
    often = {name: named.count(name) for name in set(named)}
    if not category:
        return gap, 0, 0, 0, LONGEST_S, 0, 0.0, len(often)
    same = [event for event in last if event[2] == category]
    kinds = [event[1] for event in same]
    since = _seconds(time, same[-2][0]) if len(same) > 1 else LONGEST_S
    counts = kinds.count(VIEW), kinds.count(CART), kinds.count(PURCHASE)
    return gap, *counts, since, len(same) == max(often.values()), len(same) / len(named), len(often)


def _new_session(given: str | None, time: int) -> Row:
    """Return the state of a session without events."""
    counts = {"id": given, "start": time, "events": 0, "views": 0, "carts": 0, "products": []}
    return counts | {"priced": 0, "prices": 0, "highest": 0, "lowest": 0}


def _session(row: Row, click: dict[str, Any], kind: int, time: int) -> tuple[float, ...]:
    """Count a click in its session, or begin one, and return what is known of it."""
    session, before, given = row["session"], row["time"], click.get("session_id")
    goes_on = session["id"] == given if given else abs(time - before) <= SESSION_GAP_MS
    if not (goes_on and session["events"]):
        row["session"] = session = _new_session(given, time)
    session["events"] += 1
    session["start"] = min(session["start"], time)
    session["views"] += kind == VIEW
    session["carts"] += kind == CART
    price = click.get("unit_price")
    if kind == VIEW and price is not None:
        session["highest"] = max(session["highest"], price)
        session["lowest"] = min(session["lowest"], price) if session["priced"] else price
        session["priced"] += 1
        session["prices"] += price
    product, seen = click.get("product_id"), session["products"]
    known = product in seen
    if product and len(seen) < MOST_PRODUCTS and product not in seen:
        seen.append(product)
    row["time"] = max(before, time)
    events, lasted = session["events"], (time - session["start"]) / 1_000
    gap = lasted / (events - 1) if events > 1 else 0.0
    mean = session["prices"] / session["priced"] / 100 if session["priced"] else 0.0
    prices = mean, session["highest"] / 100, session["lowest"] / 100
    counts = events, session["views"], session["carts"], len(seen), known
    return *counts, lasted, _seconds(time, before), gap, *prices


def _product(products: Products, product: str | None, kind: int, price: int) -> tuple[float, ...]:
    """Return what was known of a product before this event, and count it (views, carts, purchases, prices, sum)."""
    if not product:
        return 0, 0, 0, 1 / 50, 1.0
    known = products.get(product)
    if known is None:
        known = products[product] = [0, 0, 0, 0, 0]
    views, carts, purchases, priced, total = known
    if kind == VIEW:
        known[0] += 1
    elif kind == CART:
        known[1] += 1
    elif kind == PURCHASE:
        known[2] += 1
    if price:
        known[3] += 1
        known[4] += price
    ratio = price * priced / total if price and total else 1.0
    return views, carts, purchases, (purchases + 1) / (views + 50), ratio
