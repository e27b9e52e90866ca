"""The kernels of products and categories: activity into tiles, and the features of a row as of a stamp.

Tiles hold integers, so the order of activity does not matter. A reader sees finished tiles of five minutes only: what
happened in the coarser tile that is still open is put together from the finer ones, so nothing stamped later counts.
Until the five minutes are over, and the row is not replaced, a product's features do not change: they are kept.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

import numpy as np

from features.jit import helper, kernel
from features.layout import (
    CANCEL,
    CART,
    COLUMN,
    DAY_SKETCH,
    FINEST_MS,
    LANES,
    NONE,
    ONE,
    P_CART,
    P_PRICED,
    P_PURCHASE,
    P_VIEW,
    POPULARITY_WEIGHTS,
    PRICES,
    PRODUCT_COUNTS,
    PRODUCT_DAYS,
    PRODUCT_FIRST,
    PRODUCT_LEVEL_MS,
    PRODUCT_LEVEL_TILES,
    PRODUCT_LEVELS,
    PRODUCT_NEWEST,
    PRODUCT_OFFSET,
    PRODUCT_OFFSETS,
    PRODUCT_PARTITION,
    PRODUCT_WINDOW_LEVEL,
    PRODUCT_WINDOW_TILES,
    PURCHASE,
    SKETCH_DAYS,
    SKETCHES,
    VIEW,
)
from features.sets import CONVERSION_PRIOR, DAY, VALUE_LIMIT, VISITOR_WINDOWS
from features.visitors import count_visitors, note_visitor

_CONVERSION = COLUMN["product_conversion_30d"]
_POPULARITY = COLUMN["product_popularity"]
_RATIO = COLUMN["product_price_ratio"]
_VISITORS_1D, _VISITORS_7D = (COLUMN[f"product_visitors_{window.name}"] for window in VISITOR_WINDOWS)
_VISITORS_DAYS = VISITOR_WINDOWS[-1].tiles
_ABOVE, _BELOW = CONVERSION_PRIOR
_WINDOWS = len(PRODUCT_WINDOW_LEVEL)
_DAYS = PRODUCT_LEVELS - 1
_HISTORY = len(POPULARITY_WEIGHTS)

KEPT = _RATIO - PRODUCT_FIRST + 1
"""Columns kept per row; the last is the mean price, or 0."""


@helper
def _advance(row, tiles, newest):
    before = row[PRODUCT_NEWEST]
    for level in range(PRODUCT_LEVELS):
        length = PRODUCT_LEVEL_TILES[level]
        last = newest // PRODUCT_LEVEL_MS[level]
        first = max(before // PRODUCT_LEVEL_MS[level] + 1, last - length + 1)
        for tile in range(first, last + 1):
            at = tile % length
            for lane in range(LANES):
                tiles[PRODUCT_OFFSETS[level] + at, lane] = 0
            if level == _DAYS:
                row[PRICES + at] = 0
    last = newest // DAY
    for day in range(max(before // DAY + 1, last - SKETCH_DAYS + 1), last + 1):
        at = SKETCHES + day % SKETCH_DAYS * DAY_SKETCH
        row[at : at + DAY_SKETCH] = 0
    row[PRODUCT_NEWEST] = newest


@kernel
def apply_activity(rows, tiles, slots, kinds, times, prices, people, partition, offset):
    """Apply activity rows to products and note (partition, offset) as the last to change them.

    `people` (n,) are the visitors, 0 where unknown.
    """
    for i in range(len(slots)):
        row, mine = rows[slots[i]], tiles[slots[i]]
        time, kind, price = times[i], kinds[i], prices[i]
        row[PRODUCT_PARTITION] = partition
        row[PRODUCT_OFFSET] = offset
        if row[PRODUCT_NEWEST] < 0:
            row[PRODUCT_NEWEST] = time
        elif time > row[PRODUCT_NEWEST]:
            _advance(row, mine, time)
        lane, step = NONE, 1
        if kind == VIEW:
            lane = P_VIEW
        elif kind == CART:
            lane = P_CART
        elif PURCHASE <= kind <= CANCEL:
            lane = P_PURCHASE
            step = 1 if kind == PURCHASE else -1
        for level in range(PRODUCT_LEVELS):
            length = PRODUCT_LEVEL_TILES[level]
            tile = time // PRODUCT_LEVEL_MS[level]
            if tile <= row[PRODUCT_NEWEST] // PRODUCT_LEVEL_MS[level] - length:
                continue
            at = PRODUCT_OFFSETS[level] + tile % length
            if lane >= 0:
                mine[at, lane] += step
            if level == _DAYS and price >= 0 and kind <= PURCHASE:
                mine[at, P_PRICED] += 1
                row[PRICES + tile % length] += min(price, VALUE_LIMIT)
        if lane == P_VIEW and people[i] > 0 and time // DAY > row[PRODUCT_NEWEST] // DAY - SKETCH_DAYS:
            note_visitor(row, time, people[i])


@helper
def _add(tiles, level, newest, first, last, sums):
    """Add tiles [first, last) of `level`, as far as they are kept, to `sums` (views, carts, purchases)."""
    length = PRODUCT_LEVEL_TILES[level]
    end = newest // PRODUCT_LEVEL_MS[level] + 1
    first, last = max(first, end - length), min(last, end)
    if first >= last:
        return
    at = first % length
    views, carts, purchases = 0, 0, 0
    for _ in range(last - first):
        views += tiles[PRODUCT_OFFSETS[level] + at, P_VIEW]
        carts += tiles[PRODUCT_OFFSETS[level] + at, P_CART]
        purchases += tiles[PRODUCT_OFFSETS[level] + at, P_PURCHASE]
        at += 1
        if at == length:
            at = 0
    sums[P_VIEW] += views
    sums[P_CART] += carts
    sums[P_PURCHASE] += purchases


@helper
def _fill(row, tiles, time, open_, windows, kept):
    """Compute a product's features as of `time` into `kept`; `open_` and `windows` are scratch."""
    newest = row[PRODUCT_NEWEST]
    # what the tile still open at each level holds so far: the finest nothing, the others their finished parts
    for level in range(PRODUCT_LEVELS):
        for lane in range(P_PRICED):
            open_[level, lane] = open_[level - 1, lane] if level > 0 else 0
        if level > 0:
            finer = PRODUCT_LEVEL_MS[level - 1]
            start = time // PRODUCT_LEVEL_MS[level] * (PRODUCT_LEVEL_MS[level] // finer)
            _add(tiles, level - 1, newest, start, time // finer, open_[level])
    for w in range(_WINDOWS):
        level = PRODUCT_WINDOW_LEVEL[w]
        now = time // PRODUCT_LEVEL_MS[level]
        for lane in range(P_PRICED):
            windows[w, lane] = open_[level, lane]
        # the finest level has no open part: it takes one finished tile more
        first = now - PRODUCT_WINDOW_TILES[w] + (0 if level == 0 else 1)
        _add(tiles, level, newest, first, now, windows[w])
    for i in range(len(PRODUCT_COUNTS)):
        kept[PRODUCT_COUNTS[i, 2] - PRODUCT_FIRST] = max(windows[PRODUCT_COUNTS[i, 0], PRODUCT_COUNTS[i, 1]], 0)
    views, purchases = max(windows[_WINDOWS - 1, P_VIEW], 0), max(windows[_WINDOWS - 1, P_PURCHASE], 0)
    kept[_CONVERSION - PRODUCT_FIRST] = (purchases + _ABOVE) / (views + _BELOW)
    today = time // PRODUCT_LEVEL_MS[_DAYS]
    popularity = open_[_DAYS, P_VIEW] * POPULARITY_WEIGHTS[0]
    total, priced = np.int64(0), np.int64(0)
    end = newest // PRODUCT_LEVEL_MS[_DAYS] + 1
    for day in range(max(today - _HISTORY + 1, end - PRODUCT_DAYS), min(today, end)):
        at = day % PRODUCT_DAYS
        popularity += POPULARITY_WEIGHTS[today - day] * tiles[PRODUCT_OFFSETS[_DAYS] + at, P_VIEW]
        total += row[PRICES + at]
        priced += tiles[PRODUCT_OFFSETS[_DAYS] + at, P_PRICED]
    kept[_VISITORS_1D - PRODUCT_FIRST] = count_visitors(row, newest, today - 1, today)
    kept[_VISITORS_7D - PRODUCT_FIRST] = count_visitors(row, newest, today - _VISITORS_DAYS, today)
    kept[_POPULARITY - PRODUCT_FIRST] = popularity / ONE
    kept[_RATIO - PRODUCT_FIRST] = total / priced if priced > 0 else 0.0


@kernel
def product_features(rows, tiles, kept_at, kept, slots, times, prices, shown, out, open_, windows):
    """Write the product's features of each event that `shown` (see `features.layout.SHOWN`) lists.

    Slot 0 is the product without history. `kept` (slots, KEPT) holds what was computed for the five minutes `kept_at`
    (slots,), NONE for nothing.
    """
    ratio = len(shown) - 1
    for i in range(len(slots)):
        slot = slots[i]
        tile = times[i] // FINEST_MS
        mine = kept[slot]
        if kept_at[slot] != tile:
            _fill(rows[slot], tiles[slot], times[i], open_, windows, mine)
            kept_at[slot] = tile
        for j in range(ratio):
            out[i, shown[j, 1]] = mine[shown[j, 0]]
        usual = mine[KEPT - 1]
        out[i, shown[ratio, 1]] = prices[i] / usual if prices[i] >= 0 and usual > 0.0 else 1.0
