"""Users' rows as bytes for the store: sparse, versioned, the exact inverse of the row, free of slot numbers.

::

    0   int64, little-endian   newest stamp (ms)
    8   byte                   ROW_VERSION
    9   byte                   1: a base follows, 2: and its tiles
    ..  base                   age of the newest stamp that left the log; ages of last view, cart, purchase (0 none);
                               price of that view + 1 (0 none); session key, age of its start, its events, views,
                               carts, prices (how many, sum, highest, lowest), products
    ..  tiles                  per level: how many; each: distance from the next newer << 1 | has money, kinds, counts,
                               and in the 7 days with views how many had a price, and their sum
    ..  log                    how many; age of the first, then distances; each: flags, session key unless as before (of
                               one without an id that begins here: one byte that says so), product, category unless as
                               before, value and undo, or a view's price + 1

Numbers are varints. A user with 5 events takes some 60 bytes, one with hundreds some 300.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

import numpy as np

from features.bytes import get_fixed, get_signed, get_varint, put_fixed, put_signed, put_varint
from features.hashing import anonymous_key
from features.jit import helper, kernel
from features.layout import (
    AMOUNT,
    ANONYMOUS,
    BLOCK,
    BLOCK_TILES,
    CATEGORY,
    COUNT,
    DISTINCT,
    FLUSHED,
    KEY,
    KINDS,
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
    PRICE_LEVEL,
    PRICED_FROM,
    PRICES_FROM,
    PURCHASE,
    SESSION_EVENTS,
    SESSION_KEY,
    SESSION_LOWEST,
    SESSION_PRICED,
    SESSION_PRICES,
    SESSION_START,
    TABLE,
    TIME,
    UNDO_MASK,
    VIEW,
)
from features.log import clear, clear_block, freshen, total_block
from features.sets import DISTINCT_LIMIT

ROW_VERSION = 3
HEADER = 9
MAX_ROW = HEADER + 1 + 15 * 9 + 4 * DISTINCT_LIMIT + LEVELS + BLOCK_TILES * (3 + 5 * KINDS + 9 + 18) + 1 + LOG * 40
"""No packed row is longer than this many bytes."""

_BASE, _TILES = 1, 2
_ANON, _SAME, _PRODUCT, _AMOUNT, _SAME_CATEGORY = 8, 16, 32, 64, 128
_NEW_CATEGORY = LOG
"""A category is told as 0 for none, as how many entries back it was told last, or so and in 4 bytes."""


@helper
def _put_base(buffer, at, row, newest):
    flushed = row[FLUSHED]
    at = put_varint(buffer, at, newest - flushed)
    for word in range(LAST_VIEW, LAST_PURCHASE + 1):
        at = put_varint(buffer, at, flushed - row[word] + 1 if row[word] >= 0 else 0)
    at = put_varint(buffer, at, row[LAST_PRICE])
    at = put_fixed(buffer, at, row[SESSION_KEY], 8)
    at = put_varint(buffer, at, flushed - row[SESSION_START])
    for word in range(SESSION_EVENTS, SESSION_PRICED + 1):
        at = put_varint(buffer, at, row[word])
    if row[SESSION_PRICED] > 0:
        for word in range(SESSION_PRICES, SESSION_LOWEST + 1):
            at = put_varint(buffer, at, row[word])
    at = put_varint(buffer, at, row[DISTINCT])
    for i in range(row[DISTINCT]):
        at = put_fixed(buffer, at, row[TABLE + (i >> 1)] >> ((i & 1) << 5), 4)
    return at


@helper
def _get_base(buffer, at, end, row, newest):
    value, at = get_varint(buffer, at, end)
    flushed = newest - value
    row[FLUSHED] = flushed
    for word in range(LAST_VIEW, LAST_PURCHASE + 1):
        value, at = get_varint(buffer, at, end)
        row[word] = flushed - value + 1 if value > 0 else NONE
    row[LAST_PRICE], at = get_varint(buffer, at, end)
    row[SESSION_KEY], at = get_fixed(buffer, at, end, 8)
    value, at = get_varint(buffer, at, end)
    row[SESSION_START] = flushed - value
    for word in range(SESSION_EVENTS, SESSION_PRICED + 1):
        row[word], at = get_varint(buffer, at, end)
    if row[SESSION_PRICED] > 0:
        for word in range(SESSION_PRICES, SESSION_LOWEST + 1):
            row[word], at = get_varint(buffer, at, end)
    count, at = get_varint(buffer, at, end)
    row[DISTINCT] = min(count, DISTINCT_LIMIT)
    for i in range(row[DISTINCT]):
        value, at = get_fixed(buffer, at, end, 4)
        row[TABLE + (i >> 1)] |= value << ((i & 1) << 5)
    return at


@helper
def _mask(tiles, place):
    mask = 0
    for lane in range(KINDS):
        if tiles[place, lane] != 0:
            mask |= 1 << lane
    return mask


@helper
def _put_tiles(buffer, at, tiles, spend, newest):
    for level in range(LEVELS):
        length = LEVEL_TILES[level]
        last = newest // LEVEL_MS[level]
        head = at
        at += 1
        count, before = 0, last
        for age in range(length):
            place = LEVEL_OFFSET[level] + (last - age) % length
            mask = _mask(tiles, place)
            money = 1 if spend[place] != 0 else 0
            if mask == 0 and money == 0:
                continue
            count += 1
            at = put_varint(buffer, at, (before - (last - age)) << 1 | money)
            before = last - age
            buffer[at] = mask
            at += 1
            for lane in range(KINDS):
                if tiles[place, lane] != 0:
                    at = put_signed(buffer, at, tiles[place, lane])
            if money:
                at = put_signed(buffer, at, spend[place])
            if level == PRICE_LEVEL and mask & (1 << VIEW):
                at = put_varint(buffer, at, spend[place + PRICED_FROM])
                if spend[place + PRICED_FROM] > 0:
                    at = put_varint(buffer, at, spend[place + PRICES_FROM])
        buffer[head] = count
    return at


@helper
def _get_tiles(buffer, at, end, tiles, spend, newest):
    for level in range(LEVELS):
        length = LEVEL_TILES[level]
        tile = newest // LEVEL_MS[level]
        count, at = get_fixed(buffer, at, end, 1)
        for _ in range(min(count, length)):
            value, at = get_varint(buffer, at, end)
            tile -= value >> 1
            place = LEVEL_OFFSET[level] + tile % length
            mask, at = get_fixed(buffer, at, end, 1)
            for lane in range(KINDS):
                if mask & (1 << lane):
                    tiles[place, lane], at = get_signed(buffer, at, end)
            if value & 1:
                spend[place], at = get_signed(buffer, at, end)
            if level == PRICE_LEVEL and mask & (1 << VIEW):
                spend[place + PRICED_FROM], at = get_varint(buffer, at, end)
                if spend[place + PRICED_FROM] > 0:
                    spend[place + PRICES_FROM], at = get_varint(buffer, at, end)
    return at


@helper
def _put_category(buffer, at, categories, j):
    category, back = categories[j], np.int64(0)
    if category != 0:
        back = np.int64(1)
        while back <= j and categories[j - back] != category:
            back += 1
        if back > j:
            back = np.int64(_NEW_CATEGORY)
    buffer[at] = back
    return put_fixed(buffer, at + 1, category, 4) if back == _NEW_CATEGORY else at + 1


@helper
def _get_category(buffer, at, end, categories, j):
    back, at = get_fixed(buffer, at, end, 1)
    category = np.int64(0)
    if back >= _NEW_CATEGORY:
        category, at = get_fixed(buffer, at, end, 4)
    elif 0 < back <= j:
        category = np.int64(categories[j - back])
    categories[j] = category
    return at


@helper
def _put_log(buffer, at, row, newest):
    at = put_varint(buffer, at, row[COUNT])
    key, categories = row[SESSION_KEY], row[CATEGORY:].view(np.int32)
    for j in range(row[COUNT]):
        step = newest - row[TIME] if j == 0 else row[TIME + j] - row[TIME + j - 1]
        at = put_varint(buffer, at, step)
        meta, amount = row[META + j], row[AMOUNT + j]
        product = meta >> 8
        flags = meta & 7
        flags |= _ANON if meta & ANONYMOUS else 0
        flags |= _SAME if row[KEY + j] == key else 0
        flags |= _PRODUCT if product else 0
        flags |= _AMOUNT if amount else 0
        same = categories[j] == (categories[j - 1] if j > 0 else 0)
        flags |= _SAME_CATEGORY if same else 0
        buffer[at] = flags
        at += 1
        if row[KEY + j] != key:
            key = row[KEY + j]
            opens = meta & ANONYMOUS != 0 and key == anonymous_key(row[TIME + j])
            if meta & ANONYMOUS:
                buffer[at] = opens
                at += 1
            if not opens:
                at = put_fixed(buffer, at, key, 8)
        if product:
            at = put_fixed(buffer, at, product, 4)
        if not same:
            at = _put_category(buffer, at, categories, j)
        if amount:
            at = put_signed(buffer, at, amount >> 16)
            if meta & 7 > PURCHASE:
                at = put_varint(buffer, at, amount & UNDO_MASK)
    return at


@helper
def _get_log(buffer, at, end, row, newest):
    count, at = get_varint(buffer, at, end)
    row[COUNT] = min(count, LOG - 1)
    key, categories = row[SESSION_KEY], row[CATEGORY:].view(np.int32)
    for j in range(row[COUNT]):
        step, at = get_varint(buffer, at, end)
        row[TIME + j] = newest - step if j == 0 else row[TIME + j - 1] + step
        flags, at = get_fixed(buffer, at, end, 1)
        if not flags & _SAME:
            opens = 0
            if flags & _ANON:
                opens, at = get_fixed(buffer, at, end, 1)
            if opens:
                key = anonymous_key(row[TIME + j])
            else:
                key, at = get_fixed(buffer, at, end, 8)
        row[KEY + j] = key
        product = 0
        if flags & _PRODUCT:
            product, at = get_fixed(buffer, at, end, 4)
        if flags & _SAME_CATEGORY:
            categories[j] = categories[j - 1] if j > 0 else 0
        else:
            at = _get_category(buffer, at, end, categories, j)
        row[META + j] = product << 8 | flags & 7 | (ANONYMOUS if flags & _ANON else 0)
        if flags & _AMOUNT:
            value, at = get_signed(buffer, at, end)
            undo = 0
            if flags & 7 > PURCHASE:
                undo, at = get_varint(buffer, at, end)
            row[AMOUNT + j] = value << 16 | undo & UNDO_MASK
    return at


@helper
def _any(tiles, spend):
    for place in range(BLOCK_TILES):  # noqa: SIM110 (numba compiles no generator here)
        if spend[place] != 0 or _mask(tiles, place) != 0:
            return True
    return False


@kernel
def pack_users(rows, tiles, spend, slots, buffer, ends):
    """Pack the rows of `slots` one behind the other into `buffer`; `ends` (n,) becomes where each one ends."""
    at = 0
    for i in range(len(slots)):
        row = rows[slots[i]]
        newest = row[TIME + row[COUNT] - 1]
        at = put_fixed(buffer, at, newest, 8)
        buffer[at] = ROW_VERSION
        flags = _BASE if row[FLUSHED] >= 0 else 0
        block = row[BLOCK]
        if block >= 0 and _any(tiles[block], spend[block]):
            flags |= _TILES
        buffer[at + 1] = flags
        at += 2
        if flags & _BASE:
            at = _put_base(buffer, at, row, newest)
        if flags & _TILES:
            at = _put_tiles(buffer, at, tiles[block], spend[block], row[FLUSHED])
        at = _put_log(buffer, at, row, newest)
        ends[i] = at


@kernel
def unpack_users(buffer, ends, slots, rows, tiles, spend, totals, free):
    """Fill the rows of `slots` from packed bytes, an empty stretch being a new user; `free` gives blocks.

    Return the index of the first row that is no packed row, or -1.
    """
    start = 0
    for i in range(len(slots)):
        row = rows[slots[i]]
        clear(row)
        end = ends[i]
        if end == start:
            continue
        newest, at = get_fixed(buffer, start, end, 8)
        flags, at = get_fixed(buffer, at + 1, end, 1)
        if flags & _BASE:
            at = _get_base(buffer, at, end, row, newest)
        if flags & _TILES:
            free[0] -= 1
            block = free[1 + free[0]]
            row[BLOCK] = block
            clear_block(tiles[block], spend[block], totals[block])
            at = _get_tiles(buffer, at, end, tiles[block], spend[block], row[FLUSHED])
            total_block(tiles[block], spend[block], totals[block])
        at = _get_log(buffer, at, end, row, newest)
        if at != end or row[COUNT] == 0:
            return i
        freshen(row, 0)
        start = end
    return -1
