"""What a packed row says, in features: for people who ask, and for tests that compare a store with raw events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.columns import FeatureError
from features.engine import ScoreFeatures
from features.layout import FINEST_MS, PRODUCT_LEVEL_TILES, PRODUCT_WINDOW_TILES
from features.logged import LoggedEvent
from features.products import ProductFeatures
from features.sets import SCORE_SET, USER_ENTITIES, Activity, Entity

PRODUCT_BEHIND_MS = int(PRODUCT_LEVEL_TILES[0] - PRODUCT_WINDOW_TILES[0] - 1) * FINEST_MS
"""So far behind the five minutes of its newest event a product's row still tells all of its features (ms)."""


class NotTold(FeatureError):
    """The row says nothing as of the time that was asked for, only from `first` (UTC ms) on."""

    def __init__(self, first: int, asked: int) -> None:
        self.first = first
        super().__init__(f"as of {asked} ms the row says nothing; ask for {first} ms or later")


@dataclass(frozen=True, slots=True)
class UserRow:
    """What a user's row says as of one event of its log.

    `as_of` is that event's stamp (UTC ms), `features` the user's and its session's by name, the price ratio that of no
    price; what is told of the last events looks no further back than the log. `log` holds the last events up to it by
    stamp, the last `in_session` of which are its session; `later` more are stamped after it.
    """

    as_of: int
    features: dict[str, float]
    log: tuple[LoggedEvent, ...]
    in_session: int
    later: int


@dataclass(frozen=True, slots=True)
class ProductRow:
    """What a product's or a category's row says as of a time: `as_of` (UTC ms), and its `features` by name.

    The price ratio is that of no price. `version` is (activity partition, offset) of the record that changed the row
    last.
    """

    as_of: int
    features: dict[str, float]
    version: tuple[int, int] | None


def read_user(packed: bytes, time: int | None = None) -> UserRow:
    """Return what a user's packed row says as of the last event of its log that is stamped up to `time` (ms).

    None: as of its newest. Raises FeatureError for bytes that are no packed row, and NotTold for a time before the log.

    >>> from features.columns import EventColumns
    >>> features, events = ScoreFeatures(), EventColumns()
    >>> features.load_user("u1", None)
    >>> for i in range(3):
    ...     events.append("u1", 0, 1_700_000_000_000 + i * 60_000, None, "s1")
    >>> _ = features.apply(events)
    >>> row = features.drain_users()["u1"]
    >>> read_user(row).features["session_duration"], read_user(row, 1_700_000_060_000).features["session_duration"]
    (120.0, 60.0)
    """
    features = ScoreFeatures()
    features.load_user("", packed)
    log = features.log("")
    told = log if time is None else [event for event in log if event.time <= time]
    if not told:
        raise NotTold(log[0].time, time or 0)
    session = next((i for i, event in enumerate(reversed(told)) if event.session != told[-1].session), len(told))
    values = _named(features.logged_vector("", len(told) - 1), USER_ENTITIES)
    return UserRow(told[-1].time, values, tuple(told), session, len(log) - len(told))


def read_product(packed: bytes, time: int | None = None) -> ProductRow:
    """Return what a product's packed row says as of `time` (ms).

    None: as of the end of the five minutes of its newest event, when all that is in the row counts. Raises FeatureError
    for bytes that are no packed row, and NotTold for a time more than PRODUCT_BEHIND_MS before its newest event.

    >>> products = ProductFeatures()
    >>> products.load("p1", None)
    >>> products.apply(["p1"], [0], [1_700_000_000_000], [999], [7], version=(3, 41))
    >>> row = read_product(products.drain()["p1"])
    >>> row.features["product_views_1h"], row.version
    (1.0, (3, 41))
    """
    return _read("product", packed, time)


def read_category(packed: bytes, time: int | None = None) -> ProductRow:
    """Return what a category's packed row says; see `read_product`.

    >>> categories = ProductFeatures("category")
    >>> categories.load("mugs", None)
    >>> categories.apply(["mugs"], [0], [1_700_000_000_000], [999], [0], version=(3, 41))
    >>> read_category(categories.drain()["mugs"]).features["category_views_1h"]
    1.0
    """
    return _read("category", packed, time)


def _read(entity: Activity, packed: bytes, time: int | None) -> ProductRow:
    products = ProductFeatures(entity)
    products.load("", packed)
    newest = int.from_bytes(packed[:8], "little", signed=True) // FINEST_MS
    first = newest * FINEST_MS - PRODUCT_BEHIND_MS
    as_of = (newest + 1) * FINEST_MS if time is None else time
    if as_of < first:
        raise NotTold(first, as_of)
    return ProductRow(as_of, _named(products.vector("", as_of), (entity,)), products.version(""))


def user_summary(packed: bytes) -> dict[str, float]:
    """Return the user's and the session's features as of the newest stamp in a packed row, by name.

    Raises FeatureError for bytes that are no packed row.
    """
    return read_user(packed).features


def product_summary(packed: bytes, time: int) -> dict[str, float]:
    """Return a product's features as of `time` (ms) from its packed row, by name; the price ratio is that of no price.

    Raises FeatureError as `read_product` does.
    """
    return read_product(packed, time).features


def _named(vector: np.ndarray[tuple[int], np.dtype[np.float64]], entities: tuple[Entity, ...]) -> dict[str, float]:
    return {
        feature.name: value
        for feature, value in zip(SCORE_SET, vector.tolist(), strict=True)
        if feature.entity in entities
    }
