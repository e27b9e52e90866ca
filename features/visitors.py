"""Distinct visitors by HyperLogLog: registers of four bits in the words of a product's row, one sketch a day (kernels).

A visitor is a hash of 32 bits, 0 where unknown. Its low bits choose one of `REGISTERS`; its rank is the place of the
lowest bit set among the next 14, counted from 1, or 15 where none is. A register keeps the highest rank it met: so a
visitor who comes again changes nothing, no order matters, and the sketch of several days is the higher of theirs,
register by register (Flajolet, Fusy, Gandouet, Meunier: HyperLogLog, 2007). The estimate is Ertl's improved one (New
cardinality estimation algorithms for HyperLogLog sketches, 2017, arXiv:1702.01284): it needs no thresholds between
few and many, and knows of full registers. Its tables are made by addition, multiplication, division and square root
alone, which IEEE 754 rounds in one way, and between the ends it sums integers: the same bits on every machine.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

import math

import numpy as np

from features.jit import helper
from features.layout import DAY_SKETCH, REGISTER_BITS, REGISTERS, SKETCH_DAYS, SKETCHES
from features.sets import DAY, VISITORS_LIMIT

RANK_BITS = 14
HIGHEST = RANK_BITS + 1
PER_WORD = REGISTERS // DAY_SKETCH
_CHOICE = REGISTERS.bit_length() - 1
_RANKS = (1 << RANK_BITS) - 1


def _sigma(share):
    """Return what empty registers, a `share` of all, stand for: the sum of share^(2^k) 2^(k-1), and share itself."""
    if share == 1.0:
        return math.inf
    total, before, weight = share, -1.0, 1.0
    while total != before:
        share *= share
        before, total, weight = total, total + share * weight, 2.0 * weight
    return total


def _tau(share):
    """Return what full registers stand for, all but a `share` of them: (1 - x - sum of (1 - x^(2^-k))^2 2^-k) / 3."""
    if share in (0.0, 1.0):
        return 0.0
    total, before, weight = 1.0 - share, -1.0, 1.0
    while total != before:
        share, weight = math.sqrt(share), 0.5 * weight
        before, total = total, total - (1.0 - share) * (1.0 - share) * weight
    return total / 3.0


_SCALE = float(1 << RANK_BITS)
_EMPTY = np.array([_SCALE * REGISTERS * _sigma(empty / REGISTERS) for empty in range(REGISTERS + 1)])
_FULL = np.array([REGISTERS * _tau(1 - full / REGISTERS) for full in range(REGISTERS + 1)])
_NUMERATOR = _SCALE * REGISTERS * REGISTERS / (2 * 0.6931471805599453)  # ln 2


_ONES, _EVEN, _TOPS = 0x0101010101010101, 0x0F0F0F0F0F0F0F0F, -0x7F7F7F7F7F7F7F80
"""In each byte: its lowest bit, its lower register, its highest bit."""
_OF_RANK = [1 << 32, *(1 << (RANK_BITS - rank) for rank in range(1, HIGHEST)), 1 << 48]
_TALLY = np.array([_OF_RANK[two & HIGHEST] + _OF_RANK[two >> REGISTER_BITS] for two in range(256)], np.int64)
"""What a byte, which is two registers, adds to a `tally`."""


@helper
def empty_of(total):
    """Return the number of empty registers in a sum of tallies."""
    return (total >> 32) & 0xFFFF


@helper
def note_visitor(row, time, visitor):
    """Let the sketch of the day of `time` (ms), which must be kept, know of a visitor."""
    register = visitor & (REGISTERS - 1)
    rest = (visitor >> _CHOICE) & _RANKS
    rank = HIGHEST
    if rest != 0:
        rank = 1
        while rest & 1 == 0:
            rest >>= 1
            rank += 1
    word = SKETCHES + time // DAY % SKETCH_DAYS * DAY_SKETCH + register // PER_WORD
    shift = register % PER_WORD * REGISTER_BITS
    known = (row[word] >> shift) & HIGHEST
    if rank > known:
        row[word] ^= (rank ^ known) << shift


@helper
def tally(word):
    """Return the number of full registers of a word << 48 | that of empty ones << 32 | the sum of 2^(14 - rank)."""
    total = 0
    for shift in range(0, 64, 8):
        total += _TALLY[(word >> shift) & 255]
    return total


@helper
def _higher_bytes(left, right):
    """Return the higher of each byte, all of them below 128."""
    wins = ((((left | _TOPS) - right) >> 7) & _ONES) * HIGHEST
    return (left & wins) | (right & ~wins)


@helper
def _higher(left, right):
    """Return the higher of each register of two words."""
    even = _higher_bytes(left & _EVEN, right & _EVEN)
    return even | (_higher_bytes((left >> REGISTER_BITS) & _EVEN, (right >> REGISTER_BITS) & _EVEN) << REGISTER_BITS)


@helper
def count_visitors(row, newest, first, last):
    """Return the estimate of the visitors of days [first, last) together, as far as they are kept."""
    end = newest // DAY + 1
    first, last = max(first, end - SKETCH_DAYS), min(last, end)
    total = 0
    for part in range(DAY_SKETCH):
        word = np.int64(0)
        for day in range(first, last):
            word = _higher(word, row[SKETCHES + day % SKETCH_DAYS * DAY_SKETCH + part])
        total += tally(word)
    below = _EMPTY[empty_of(total)] + (total & 0xFFFFFFFF) + _FULL[total >> 48]
    # nothing is below where all are full
    return min(_NUMERATOR / below, VISITORS_LIMIT) if below > 0.0 else float(VISITORS_LIMIT)
