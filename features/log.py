"""A user's log of last events, sorted by stamp, and what happens to those that leave it (kernels on one row).

The state of a user is a fold over its events in the order of their stamps: a base (summary and tiles) of those that
left the log, then the log. An event that arrives late is inserted where it belongs, so whatever is read from the log is
as of a stamp by construction, and does not depend on the order of arrival.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

import numpy as np

from features.hashing import anonymous_key, session_key
from features.jit import helper
from features.layout import (
    AMOUNT,
    ANONYMOUS,
    BLOCK,
    CART,
    CATEGORY,
    COUNT,
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
    META,
    NONE,
    PRICE_LEVEL,
    PRICED_FROM,
    PRICED_SUM,
    PRICES_FROM,
    PRICES_SUM,
    PURCHASE,
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
    TABLE,
    TIME,
    UNDO_MASK,
    USER_WORDS,
    VIEW,
)
from features.sets import DISTINCT_LIMIT, SESSION_GAP_MS, SESSION_PERIOD_MS, VALUE_LIMIT

_LOW = 0xFFFFFFFF


@helper
def clear(row):
    """Make `row` that of a user without events."""
    for j in range(USER_WORDS):
        row[j] = 0
    for j in (BLOCK, FLUSHED, LAST_VIEW, LAST_CART, LAST_PURCHASE):
        row[j] = NONE


@helper
def amount_of(kind, time, value, price, undo_time):
    """Return the AMOUNT word: what a view shows, a purchase is worth, or a return takes back and from which tile."""
    value = min(max(value, -VALUE_LIMIT), VALUE_LIMIT)
    if kind < PURCHASE:
        return (min(price, VALUE_LIMIT) + 1) << 16 if kind == VIEW else np.int64(0)
    if kind == PURCHASE:
        return value << 16
    if undo_time <= 0:
        return np.int64(0)
    age = time // FINEST_MS - min(undo_time, time) // FINEST_MS + 1
    # older than any window: nothing left to take back
    return (abs(value) << 16) | age if age <= UNDO_MASK else np.int64(0)


@helper
def _join(row, j):
    """Return the session of entry `j`, which brought no id: that of the event before it, unless silence lay between."""
    time = row[TIME + j]
    # an event older than the base stands first for a moment, on its way into the base: it precedes nothing
    logged = j > 0 and row[TIME + j - 1] >= row[FLUSHED]
    before = row[TIME + j - 1] if logged else row[FLUSHED]
    key = row[KEY + j - 1] if logged else row[SESSION_KEY]
    near = before >= 0 and abs(time - before) <= SESSION_GAP_MS
    if near and time // SESSION_PERIOD_MS == before // SESSION_PERIOD_MS:
        return key
    return anonymous_key(time)


@helper
def in_table(row, product):
    """Return whether the base session's table holds the hash `product`; what is not used is 0, and no hash is."""
    found = False
    for word in range(TABLE, TIME):
        found |= (row[word] & _LOW) == product
        found |= ((row[word] >> 32) & _LOW) == product
    return found


@helper
def freshen(row, start):
    """Mark, from entry `start` on, the first event of its session on its product."""
    for j in range(start, row[COUNT]):
        meta = row[META + j] & ~FRESH
        product = meta >> 8
        fresh = product != 0
        key = row[KEY + j]
        i = j - 1
        while fresh and i >= 0 and row[KEY + i] == key:
            fresh = row[META + i] >> 8 != product
            i -= 1
        if fresh and i < 0 and row[FLUSHED] >= 0 and row[SESSION_KEY] == key:
            fresh = not in_table(row, product)
        row[META + j] = meta | FRESH if fresh else meta


@helper
def insert(row, time, session, kind, amount, product, category):
    """Put an event into the log behind all that are not stamped later, and return its place."""
    count = row[COUNT]
    at = count
    while at > 0 and row[TIME + at - 1] > time:
        at -= 1
    for field in (TIME, KEY, AMOUNT, META):
        for j in range(count, at, -1):
            row[field + j] = row[field + j - 1]
    categories = row[CATEGORY:].view(np.int32)
    for j in range(count, at, -1):
        categories[j] = categories[j - 1]
    categories[at] = category
    row[COUNT] = count + 1
    row[TIME + at] = time
    row[AMOUNT + at] = amount
    row[META + at] = (product << 8) | kind | (ANONYMOUS if session == 0 else 0)
    row[KEY + at] = _join(row, at) if session == 0 else session_key(session, time)
    for j in range(at + 1, count + 1):
        if row[META + j] & ANONYMOUS:
            row[KEY + j] = _join(row, j)
    freshen(row, at)
    return at


@helper
def _flush_session(row, time, key, meta, price):
    """Add the event to the base's session; one of another session replaces it, unless it is stamped earlier."""
    if row[FLUSHED] >= 0 and key == row[SESSION_KEY]:
        row[SESSION_START] = min(row[SESSION_START], time)
    elif time >= row[FLUSHED]:
        row[SESSION_KEY] = key
        row[SESSION_START] = time
        row[SESSION_EVENTS] = row[SESSION_VIEWS] = row[SESSION_CARTS] = row[DISTINCT] = 0
        row[SESSION_PRICED] = row[SESSION_PRICES] = row[SESSION_HIGHEST] = row[SESSION_LOWEST] = 0
        for j in range(TABLE, TIME):
            row[j] = 0
    else:
        return
    row[SESSION_EVENTS] += 1
    row[SESSION_VIEWS] += (meta & KIND_MASK) == VIEW
    row[SESSION_CARTS] += (meta & KIND_MASK) == CART
    if price > 0:
        row[SESSION_PRICED] += 1
        row[SESSION_PRICES] += price - 1
        row[SESSION_HIGHEST] = max(row[SESSION_HIGHEST], price)
        row[SESSION_LOWEST] = min(row[SESSION_LOWEST], price) if row[SESSION_LOWEST] > 0 else price
    count = row[DISTINCT]
    if meta & FRESH and count < DISTINCT_LIMIT:
        row[TABLE + (count >> 1)] |= (meta >> 8) << ((count & 1) << 5)
        row[DISTINCT] = count + 1


@helper
def tiles_of(time, out):
    """Write the tile of `time` at each level: a loop of constant length and divisors becomes multiplications."""
    for level in range(LEVELS):
        out[level] = time // LEVEL_MS[level]


@helper
def place_of(level, tile):
    """Return where `tile` lies in a block."""
    # so, and not by `level` as an index, divisors are constants here too
    for known in range(LEVELS):
        if known == level:
            return LEVEL_OFFSET[known] + tile % LEVEL_TILES[known]
    return 0


@helper
def _flush_tiles(tiles, spend, totals, newest, scratch, time, kind, amount):
    """Count the event in its tiles; `newest` (levels,) are the newest ones that the rings hold."""
    value = amount >> 16
    undo = amount & UNDO_MASK
    tiles_of(time, scratch)
    for level in range(LEVELS):
        tile = scratch[level]
        if tile > newest[level] - LEVEL_TILES[level]:
            at = place_of(level, tile)
            tiles[at, kind] += 1
            totals[level, kind] += 1
            if kind == PURCHASE:
                spend[at] += value
                totals[level, SPEND] += value
            if level == INTEREST_LEVEL and kind == VIEW:
                age = totals[LEVELS, INTEREST_AT] - tile
                if 0 <= age < len(INTEREST_WEIGHTS):
                    totals[LEVELS, INTEREST_SUM] += INTEREST_WEIGHTS[age]
            if level == PRICE_LEVEL and kind == VIEW and value > 0:
                spend[at + PRICES_FROM] += value - 1
                spend[at + PRICED_FROM] += 1
                totals[LEVELS, PRICES_SUM] += value - 1
                totals[LEVELS, PRICED_SUM] += 1
    if undo == 0:
        return
    tiles_of((time // FINEST_MS + 1 - undo) * FINEST_MS, scratch)
    for level in range(LEVELS):
        tile = scratch[level]
        if tile > newest[level] - LEVEL_TILES[level]:
            at = place_of(level, tile)
            tiles[at, PURCHASE] -= 1
            spend[at] -= value
            totals[level, PURCHASE] -= 1
            totals[level, SPEND] -= value


@helper
def _advance(tiles, spend, totals, before, newest):
    """Clear the tiles that come into the rings when the newest ones are no longer `before` but `newest` (levels,)."""
    for level in range(LEVELS):
        last = newest[level]
        if last == before[level]:
            continue
        for tile in range(max(before[level] + 1, last - LEVEL_TILES[level] + 1), last + 1):
            at = place_of(level, tile)
            totals[level, SPEND] -= spend[at]
            spend[at] = 0
            for lane in range(KINDS):
                totals[level, lane] -= tiles[at, lane]
                tiles[at, lane] = 0
            if level == PRICE_LEVEL:
                totals[LEVELS, PRICES_SUM] -= spend[at + PRICES_FROM]
                totals[LEVELS, PRICED_SUM] -= spend[at + PRICED_FROM]
                spend[at + PRICES_FROM] = spend[at + PRICED_FROM] = 0
        if level == INTEREST_LEVEL:
            totals[LEVELS, INTEREST_AT] = NONE


@helper
def clear_block(tiles, spend, totals):
    """Make a block that of no events."""
    tiles[:] = 0
    spend[:] = 0
    totals[:] = 0
    totals[LEVELS, INTEREST_AT] = NONE


@helper
def total_block(tiles, spend, totals):
    """Compute the totals of a block whose tiles were read from the store."""
    for level in range(LEVELS):
        for at in range(LEVEL_OFFSET[level], LEVEL_OFFSET[level + 1]):
            totals[level, SPEND] += spend[at]
            for lane in range(KINDS):
                totals[level, lane] += tiles[at, lane]
            if level == PRICE_LEVEL:
                totals[LEVELS, PRICES_SUM] += spend[at + PRICES_FROM]
                totals[LEVELS, PRICED_SUM] += spend[at + PRICED_FROM]


@helper
def flush(row, tiles, spend, totals, before, newest, scratch):
    """Move the oldest entry of the log into the base, whose block is given; three arrays (levels,) are scratch."""
    time, key, amount, meta = row[TIME], row[KEY], row[AMOUNT], row[META]
    kind = meta & KIND_MASK
    flushed = row[FLUSHED]
    price = amount >> 16 if kind == VIEW else np.int64(0)
    _flush_session(row, time, key, meta, price)
    tiles_of(max(flushed, time), newest)
    if time > flushed:
        if flushed >= 0:
            tiles_of(flushed, before)
            _advance(tiles, spend, totals, before, newest)
        row[FLUSHED] = time
    _flush_tiles(tiles, spend, totals, newest, scratch, time, kind, amount)
    if kind == VIEW:
        if time >= row[LAST_VIEW]:
            row[LAST_PRICE] = price if time > row[LAST_VIEW] else max(price, row[LAST_PRICE])
        row[LAST_VIEW] = max(row[LAST_VIEW], time)
    elif kind == CART:
        row[LAST_CART] = max(row[LAST_CART], time)
    elif kind == PURCHASE:
        row[LAST_PURCHASE] = max(row[LAST_PURCHASE], time)
    count = row[COUNT] - 1
    for field in (TIME, KEY, AMOUNT, META):
        for j in range(count):
            row[field + j] = row[field + j + 1]
        row[field + count] = 0
    categories = row[CATEGORY:].view(np.int32)
    for j in range(count):
        categories[j] = categories[j + 1]
    categories[count] = 0
    row[COUNT] = count
    if time < flushed:
        # it stood before events that do not follow it: what is fresh among them is to be found again
        freshen(row, 0)
