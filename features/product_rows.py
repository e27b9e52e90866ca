"""Products' rows as bytes for the store and for the scorers that read them: sparse, versioned, exact.

::

    0   int64, little-endian   newest stamp (ms)
    8   byte                   ROW_VERSION
    9   varints                partition and offset of the activity record that changed the row last
    ..  tiles                  per level: how many; each: distance from the next newer, kinds, counts, sum of prices
    ..  visitors               how many days; each: distance from the next newer, how many registers are not empty; each
                               of these as a varint (rank - 1) << 6 | register, or all of them where that is shorter
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

from features.bytes import get_fixed, get_signed, get_varint, put_fixed, put_signed, put_varint
from features.jit import helper, kernel
from features.layout import (
    DAY_SKETCH,
    LANES,
    NONE,
    P_PRICED,
    PRICES,
    PRODUCT_HASH,
    PRODUCT_LEVEL_MS,
    PRODUCT_LEVEL_TILES,
    PRODUCT_LEVELS,
    PRODUCT_NEWEST,
    PRODUCT_OFFSET,
    PRODUCT_OFFSETS,
    PRODUCT_PARTITION,
    PRODUCT_TILES,
    PRODUCT_WORDS,
    REGISTER_BITS,
    REGISTERS,
    SKETCH_DAYS,
    SKETCHES,
)
from features.sets import DAY
from features.visitors import HIGHEST, PER_WORD, empty_of, tally

PRODUCT_ROW_VERSION = 2
MAX_PRODUCT_ROW = 9 + 20 + PRODUCT_LEVELS + PRODUCT_TILES * (2 + 5 * LANES) + 10 * PRODUCT_WORDS + 4 * SKETCH_DAYS
"""No packed row is longer than this many bytes."""
_SPARSE = 24
"""So many registers take fewer bytes one by one than all of them do: a little more than one each."""


@helper
def _pack_visitors(row, buffer, at):
    last = row[PRODUCT_NEWEST] // DAY
    head = at
    at += 1
    days, before = 0, last
    for day in range(last, last - SKETCH_DAYS, -1):
        place = SKETCHES + day % SKETCH_DAYS * DAY_SKETCH
        some, total = 0, 0
        for part in range(DAY_SKETCH):
            some |= row[place + part]
        if some == 0:
            continue
        for part in range(DAY_SKETCH):
            total += tally(row[place + part])
        count = REGISTERS - empty_of(total)
        days += 1
        at = put_varint(buffer, at, before - day)
        before = day
        buffer[at] = count
        at += 1
        for part in range(DAY_SKETCH):
            word = row[place + part]
            if count > _SPARSE:
                at = put_fixed(buffer, at, word, 8)
                continue
            if word == 0:
                continue
            for register in range(part * PER_WORD, (part + 1) * PER_WORD):
                rank = (word >> (register % PER_WORD * REGISTER_BITS)) & HIGHEST
                if rank != 0:
                    at = put_varint(buffer, at, (rank - 1) * REGISTERS + register)
    buffer[head] = days
    return at


@helper
def _unpack_visitors(buffer, at, end, row):
    day = row[PRODUCT_NEWEST] // DAY
    days, at = get_fixed(buffer, at, end, 1)
    for _ in range(min(days, SKETCH_DAYS)):
        step, at = get_varint(buffer, at, end)
        day -= step
        place = SKETCHES + day % SKETCH_DAYS * DAY_SKETCH
        count, at = get_fixed(buffer, at, end, 1)
        if count > _SPARSE:
            for part in range(DAY_SKETCH):
                row[place + part], at = get_fixed(buffer, at, end, 8)
            continue
        for _ in range(count):
            value, at = get_varint(buffer, at, end)
            register = value % REGISTERS
            rank = min(value // REGISTERS + 1, HIGHEST)
            row[place + register // PER_WORD] |= rank << (register % PER_WORD * REGISTER_BITS)
    return at


@kernel
def pack_products(rows, tiles, slots, buffer, ends):
    """Pack the rows of `slots` one behind the other into `buffer`; `ends` (n,) becomes where each one ends."""
    at = 0
    for i in range(len(slots)):
        row, mine = rows[slots[i]], tiles[slots[i]]
        newest = row[PRODUCT_NEWEST]
        at = put_fixed(buffer, at, newest, 8)
        buffer[at] = PRODUCT_ROW_VERSION
        at = put_signed(buffer, at + 1, row[PRODUCT_PARTITION])
        at = put_signed(buffer, at, row[PRODUCT_OFFSET])
        for level in range(PRODUCT_LEVELS):
            length = PRODUCT_LEVEL_TILES[level]
            last = newest // PRODUCT_LEVEL_MS[level]
            head = at
            at += 1
            count, before = 0, last
            for tile in range(last, last - length, -1):
                place = PRODUCT_OFFSETS[level] + tile % length
                mask = 0
                for lane in range(LANES):
                    if mine[place, lane] != 0:
                        mask |= 1 << lane
                if mask == 0:
                    continue
                count += 1
                at = put_varint(buffer, at, before - tile)
                before = tile
                buffer[at] = mask
                at += 1
                for lane in range(LANES):
                    if mine[place, lane] != 0:
                        at = put_signed(buffer, at, mine[place, lane])
                if mine[place, P_PRICED] != 0:
                    at = put_varint(buffer, at, row[PRICES + tile % length])
            buffer[head] = count
        at = _pack_visitors(row, buffer, at)
        ends[i] = at


@kernel
def unpack_products(buffer, ends, slots, hashes, rows, tiles):
    """Fill the rows of `slots` from packed bytes, an empty stretch being a new product.

    Return the index of the first row that is no packed row, or -1.
    """
    start = 0
    for i in range(len(slots)):
        row, mine = rows[slots[i]], tiles[slots[i]]
        row[:] = 0
        mine[:] = 0
        # 32 bits, never 0: that stands for "no product"
        row[PRODUCT_HASH] = max((hashes[i] >> 32) & 0xFFFFFFFF, 1)
        row[PRODUCT_NEWEST] = row[PRODUCT_PARTITION] = row[PRODUCT_OFFSET] = NONE
        end = ends[i]
        if end == start:
            continue
        row[PRODUCT_NEWEST], at = get_fixed(buffer, start, end, 8)
        row[PRODUCT_PARTITION], at = get_signed(buffer, at + 1, end)
        row[PRODUCT_OFFSET], at = get_signed(buffer, at, end)
        for level in range(PRODUCT_LEVELS):
            length = PRODUCT_LEVEL_TILES[level]
            tile = row[PRODUCT_NEWEST] // PRODUCT_LEVEL_MS[level]
            count, at = get_fixed(buffer, at, end, 1)
            for _ in range(min(count, length)):
                step, at = get_varint(buffer, at, end)
                tile -= step
                place = PRODUCT_OFFSETS[level] + tile % length
                mask, at = get_fixed(buffer, at, end, 1)
                for lane in range(LANES):
                    if mask & (1 << lane):
                        mine[place, lane], at = get_signed(buffer, at, end)
                if mine[place, P_PRICED] != 0:
                    row[PRICES + tile % length], at = get_varint(buffer, at, end)
        at = _unpack_visitors(buffer, at, end, row)
        if at != end:
            return i
        start = end
    return -1
