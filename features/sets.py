"""The feature sets, declared once as data: what is counted, over which window, in which unit, and for how long.

Stream, backfill, training and the oracle read this page; the kernels take their columns from it. Changing a definition
changes `schema_hash`, and with it which stored vectors and models belong together.

Windows are made of tiles anchored to absolute time. A user window of `n` tiles of length `g` holds, at time t, the
tiles ``(t // g - n, t // g]``, and of the last one only what is stamped up to t: it spans between ``(n - 1) g`` and
``n g``, so its edge is off by less than one tile. A product window holds the same, but only up to the last multiple of
five minutes (and its 1h window twelve finished tiles): product rows arrive by way of other tasks, and a finished tile
cannot know the future.

The calendar is that of the shop: its time zone and public holidays are part of the definition.

A session is a run of a user's events, in the order of their stamps, with the same session id. An event without one
continues the run of the event before it, unless more than half an hour lies between. Sessions are cut at multiples of
30 days besides, so that no memory is longer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

Entity = Literal["user", "session", "product", "context"]
Aggregate = Literal["count", "sum", "decayed", "ratio", "since", "distinct", "mean", "duration", "event"]


@dataclass(frozen=True, slots=True)
class Window:
    """`tiles` tiles of `tile_ms` each, the last one holding the event.

    >>> Window("1h", 5 * MINUTE, 12).span_ms == HOUR
    True
    """

    name: str
    tile_ms: int
    tiles: int

    @property
    def span_ms(self) -> int:
        """The longest time (ms) that the window looks back."""
        return self.tile_ms * self.tiles


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the vector.

    `kinds` are the events that move it, `value` is what is aggregated of them, `memory_ms` is how far back an event can
    still move it. `limit` is where a value is cut (in its own unit), `prior` what a ratio adds above and below.
    """

    name: str
    entity: Entity
    kinds: tuple[str, ...]
    value: str
    aggregate: Aggregate
    unit: str
    description: str
    window: Window | None = None
    half_life_ms: int | None = None
    limit: int | None = None
    prior: tuple[float, float] | None = None
    memory_ms: int = 0
    dtype: Literal["int", "float"] = "int"


USER_WINDOWS = (
    Window("1h", 5 * MINUTE, 12),
    Window("1d", HOUR, 24),
    Window("7d", 6 * HOUR, 28),
    Window("30d", DAY, 30),
)
PRODUCT_WINDOWS = (
    Window("1h", 5 * MINUTE, 12),
    Window("1d", HOUR, 24),
    Window("7d", DAY, 7),
    Window("30d", DAY, 30),
)

MEMORY_MS = 30 * DAY
"""No event older than this moves any feature."""
SESSION_GAP_MS = 30 * MINUTE
"""Silence that ends a session of events that bring no session id of their own."""
SESSION_PERIOD_MS = MEMORY_MS
"""Sessions are cut at multiples of this, whatever their id, so that their memory is bounded."""
DISTINCT_LIMIT = 32
"""Distinct products of a session are counted up to here."""
LOG_LENGTH = 15
"""A user's last events by stamp that are kept one by one: a vector is as-of while no more are stamped later."""
HOLIDAY_LIMIT = 14
"""Days ahead that a holiday is looked for."""
VALUE_LIMIT = 1 << 40
"""Amounts of money are cut to +- this (minor units), so that no sum can overflow."""

INTEREST_HALF_LIFE_MS = DAY
POPULARITY_HALF_LIFE_MS = 6 * DAY
RETURN_PRIOR = (0.5, 5.0)
CONVERSION_PRIOR = (1.0, 50.0)

_PURCHASE = ("purchase", "return", "cancel")


def _user_counts(word: str, kind: str, windows: tuple[Window, ...]) -> list[Feature]:
    undone = "; a return or cancellation takes its purchase back" if kind == "purchase" else ""
    kinds = _PURCHASE if kind == "purchase" else (kind,)
    return [
        Feature(
            f"user_{word}_{w.name}",
            "user",
            kinds,
            "1",
            "count",
            "events",
            f"{word} of the user in {w.name}{undone}",
            w,
            memory_ms=w.span_ms,
        )
        for w in windows
    ]


def _user_spend(windows: tuple[Window, ...]) -> list[Feature]:
    text = "value of the user's purchases in {}, less what was returned or cancelled"
    return [
        Feature(
            f"user_spend_{w.name}",
            "user",
            _PURCHASE,
            "value_minor / 100",
            "sum",
            "minor units / 100",
            text.format(w.name),
            w,
            memory_ms=w.span_ms,
            dtype="float",
        )
        for w in windows
    ]


def _since(word: str, kind: str) -> Feature:
    text = f"time since the user's last {word} before this event"
    limit = MEMORY_MS // SECOND
    return Feature(
        f"user_since_{word}",
        "user",
        (kind,),
        "time",
        "since",
        "seconds",
        text,
        limit=limit,
        memory_ms=MEMORY_MS,
        dtype="float",
    )


def _session(
    name: str,
    kinds: tuple[str, ...],
    value: str,
    aggregate: Aggregate,
    unit: str,
    text: str,
    *,
    limit: int | None = None,
    dtype: Literal["int", "float"] = "int",
) -> Feature:
    return Feature(
        f"session_{name}",
        "session",
        kinds,
        value,
        aggregate,
        unit,
        text,
        limit=limit,
        memory_ms=SESSION_PERIOD_MS,
        dtype=dtype,
    )


def _product_counts(word: str, kind: str, windows: tuple[Window, ...]) -> list[Feature]:
    less = ", less returns and cancellations" if kind == "purchase" else ""
    kinds = _PURCHASE if kind == "purchase" else (kind,)
    return [
        Feature(
            f"product_{word}_{w.name}",
            "product",
            kinds,
            "1",
            "count",
            "events",
            f"{word} of the product in {w.name}{less}, by anybody",
            w,
            memory_ms=w.span_ms + (w.tile_ms if w.tile_ms == 5 * MINUTE else 0),
        )
        for w in windows
    ]


def _is(word: str, kind: str) -> Feature:
    return Feature(f"event_is_{word}", "context", (kind,), "1", "event", "0 or 1", f"the event is of kind {kind}")


def _calendar(name: str, text: str) -> Feature:
    return Feature(name, "context", ("any",), "local time", "event", "-1 to 1", text, dtype="float")


_1H, _1D, _7D, _30D = USER_WINDOWS

SCORE_SET: tuple[Feature, ...] = (
    *_user_counts("views", "view", USER_WINDOWS),
    *_user_counts("carts", "add_to_cart", USER_WINDOWS),
    *_user_counts("purchases", "purchase", (_1D, _7D, _30D)),
    *_user_spend((_1D, _7D, _30D)),
    *_user_counts("searches", "search", (_1D,)),
    *_user_counts("removals", "remove_from_cart", (_1D,)),
    *_user_counts("wishes", "wishlist", (_30D,)),
    Feature(
        "user_return_rate_30d",
        "user",
        _PURCHASE,
        "returns and cancellations / (the same + purchases kept)",
        "ratio",
        "share",
        "how much of what the user bought in 30d came back, smoothed",
        _30D,
        prior=RETURN_PRIOR,
        memory_ms=_30D.span_ms,
        dtype="float",
    ),
    Feature(
        "user_interest",
        "user",
        ("view",),
        "1",
        "decayed",
        "events",
        "views of the user, halved for each day of age, cut at 7 half-lives",
        _7D,
        half_life_ms=INTEREST_HALF_LIFE_MS,
        memory_ms=_7D.span_ms,
        dtype="float",
    ),
    _since("view", "view"),
    _since("cart", "add_to_cart"),
    _since("purchase", "purchase"),
    _session("events", ("any",), "1", "count", "events", "events of the session up to this one"),
    _session("views", ("view",), "1", "count", "events", "views of the session"),
    _session("carts", ("add_to_cart",), "1", "count", "events", "products put into the cart in the session"),
    _session(
        "distinct_products",
        ("any",),
        "product",
        "distinct",
        "products",
        f"different products of the session, at most {DISTINCT_LIMIT}",
        limit=DISTINCT_LIMIT,
    ),
    _session("duration", ("any",), "time", "duration", "seconds", "time since the session began", dtype="float"),
    _session(
        "since_previous",
        ("any",),
        "time",
        "since",
        "seconds",
        "time since the user's event before this one",
        limit=MEMORY_MS // SECOND,
        dtype="float",
    ),
    _session("mean_gap", ("any",), "time", "mean", "seconds", "mean time between the session's events", dtype="float"),
    *_product_counts("views", "view", PRODUCT_WINDOWS),
    *_product_counts("carts", "add_to_cart", PRODUCT_WINDOWS[1:3]),
    *_product_counts("purchases", "purchase", PRODUCT_WINDOWS[1:]),
    Feature(
        "product_conversion_30d",
        "product",
        ("view", *_PURCHASE),
        "purchases / views",
        "ratio",
        "share",
        "purchases per view of the product in 30d, smoothed",
        PRODUCT_WINDOWS[3],
        prior=CONVERSION_PRIOR,
        memory_ms=PRODUCT_WINDOWS[3].span_ms,
        dtype="float",
    ),
    Feature(
        "product_popularity",
        "product",
        ("view",),
        "1",
        "decayed",
        "events",
        "views of the product, halved for every 6 days of age, cut at 5 half-lives",
        PRODUCT_WINDOWS[3],
        half_life_ms=POPULARITY_HALF_LIFE_MS,
        memory_ms=PRODUCT_WINDOWS[3].span_ms,
        dtype="float",
    ),
    Feature(
        "product_price_ratio",
        "product",
        ("any",),
        "price / mean price",
        "ratio",
        "ratio",
        "price of this event over the product's mean price on the 29 days before today; 1 where either is unknown",
        PRODUCT_WINDOWS[3],
        memory_ms=PRODUCT_WINDOWS[3].span_ms,
        dtype="float",
    ),
    _calendar("hour_sin", "sine of the time of day, by the minute"),
    _calendar("hour_cos", "cosine of the time of day, by the minute"),
    _calendar("weekday_sin", "sine of the time of the week, by the hour"),
    _calendar("weekday_cos", "cosine of the time of the week, by the hour"),
    _calendar("season_sin", "sine of the time of the year, by the day"),
    _calendar("season_cos", "cosine of the time of the year, by the day"),
    Feature(
        "days_to_holiday",
        "context",
        ("any",),
        "local date",
        "event",
        "days",
        "days until the next public holiday of shop.country: 0 on one, at most 14; 14 where no country is set",
        limit=HOLIDAY_LIMIT,
    ),
    _is("search", "search"),
    _is("cart", "add_to_cart"),
    _is("removal", "remove_from_cart"),
    _is("wish", "wishlist"),
    _is("purchase", "purchase"),
    Feature(
        "event_price",
        "context",
        ("any",),
        "price_minor / 100",
        "event",
        "minor units / 100",
        "price of one piece in this event, 0 where unknown",
        dtype="float",
    ),
)

SCORE_FEATURES: tuple[str, ...] = tuple(feature.name for feature in SCORE_SET)
"""The columns of a scoring vector, in order."""


def memory_ms(features: tuple[Feature, ...] = SCORE_SET) -> int:
    """Return the longest memory (ms) of `features`: how much of the log rebuilds all of them."""
    return max(feature.memory_ms for feature in features)


def schema_hash(features: tuple[Feature, ...] = SCORE_SET, calendar: str = "UTC") -> str:
    """Return 16 hex digits that change whenever a definition, a constant that all share, or the calendar changes.

    >>> schema_hash() == schema_hash(SCORE_SET) != schema_hash(SCORE_SET[1:])
    True
    """
    shared = [MEMORY_MS, SESSION_GAP_MS, SESSION_PERIOD_MS, LOG_LENGTH, VALUE_LIMIT, calendar]
    declared = json.dumps([shared, [asdict(feature) for feature in features]], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(declared.encode(), digest_size=8).hexdigest()
