"""Where everything lies: words of a user's and a product's row, tiles, and the columns of the vector.

A user row is `USER_WORDS` int64: a summary of the events that left the log (the base), the distinct products of its
session, and the log of the last events, one array per field. Users with more events than the log holds own a block of
tiles besides. A product row is `PRODUCT_WORDS` int64 and a block of tiles. All of it is integers: sums do not depend on
the order of events, and are the same bits everywhere.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from features.sets import (
    DAY,
    DISTINCT_LIMIT,
    INTEREST_HALF_LIFE_MS,
    LOG_LENGTH,
    MINUTE,
    POPULARITY_HALF_LIFE_MS,
    PRODUCT_WINDOWS,
    SCORE_FEATURES,
    SCORE_SET,
    USER_WINDOWS,
    VISITOR_WINDOWS,
    Activity,
)
from schemas.internal import EventKind

VIEW, SEARCH, CART, REMOVE, WISH, PURCHASE, RETURN, CANCEL = (int(kind) for kind in EventKind)
KINDS = len(EventKind)
NONE = -1

# --- user rows ------------------------------------------------------------------------------------------------------
LOG = LOG_LENGTH + 1
"""Entries of the log while an event is applied; one fewer are kept."""
COUNT = 0  # entries in the log
BLOCK = 1  # the user's block of tiles, or NONE
FLUSHED = 2  # latest stamp that left the log, or NONE
LAST_VIEW, LAST_CART, LAST_PURCHASE = 3, 4, 5  # latest stamps that left the log, or NONE
SESSION_KEY, SESSION_START, SESSION_EVENTS, SESSION_VIEWS, SESSION_CARTS = 6, 7, 8, 9, 10  # of the last to leave
SESSION_PRICED, SESSION_PRICES = 11, 12  # views of that session with a price, and the sum of these
SESSION_HIGHEST, SESSION_LOWEST, LAST_PRICE = 13, 14, 15  # of that session's views, and of LAST_VIEW: price + 1, or 0
DISTINCT = 16  # entries of the table of that session's products
TABLE = 17  # DISTINCT_LIMIT hashes of 32 bits, two to a word
TIME = TABLE + DISTINCT_LIMIT // 2
KEY = TIME + LOG  # the session that the event belongs to
AMOUNT = KEY + LOG  # value << 16 | (age of the undone purchase in finest tiles + 1, or 0); of a view price + 1, or 0
META = AMOUNT + LOG  # product hash << 8 | FRESH | ANONYMOUS | kind
CATEGORY = META + LOG  # hashes of 32 bits, two to a word; 0 is none
USER_WORDS = CATEGORY + LOG // 2

KIND_MASK = 15
ANONYMOUS = 16  # the event brought no session id
FRESH = 32  # the first event of its session on its product
UNDO_MASK = 0xFFFF

LEVELS = len(USER_WINDOWS)
LEVEL_MS = np.array([w.tile_ms for w in USER_WINDOWS], np.int64)
LEVEL_TILES = np.array([w.tiles for w in USER_WINDOWS], np.int64)
LEVEL_OFFSET = np.concatenate([[0], np.cumsum(LEVEL_TILES)]).astype(np.int64)
BLOCK_TILES = int(LEVEL_OFFSET[-1])
FINEST_MS = 5 * MINUTE
FINEST, COARSEST = 0, LEVELS - 1
INTEREST_LEVEL = PRICE_LEVEL = 2
"""The window of the interest and of the usual price."""
MONEY = BLOCK_TILES + 2 * int(LEVEL_TILES[PRICE_LEVEL])
"""Sums of money of a block: what was spent in each tile, then prices viewed and how many, in each of PRICE_LEVEL."""
PRICES_FROM = BLOCK_TILES - int(LEVEL_OFFSET[PRICE_LEVEL])
PRICED_FROM = PRICES_FROM + int(LEVEL_TILES[PRICE_LEVEL])
"""So far behind its place among the tiles are a tile's prices, and how many they are."""
SPEND, VIEWED, VIEWED_COUNT = KINDS, KINDS + 1, KINDS + 2
"""Sums of a window: a column per kind of event, then the money; those of PRICE_LEVEL also prices, and how many."""
SUMS = (LEVELS, KINDS + 3)
TOTALS = (LEVELS + 1, KINDS + 1)
"""Derived from a block, never stored: the sums of each ring; in the last row the interest and its tile (or NONE), the
prices viewed and how many."""
INTEREST_AT, INTEREST_SUM, PRICES_SUM, PRICED_SUM = 0, 1, 2, 3

# --- product rows, and categories' ----------------------------------------------------------------------------------
PRODUCT_NEWEST, PRODUCT_PARTITION, PRODUCT_OFFSET, PRODUCT_HASH = 0, 1, 2, 3
PRICES = 4  # sum of prices per day
PRODUCT_LEVEL_MS = np.array([5 * MINUTE, 60 * MINUTE, DAY], np.int64)
PRODUCT_LEVEL_TILES = np.array([24, 26, 32], np.int64)
"""More than the windows need: a reader may stand up to 55 minutes behind the newest event of a product."""
PRODUCT_OFFSETS = np.concatenate([[0], np.cumsum(PRODUCT_LEVEL_TILES)]).astype(np.int64)
PRODUCT_LEVELS = len(PRODUCT_LEVEL_MS)
PRODUCT_TILES = int(PRODUCT_OFFSETS[-1])
PRODUCT_DAYS = int(PRODUCT_LEVEL_TILES[-1])
REGISTERS, REGISTER_BITS = 64, 4
DAY_SKETCH = REGISTERS * REGISTER_BITS // 64
"""Words of the sketch of a day's visitors, of which the standard error is 1.04 / sqrt(REGISTERS)."""
SKETCH_DAYS = VISITOR_WINDOWS[-1].tiles + 2
"""Those of the window, the day of a reader, which none of them is, and the next: the product's newest event's."""
SKETCHES = PRICES + PRODUCT_DAYS
PRODUCT_WORDS = SKETCHES + SKETCH_DAYS * DAY_SKETCH
P_VIEW, P_CART, P_PURCHASE, P_PRICED = 0, 1, 2, 3
LANES = 4
PRODUCT_WINDOW_LEVEL = np.array([0, 1, 2, 2], np.int64)
PRODUCT_WINDOW_TILES = np.array([w.tiles for w in PRODUCT_WINDOWS], np.int64)

# --- decays: fixed point, so that their sums are integers too ---------------------------------------------------------
ONE = 1 << 20


def _weights(tile_ms: int, half_life_ms: int, tiles: int) -> NDArray[np.int64]:
    return np.array([round(ONE * math.pow(0.5, i * tile_ms / half_life_ms)) for i in range(tiles)], np.int64)


INTEREST_WEIGHTS = _weights(
    USER_WINDOWS[INTEREST_LEVEL].tile_ms, INTEREST_HALF_LIFE_MS, USER_WINDOWS[INTEREST_LEVEL].tiles
)
POPULARITY_WEIGHTS = _weights(DAY, POPULARITY_HALF_LIFE_MS, PRODUCT_WINDOWS[-1].tiles)

# --- columns --------------------------------------------------------------------------------------------------------
COLUMN = {name: i for i, name in enumerate(SCORE_FEATURES)}
WIDTH = len(SCORE_FEATURES)

_KIND = {"view": VIEW, "search": SEARCH, "add_to_cart": CART, "remove_from_cart": REMOVE, "wishlist": WISH}
_PRODUCT_LANE = {"view": P_VIEW, "add_to_cart": P_CART}


def _columns(entity: str, aggregate: str, last: int, lanes: dict[str, int]) -> NDArray[np.int64]:
    """Return rows (window, lane, column) of the windowed features of `entity`; purchases go to lane `last`."""
    windows = USER_WINDOWS if entity == "user" else PRODUCT_WINDOWS
    rows = [
        (windows.index(feature.window), lanes.get(feature.kinds[0], last), COLUMN[feature.name])
        for feature in SCORE_SET
        if feature.entity == entity and feature.aggregate == aggregate and feature.window is not None
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


USER_COUNTS = _columns("user", "count", PURCHASE, _KIND)
USER_SUMS = _columns("user", "sum", PURCHASE, {})
PRODUCT_COUNTS = _columns("product", "count", P_PURCHASE, _PRODUCT_LANE)
PRODUCT_FIRST = int(PRODUCT_COUNTS[0, 2])
"""The first of the product's columns, which lie together, the price ratio last."""


def _shown(entity: Activity) -> NDArray[np.int64]:
    """Return rows (place among a product's columns, column) of the features of `entity`, named as a product's are."""
    return np.array(
        [
            (COLUMN[f"product_{feature.name.removeprefix(f'{entity}_')}"] - PRODUCT_FIRST, COLUMN[feature.name])
            for feature in SCORE_SET
            if feature.entity == entity
        ],
        np.int64,
    )


SHOWN: dict[Activity, NDArray[np.int64]] = {entity: _shown(entity) for entity in get_args(Activity)}
"""What a vector shows of a row made of activity, (features, 2): the price ratio last."""

_MINUTES = 24 * 60
_ANGLE = 2 * math.pi
DAY_SIN = np.array([math.sin(_ANGLE * i / _MINUTES) for i in range(_MINUTES)])
DAY_COS = np.array([math.cos(_ANGLE * i / _MINUTES) for i in range(_MINUTES)])
WEEK_SIN = np.array([math.sin(_ANGLE * i / (7 * 24)) for i in range(7 * 24)])
WEEK_COS = np.array([math.cos(_ANGLE * i / (7 * 24)) for i in range(7 * 24)])
_YEARS = [(day, length) for length in (365, 365, 366, 365) for day in range(length)]
YEAR_SIN = np.array([math.sin(_ANGLE * day / length) for day, length in _YEARS])
YEAR_COS = np.array([math.cos(_ANGLE * day / length) for day, length in _YEARS])
"""Tables by the minute of the day, the hour of the week and the day of four years (1972, 1976, … 2096 are leap years):
the same bits on every machine's mathematics."""
WEEK_START_MS = 4 * DAY
"""1970-01-05, a Monday."""
