"""The kernel of scoring: one event after the other, each updates its user's row and is followed by its vector.

Sequential on purpose: an event sees what came before it and nothing of its own batch's future, and a batch cut anywhere
gives the same bits. Sums are integers; the few floats are scalar expressions in a fixed order.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

import math

import numpy as np

from features.jit import helper, kernel
from features.layout import (
    AMOUNT,
    BLOCK,
    CANCEL,
    CART,
    CATEGORY,
    COARSEST,
    COLUMN,
    COUNT,
    DAY_COS,
    DAY_SIN,
    DISTINCT,
    FINEST_MS,
    FLUSHED,
    FRESH,
    INTEREST_AT,
    INTEREST_LEVEL,
    INTEREST_SUM,
    INTEREST_WEIGHTS,
    KEY,
    KIND_MASK,
    KINDS,
    LAST_CART,
    LAST_PRICE,
    LAST_PURCHASE,
    LAST_VIEW,
    LEVEL_MS,
    LEVEL_OFFSET,
    LEVEL_TILES,
    LEVELS,
    LOG,
    META,
    NONE,
    ONE,
    PRICE_LEVEL,
    PRICED_FROM,
    PRICED_SUM,
    PRICES_FROM,
    PRICES_SUM,
    PURCHASE,
    REMOVE,
    RETURN,
    SEARCH,
    SESSION_CARTS,
    SESSION_EVENTS,
    SESSION_HIGHEST,
    SESSION_KEY,
    SESSION_LOWEST,
    SESSION_PRICED,
    SESSION_PRICES,
    SESSION_START,
    SESSION_VIEWS,
    SPEND,
    TIME,
    UNDO_MASK,
    USER_COUNTS,
    USER_SUMS,
    VIEW,
    VIEWED,
    VIEWED_COUNT,
    WEEK_COS,
    WEEK_SIN,
    WEEK_START_MS,
    WISH,
    YEAR_COS,
    YEAR_SIN,
)
from features.log import amount_of, clear_block, flush, in_table, insert, place_of, tiles_of
from features.sets import DAY, DISTINCT_LIMIT, HOUR, LOG_LENGTH, MEMORY_MS, MINUTE, RETURN_PRIOR, VALUE_LIMIT

_RATE = COLUMN["user_return_rate_30d"]
_INTEREST = COLUMN["user_interest"]
_SINCE_VIEW = COLUMN["user_since_view"]
_SINCE_CART = COLUMN["user_since_cart"]
_SINCE_PURCHASE = COLUMN["user_since_purchase"]
_LAST_PRICE = COLUMN["user_last_price"]
_USUAL_PRICE = COLUMN["user_mean_price_7d"]
_PRICE_RATIO = COLUMN["user_price_ratio_7d"]
_SESSION_MEAN = COLUMN["session_mean_price"]
_SESSION_MAX = COLUMN["session_max_price"]
_SESSION_MIN = COLUMN["session_min_price"]
_EVENTS = COLUMN["session_events"]
_VIEWS = COLUMN["session_views"]
_CARTS = COLUMN["session_carts"]
_DISTINCT = COLUMN["session_distinct_products"]
_SEEN = COLUMN["session_product_seen"]
_DURATION = COLUMN["session_duration"]
_PREVIOUS = COLUMN["session_since_previous"]
_GAP = COLUMN["session_mean_gap"]
_USER_GAP = COLUMN["user_mean_gap"]
_CATEGORY_VIEWS = COLUMN["user_category_views"]
_CATEGORY_CARTS = COLUMN["user_category_carts"]
_CATEGORY_PURCHASES = COLUMN["user_category_purchases"]
_CATEGORY_SINCE = COLUMN["user_category_since"]
_CATEGORY_TOP = COLUMN["user_category_top"]
_CATEGORY_SHARE = COLUMN["user_category_share"]
_CATEGORIES = COLUMN["user_categories"]
_CONTEXT = COLUMN["hour_sin"]
_INTEREST_MS = int(LEVEL_MS[INTEREST_LEVEL])
_NO_PRICE = VALUE_LIMIT + 2
_RATE_ABOVE, _RATE_BELOW = RETURN_PRIOR
_PARTS = np.array([0, *(math.lcm(*range(1, LOG + 1)) // n for n in range(1, LOG + 1))], np.int64)
"""What an event adds whose category occurs n times, so that each category adds _PARTS[1]."""


@helper
def _since(time, last):
    """Return the seconds from `last` to `time`, at most the memory; `last` is NONE where there was none."""
    if last < 0 or last > time:
        return MEMORY_MS / 1000
    return min(time - last, MEMORY_MS) / 1000


@helper
def _log_windows(row, at, starts, sums):
    """Write the log up to entry `at` into `sums` (windows, kinds and money); return its share of the interest.

    From the latest entry back: the windows begin one before the other. Counts of 8 kinds share a word, a byte each.
    """
    counts, spend, interest = np.int64(0), np.int64(0), np.int64(0)
    viewed, priced = np.int64(0), np.int64(0)
    now = row[TIME + at] // _INTEREST_MS
    j = at
    for level in range(LEVELS):
        start = starts[level]
        while j >= 0 and row[TIME + j] >= start:
            kind = row[META + j] & KIND_MASK
            counts += np.int64(1) << (kind << 3)
            if kind == PURCHASE:
                spend += row[AMOUNT + j] >> 16
            if level <= INTEREST_LEVEL:
                # without a branch, which would often be guessed wrong
                interest += INTEREST_WEIGHTS[now - row[TIME + j] // _INTEREST_MS] * (kind == VIEW)
            if level <= PRICE_LEVEL:
                price = (row[AMOUNT + j] >> 16) * (kind == VIEW)
                viewed += price - (price > 0)
                priced += price > 0
            j -= 1
        for lane in range(KINDS):
            sums[level, lane] = (counts >> (lane << 3)) & 255
        sums[level, SPEND] = spend
    sums[PRICE_LEVEL, VIEWED], sums[PRICE_LEVEL, VIEWED_COUNT] = viewed, priced
    if counts >> (RETURN << 3):
        _undo(row, at, starts, sums)
    return interest


@helper
def _undo(row, at, starts, sums):
    """Take back from `sums` the purchases that returns and cancellations of the log, up to entry `at`, undo."""
    for j in range(at + 1):
        undo = row[AMOUNT + j] & UNDO_MASK
        if (row[META + j] & KIND_MASK) > PURCHASE and undo > 0:
            stamp = (row[TIME + j] // FINEST_MS + 1 - undo) * FINEST_MS
            for level in range(LEVELS):
                if stamp >= starts[level]:
                    sums[level, PURCHASE] -= 1
                    sums[level, SPEND] -= row[AMOUNT + j] >> 16


@helper
def _add_tiles(tiles, spend, level, first, last, sign, sums):
    """Add the tiles [first, last] of a ring to `sums`, or take them away."""
    if first > last:
        return
    at = place_of(level, first)
    end = LEVEL_OFFSET[level + 1]
    for _ in range(last - first + 1):
        for lane in range(KINDS):
            sums[level, lane] += sign * tiles[at, lane]
        sums[level, SPEND] += sign * spend[at]
        if level == PRICE_LEVEL:
            sums[level, VIEWED] += sign * spend[at + PRICES_FROM]
            sums[level, VIEWED_COUNT] += sign * spend[at + PRICED_FROM]
        at += 1
        if at == end:
            at = LEVEL_OFFSET[level]


@helper
def _tile_windows(tiles, spend, totals, newest, now, sums):
    """Add the tiles, whose newest are `newest` (levels,), to `sums` as of the tiles `now`; return their interest."""
    for level in range(LEVELS):
        length = LEVEL_TILES[level]
        first = max(now[level], newest[level]) - length + 1
        last = min(now[level], newest[level])
        if last == newest[level] and 2 * (last - first + 1) > length:
            for lane in range(KINDS + 1):
                sums[level, lane] += totals[level, lane]
            if level == PRICE_LEVEL:
                sums[level, VIEWED] += totals[LEVELS, PRICES_SUM]
                sums[level, VIEWED_COUNT] += totals[LEVELS, PRICED_SUM]
            _add_tiles(tiles, spend, level, last - length + 1, first - 1, -1, sums)
        else:
            _add_tiles(tiles, spend, level, first, last, 1, sums)
    level = INTEREST_LEVEL
    if totals[LEVELS, INTEREST_AT] == now[level]:
        return totals[LEVELS, INTEREST_SUM]
    interest = np.int64(0)
    for tile in range(max(now[level], newest[level]) - LEVEL_TILES[level] + 1, min(now[level], newest[level]) + 1):
        interest += INTEREST_WEIGHTS[now[level] - tile] * tiles[place_of(level, tile), VIEW]
    totals[LEVELS, INTEREST_AT] = now[level]
    totals[LEVELS, INTEREST_SUM] = interest
    return interest


@helper
def _is_known(row, at):
    """Return whether the product of entry `at`, which is not its first, is one of the first that its session counts.

    The whole log up to there is of the base's session: no log holds so many products.
    """
    product = row[META + at] >> 8
    if in_table(row, product):
        return True
    known = row[DISTINCT]
    for j in range(at):
        meta = row[META + j]
        if meta & FRESH:
            if meta >> 8 == product:
                return known < DISTINCT_LIMIT
            known += 1
    return False


@helper
def _session(row, at, out):
    """Write the session and the recencies as of entry `at`; return whether the entry opens its session."""
    time, key = row[TIME + at], row[KEY + at]
    counts, distinct = np.int64(0), np.int64(0)
    priced, prices, highest, lowest = np.int64(0), np.int64(0), np.int64(0), np.int64(_NO_PRICE)
    j = at
    while j >= 0 and row[KEY + j] == key:
        meta = row[META + j]
        counts += np.int64(1) << ((meta & KIND_MASK) << 3)
        distinct += (meta & FRESH) != 0
        if meta & KIND_MASK == VIEW and row[AMOUNT + j] > 0:
            price = row[AMOUNT + j] >> 16
            priced += 1
            prices += price - 1
            highest, lowest = max(highest, price), min(lowest, price)
        j -= 1
    start, events = row[TIME + j + 1], at - j
    views, carts = (counts >> (VIEW << 3)) & 255, (counts >> (CART << 3)) & 255
    if j < 0 and row[FLUSHED] >= 0 and row[SESSION_KEY] == key:
        start = min(start, row[SESSION_START])
        events += row[SESSION_EVENTS]
        views += row[SESSION_VIEWS]
        carts += row[SESSION_CARTS]
        distinct += row[DISTINCT]
        priced += row[SESSION_PRICED]
        prices += row[SESSION_PRICES]
        highest = max(highest, row[SESSION_HIGHEST])
        lowest = min(lowest, row[SESSION_LOWEST]) if row[SESSION_LOWEST] > 0 else lowest
    out[_SESSION_MEAN] = prices / priced / 100 if priced > 0 else 0.0
    out[_SESSION_MAX] = (highest - 1) / 100 if priced > 0 else 0.0
    out[_SESSION_MIN] = (lowest - 1) / 100 if priced > 0 else 0.0
    last = row[LAST_PRICE]
    view, cart, purchase = row[LAST_VIEW], row[LAST_CART], row[LAST_PURCHASE]
    for j in range(at):
        kind, stamp = row[META + j] & KIND_MASK, row[TIME + j]
        if kind == VIEW:
            price = row[AMOUNT + j] >> 16
            last = price if stamp > view else max(last, price)
            view = stamp
        cart = stamp if kind == CART else cart
        purchase = stamp if kind == PURCHASE else purchase
    previous = row[TIME + at - 1] if at > 0 else row[FLUSHED]
    out[_LAST_PRICE] = (last - 1) / 100 if last > 0 and 0 <= time - view < MEMORY_MS else 0.0
    out[_SINCE_VIEW] = _since(time, view)
    out[_SINCE_CART] = _since(time, cart)
    out[_SINCE_PURCHASE] = _since(time, purchase)
    out[_EVENTS] = events
    out[_VIEWS] = views
    out[_CARTS] = carts
    out[_DISTINCT] = min(distinct, DISTINCT_LIMIT)
    seen = row[META + at] >> 8 != 0 and row[META + at] & FRESH == 0
    out[_SEEN] = seen and (distinct <= DISTINCT_LIMIT or _is_known(row, at))
    out[_DURATION] = (time - start) / 1000
    out[_PREVIOUS] = _since(time, previous)
    out[_GAP] = (time - start) / 1000 / (events - 1) if events > 1 else 0.0
    return events == 1


@helper
def _last_events(row, at, scratch, out):
    """Write what the last events up to entry `at` say of its category and of the user's pace.

    `scratch` (2, LOG) takes the categories of these events, and how often each occurs among them.
    """
    time, categories = row[TIME + at], row[CATEGORY:].view(np.int32)
    first = max(at - LOG_LENGTH + 1, 0)
    while row[TIME + first] <= time - MEMORY_MS:
        first += 1
    own = categories[at]
    told, often = scratch[0], scratch[1]
    counts, known, last = np.int64(0), np.int64(0), np.int64(NONE)
    for j in range(LOG):
        told[j] = categories[j] if first <= j <= at else 0
        often[j] = 0
    for j in range(first, at + 1):
        category = told[j]
        same = category == own
        counts += np.int64(same) << ((row[META + j] & KIND_MASK) << 3)
        known += category != 0
        last = row[TIME + j] if same and j < at else last
        # over all of the array: a loop of constant length becomes a few wide instructions
        for i in range(LOG):
            often[i] += told[i] == category
    most, parts = np.int64(0), np.int64(0)
    for j in range(first, at + 1):
        most = max(most, often[j] * (told[j] != 0))
        parts += _PARTS[often[j]] * (told[j] != 0)
    out[_USER_GAP] = (time - row[TIME + first]) / 1000 / (at - first) if at > first else 0.0
    out[_CATEGORIES] = parts // _PARTS[1]
    counts *= own != 0
    out[_CATEGORY_VIEWS] = (counts >> (VIEW << 3)) & 255
    out[_CATEGORY_CARTS] = (counts >> (CART << 3)) & 255
    out[_CATEGORY_PURCHASES] = (counts >> (PURCHASE << 3)) & 255
    out[_CATEGORY_SINCE] = _since(time, last if own != 0 else NONE)
    out[_CATEGORY_TOP] = own != 0 and often[at] == most
    out[_CATEGORY_SHARE] = often[at] / known if own != 0 else 0.0


@helper
def _context(time, holiday, kind, price, out):
    """Write what the event itself says, in the order of declaration; `time` is the shop's own."""
    minute = time % DAY // MINUTE
    day = time // DAY % len(YEAR_SIN)
    hour = (time - WEEK_START_MS) % (7 * DAY) // HOUR
    out[_CONTEXT] = DAY_SIN[minute]
    out[_CONTEXT + 1] = DAY_COS[minute]
    out[_CONTEXT + 2] = WEEK_SIN[hour]
    out[_CONTEXT + 3] = WEEK_COS[hour]
    out[_CONTEXT + 4] = YEAR_SIN[day]
    out[_CONTEXT + 5] = YEAR_COS[day]
    out[_CONTEXT + 6] = holiday
    out[_CONTEXT + 7] = kind == SEARCH
    out[_CONTEXT + 8] = kind == CART
    out[_CONTEXT + 9] = kind == REMOVE
    out[_CONTEXT + 10] = kind == WISH
    out[_CONTEXT + 11] = kind == PURCHASE
    out[_CONTEXT + 12] = price / 100 if price >= 0 else 0.0


@helper
def _price_ratio(kind, price, sums, out):
    """Write the price of an event over the mean of what else was viewed, which `sums` holds with the event's own."""
    own = price >= 0 and kind == VIEW
    viewed = sums[PRICE_LEVEL, VIEWED] - (min(price, VALUE_LIMIT) if own else 0)
    priced = sums[PRICE_LEVEL, VIEWED_COUNT] - own
    if price >= 0 and viewed > 0:
        out[_PRICE_RATIO] = price / (viewed / priced)


@helper
def _vector(row, at, tiles, spend, totals, scratch, sums, alike, out):
    """Write the user's and the session's features as of entry `at`; return whether it opens its session."""
    now, newest, starts = scratch[0], scratch[1], scratch[2]
    tiles_of(row[TIME + at], now)
    for level in range(LEVELS):
        starts[level] = (now[level] - LEVEL_TILES[level] + 1) * LEVEL_MS[level]
    interest = _log_windows(row, at, starts, sums)
    block = row[BLOCK]
    if block >= 0:
        tiles_of(row[FLUSHED], newest)
        interest += _tile_windows(tiles[block], spend[block], totals[block], newest, now, sums)
    for i in range(len(USER_COUNTS)):
        out[USER_COUNTS[i, 2]] = max(sums[USER_COUNTS[i, 0], USER_COUNTS[i, 1]], 0)
    for i in range(len(USER_SUMS)):
        out[USER_SUMS[i, 2]] = max(sums[USER_SUMS[i, 0], SPEND], 0) / 100
    back = sums[COARSEST, RETURN] + sums[COARSEST, CANCEL]
    out[_RATE] = (back + _RATE_ABOVE) / (max(back + sums[COARSEST, PURCHASE], 0) + _RATE_BELOW)
    out[_INTEREST] = interest / ONE
    viewed, priced = sums[PRICE_LEVEL, VIEWED], sums[PRICE_LEVEL, VIEWED_COUNT]
    out[_USUAL_PRICE] = viewed / priced / 100 if priced > 0 else 0.0
    out[_PRICE_RATIO] = 1.0
    _last_events(row, at, alike, out)
    return _session(row, at, out)


@kernel
def logged_vector(rows, tiles, spend, totals, slot, at, out, scratch, sums, alike):
    """Write the user's and the session's features of `slot` as of entry `at` of its log; see `apply_events`."""
    _vector(rows[slot], at, tiles, spend, totals, scratch, sums, alike, out)


@kernel
def blocks_needed(rows, slots, extra):
    """Return how many users of the batch will outgrow their log; `extra` (slots,) is scratch, all zeros."""
    needed = 0
    for slot in slots:
        extra[slot] += 1
        if rows[slot, BLOCK] == NONE and rows[slot, COUNT] + extra[slot] == LOG:
            needed += 1
    for slot in slots:
        extra[slot] = 0
    return needed


@kernel
def apply_events(
    rows,
    tiles,
    spend,
    totals,
    free,
    slots,
    kinds,
    times,
    sessions,
    products,
    categories,
    values,
    prices,
    undos,
    clocks,
    holidays,
    out,
    ends,
    scratch,
    sums,
    alike,
):
    """Apply events one by one and write their vectors.

    `clocks` (n,) are the shop's local times and `holidays` (n,) the days to the next one. `free` is a stack of unused
    blocks whose word 0 is its height. `out` is (n, features); `ends` (n,) becomes the end of the session before, where
    an event opens a new one, else NONE. `scratch` (3, levels), `sums` SUMS and `alike` (2, LOG) hold nothing between
    events.
    """
    for i in range(len(slots)):
        row = rows[slots[i]]
        vector = out[i]
        time, kind = times[i], kinds[i]
        amount = amount_of(kind, time, values[i], prices[i], undos[i])
        at = insert(row, time, sessions[i], kind, amount, products[i], categories[i])
        opens = _vector(row, at, tiles, spend, totals, scratch, sums, alike, vector)
        _price_ratio(kind, prices[i], sums, vector)
        _context(clocks[i], holidays[i], kind, prices[i], vector)
        last = row[TIME + at - 1] if at > 0 else row[FLUSHED]
        # only the user's newest event ends the session before it: that is then said once
        ends[i] = last if opens and at == row[COUNT] - 1 else NONE
        if row[COUNT] == LOG:
            if row[BLOCK] == NONE:
                free[0] -= 1
                row[BLOCK] = free[1 + free[0]]
                clear_block(tiles[row[BLOCK]], spend[row[BLOCK]], totals[row[BLOCK]])
            block = row[BLOCK]
            flush(row, tiles[block], spend[block], totals[block], scratch[0], scratch[1], scratch[2])
