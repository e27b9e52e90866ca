"""The feature sets, declared once as data: what is counted, over which window, in which unit, and for how long.

Stream, backfill, training and the oracle read this page; the kernels take their columns from it. Changing a definition
changes `schema_hash`, and with it which stored vectors and models belong together.

Windows are made of tiles anchored to absolute time. A user window of `n` tiles of length `g` holds, at time t, the
tiles ``(t // g - n, t // g]``, and of the last one only what is stamped up to t: it spans between ``(n - 1) g`` and
``n g``, so its edge is off by less than one tile. A product window holds the same, but only up to the last multiple of
five minutes (and its 1h window twelve finished tiles): product rows arrive by way of other tasks, and a finished tile
cannot know the future. Of a product's visitors it holds the `n` finished days before that of t. A category has the rows
and windows of a product.

The shop is part of the definition: its time zone and public holidays, its currency and what others are worth in it.

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

Entity = Literal["user", "user_category", "session", "product", "category", "context"]
USER_ENTITIES: tuple[Entity, ...] = ("user", "user_category", "session")
"""Those whose features a user's row tells."""
Activity = Literal["product", "category"]
"""The entities whose rows are made of everybody's activity, in one format: a category's tells fewer features."""
Aggregate = Literal[
    "count",
    "sum",
    "decayed",
    "ratio",
    "since",
    "distinct",
    "seen",
    "top",
    "share",
    "mean",
    "max",
    "min",
    "last",
    "duration",
    "event",
]


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
    still move it; `last`, of how many of the user's last events it tells. `limit` is where a value is cut (in its own
    unit), `prior` what a ratio adds above and below, `missing` what the column says where its value is unknown.
    """

    name: str
    entity: Entity
    kinds: tuple[str, ...]
    value: str
    aggregate: Aggregate
    unit: str
    description: str
    window: Window | None = None
    last: int | None = None
    half_life_ms: int | None = None
    limit: int | None = None
    prior: tuple[float, float] | None = None
    missing: float | None = None
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

VISITOR_WINDOWS = (Window("1d", DAY, 1), Window("7d", DAY, 7))
"""Finished days before that of the event: a day's sketch of visitors cannot be cut at a time of the day."""

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
STOCK_LIMIT = 1_000
"""Pieces on hand are told up to here."""
VISITORS_LIMIT = 1_000_000
"""Visitors of a product are counted up to here."""
PROMOTION = "promotion"
"""The covariate of a plan entry that says how far a product is promoted."""
CHANNELS = ("web", "app")
"""The channels that have a column of their own."""
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


def _price(
    name: str, entity: Entity, aggregate: Aggregate, text: str, window: Window | None = None, missing: float = 0.0
) -> Feature:
    memory_ms = window.span_ms if window is not None else MEMORY_MS
    value, unit = "price_minor / 100", "minor units / 100"
    if aggregate == "ratio":
        value = unit = "price / mean price"
    return Feature(
        name,
        entity,
        ("view",),
        value,
        aggregate,
        unit,
        text,
        window,
        missing=missing,
        memory_ms=memory_ms,
        dtype="float",
    )


def _category(
    name: str,
    kinds: tuple[str, ...],
    aggregate: Aggregate,
    unit: str,
    text: str,
    *,
    limit: int | None = None,
    missing: float | None = 0.0,
    dtype: Literal["int", "float"] = "int",
) -> Feature:
    return Feature(
        name,
        "user_category",
        kinds,
        "time" if aggregate == "since" else "category",
        aggregate,
        unit,
        text,
        last=LOG_LENGTH,
        limit=limit,
        missing=missing,
        memory_ms=MEMORY_MS,
        dtype=dtype,
    )


def _category_counts(word: str, kind: str) -> Feature:
    text = f"{word} of this event's category among the user's last {LOG_LENGTH} events"
    return _category(f"user_category_{word}", (kind,), "count", "events", text)


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


def _activity_counts(entity: Activity, word: str, kind: str, windows: tuple[Window, ...]) -> list[Feature]:
    less = ", less returns and cancellations" if kind == "purchase" else ""
    kinds = _PURCHASE if kind == "purchase" else (kind,)
    return [
        Feature(
            f"{entity}_{word}_{w.name}",
            entity,
            kinds,
            "1",
            "count",
            "events",
            f"{word} of the {entity} in {w.name}{less}, by anybody",
            w,
            memory_ms=w.span_ms + (w.tile_ms if w.tile_ms == 5 * MINUTE else 0),
        )
        for w in windows
    ]


def _conversion(entity: Activity) -> Feature:
    return Feature(
        f"{entity}_conversion_30d",
        entity,
        ("view", *_PURCHASE),
        "purchases / views",
        "ratio",
        "share",
        f"purchases per view of the {entity} in 30d, smoothed",
        PRODUCT_WINDOWS[3],
        prior=CONVERSION_PRIOR,
        memory_ms=PRODUCT_WINDOWS[3].span_ms,
        dtype="float",
    )


def _price_to_usual(entity: Activity) -> Feature:
    return Feature(
        f"{entity}_price_ratio",
        entity,
        ("any",),
        "price / mean price",
        "ratio",
        "ratio",
        f"price of this event over the {entity}'s mean price on the 29 days before today",
        PRODUCT_WINDOWS[3],
        missing=1.0,
        memory_ms=PRODUCT_WINDOWS[3].span_ms,
        dtype="float",
    )


def _product_visitors(window: Window) -> Feature:
    days = "day" if window.tiles == 1 else f"{window.tiles} days"
    return Feature(
        f"product_visitors_{window.name}",
        "product",
        ("view",),
        "user",
        "distinct",
        "users",
        f"different known users who viewed the product on the {days} before today, estimated (HyperLogLog of 64 "
        f"registers, standard error 13%), at most {VISITORS_LIMIT:,}",
        window,
        limit=VISITORS_LIMIT,
        memory_ms=window.span_ms + DAY,
        dtype="float",
    )


def _is(word: str, kind: str) -> Feature:
    return Feature(f"event_is_{word}", "context", (kind,), "1", "event", "0 or 1", f"the event is of kind {kind}")


def _calendar(name: str, text: str) -> Feature:
    return Feature(name, "context", ("any",), "local time", "event", "-1 to 1", text, dtype="float")


def _channel(name: str) -> Feature:
    text = f"the visitor came by the channel {name}"
    return Feature(f"event_is_{name}", "context", ("any",), "channel", "event", "0 or 1", text, missing=0.0)


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
    _price("user_last_price", "user", "last", "price of what the user viewed last before this event, within 30 d"),
    _price("user_mean_price_7d", "user", "mean", "mean price of what the user viewed in 7d", _7D),
    _price(
        "user_price_ratio_7d",
        "user",
        "ratio",
        "price of this event over the mean price of what else the user viewed in 7d",
        _7D,
        missing=1.0,
    ),
    Feature(
        "user_mean_gap",
        "user",
        ("any",),
        "time",
        "mean",
        "seconds",
        f"mean time between the user's last {LOG_LENGTH} events",
        last=LOG_LENGTH,
        missing=0.0,
        memory_ms=MEMORY_MS,
        dtype="float",
    ),
    _category_counts("views", "view"),
    _category_counts("carts", "add_to_cart"),
    _category_counts("purchases", "purchase"),
    _category(
        "user_category_since",
        ("any",),
        "since",
        "seconds",
        f"time since the event of this category before this one, among the user's last {LOG_LENGTH}",
        limit=MEMORY_MS // SECOND,
        missing=MEMORY_MS / SECOND,
        dtype="float",
    ),
    _category(
        "user_category_top",
        ("any",),
        "top",
        "0 or 1",
        f"no other category has more of the user's last {LOG_LENGTH} events than this one",
    ),
    _category(
        "user_category_share",
        ("any",),
        "share",
        "share",
        f"events of this category among those of the user's last {LOG_LENGTH} that name one",
        dtype="float",
    ),
    _category(
        "user_categories",
        ("any",),
        "distinct",
        "categories",
        f"different categories of the user's last {LOG_LENGTH} events",
        limit=LOG_LENGTH,
        missing=None,
    ),
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
    _session(
        "product_seen",
        ("any",),
        "product",
        "seen",
        "0 or 1",
        f"the session had an event of this product before this one, as far as its first {DISTINCT_LIMIT} products tell",
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
    _price("session_mean_price", "session", "mean", "mean price of what was viewed in the session"),
    _price("session_max_price", "session", "max", "highest price of what was viewed in the session"),
    _price("session_min_price", "session", "min", "lowest price of what was viewed in the session"),
    *_activity_counts("product", "views", "view", PRODUCT_WINDOWS),
    *_activity_counts("product", "carts", "add_to_cart", PRODUCT_WINDOWS[1:3]),
    *_activity_counts("product", "purchases", "purchase", PRODUCT_WINDOWS[1:]),
    *map(_product_visitors, VISITOR_WINDOWS),
    _conversion("product"),
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
    _price_to_usual("product"),
    *_activity_counts("category", "views", "view", PRODUCT_WINDOWS[:3]),
    *_activity_counts("category", "carts", "add_to_cart", PRODUCT_WINDOWS[1:2]),
    *_activity_counts("category", "purchases", "purchase", PRODUCT_WINDOWS[1:3]),
    _conversion("category"),
    _price_to_usual("category"),
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
        "price of one piece in this event",
        missing=0.0,
        dtype="float",
    ),
    *(_channel(name) for name in CHANNELS),
    Feature(
        "event_abroad",
        "context",
        ("any",),
        "country",
        "event",
        "0 or 1",
        "the visitor is in another country than the shop, which is in shop.country",
        missing=-1.0,
    ),
    Feature(
        "market_discount",
        "context",
        ("any",),
        "1 - price / list price",
        "event",
        "share",
        "how far the price of this event, else the planned one, is below the catalog's; not below -1",
        missing=0.0,
        dtype="float",
    ),
    Feature(
        "market_promotion",
        "context",
        ("any",),
        PROMOTION,
        "event",
        "as planned",
        f"the covariate {PROMOTION} that the plan has for the product, else for the shop",
        missing=0.0,
        dtype="float",
    ),
    Feature(
        "market_stock",
        "context",
        ("any",),
        "stock",
        "event",
        "pieces",
        f"pieces on hand by the catalog, at most {STOCK_LIMIT:,}",
        limit=STOCK_LIMIT,
        missing=-1.0,
    ),
    Feature(
        "market_out_of_stock",
        "context",
        ("any",),
        "stock",
        "event",
        "0 or 1",
        "the catalog says that nothing is on hand",
        missing=0.0,
    ),
)

SCORE_FEATURES: tuple[str, ...] = tuple(feature.name for feature in SCORE_SET)
"""The columns of a scoring vector, in order."""


def memory_ms(features: tuple[Feature, ...] = SCORE_SET) -> int:
    """Return the longest memory (ms) of `features`: how much of the log rebuilds all of them."""
    return max(feature.memory_ms for feature in features)


def schema_hash(features: tuple[Feature, ...] = SCORE_SET, shop: str = "UTC") -> str:
    """Return 16 hex digits that change whenever a definition, a constant that all share, or the shop changes.

    >>> schema_hash() == schema_hash(SCORE_SET) != schema_hash(SCORE_SET[1:])
    True
    """
    shared = [MEMORY_MS, SESSION_GAP_MS, SESSION_PERIOD_MS, LOG_LENGTH, VALUE_LIMIT, shop]
    declared = json.dumps([shared, [asdict(feature) for feature in features]], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(declared.encode(), digest_size=8).hexdigest()
