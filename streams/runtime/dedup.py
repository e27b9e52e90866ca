"""The door's memory: the ids seen lately, so that a repeated event counts once, and the clock that makes others late.

An event is remembered until the watermark has passed its event time: after that a repeat is late anyway, so the
window is exactly the allowed lateness. Only ids new since the last checkpoint are written with it, as one chunk.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from features.hashing import hash_texts
from streams.runtime.checkpoint import Rows

PASSED: Final = 0
LATE: Final = 1
REPEATED: Final = 2

NEVER: Final = -(1 << 62)
"""A clock or watermark (ms) that stands for none."""

_LEAST = 1_024
_MOVED_PER_EVENT = 8
_SMALL = 65_536
_PAIR_BYTES = 16
_Ints = NDArray[np.int64]


class Judged(NamedTuple):
    """What was found of n events: a verdict and the watermark (ms) after each, both (n,); clock and watermark now."""

    verdicts: NDArray[np.int8]
    watermarks: _Ints
    clock: int
    watermark: int


class Dedup:
    """Ids as 64-bit hashes, each with the event time (ms) until which it is known, in a table of open addressing.

    A table that is half full moves into another one little by little, some places with every event: no event waits for
    all of it. Ids that the watermark has passed are left behind.

    >>> seen = Dedup(lateness_ms=10)
    >>> times, redriven = np.array([10, 10, 10, 30]), np.zeros(4, np.bool_)
    >>> said = seen.judge(seen.digests(["a", "b", "a", "c"]), times, redriven, NEVER, NEVER)
    >>> said.verdicts.tolist(), said.clock, said.watermark
    ([0, 0, 2, 0], 30, 20)
    >>> seen.judge(seen.digests(["a", "d"]), np.array([30, 19]), redriven[:2], said.clock, 20).verdicts.tolist()
    [0, 1]
    """

    def __init__(self, lateness_ms: int) -> None:
        self._lateness_ms = lateness_ms
        self._table = _Table(_LEAST)
        self._old = _Table(0)
        self._left = 0
        """How many places of the old table are not moved yet, from its first one on."""
        self._fresh: list[_Ints] = []
        self._chunks: deque[tuple[int, int]] = deque()
        self._next = 0

    @staticmethod
    def digests(ids: Sequence[str]) -> _Ints:
        """Return what `judge` knows each id by, never 0."""
        digests = hash_texts(ids)
        digests[digests == 0] = 1
        return digests

    def judge(self, digests: _Ints, times: _Ints, redriven: NDArray[np.bool_], clock: int, watermark: int) -> Judged:
        """Judge n events in order by id and event time (ms); whoever passes is remembered and moves the clock.

        `digests`, `times` and `redriven` are (n,). What is redriven is never late, and known for as long as an event
        of now.
        """
        count = len(digests)
        self._reserve(count, watermark)
        self._move(_MOVED_PER_EVENT * count, watermark)
        verdicts, marks = np.empty(count, np.int8), np.empty(count, np.int64)
        fresh = np.empty((count, 2), np.int64)
        added, passed, clock, watermark = _judge(
            self._table.pairs,
            self._old.pairs,
            digests,
            times,
            redriven,
            self._lateness_ms,
            clock,
            watermark,
            verdicts,
            marks,
            fresh,
        )
        self._table.used += added
        if passed:
            self._fresh.append(fresh[:passed])
        return Judged(verdicts, marks, clock, watermark)

    def drain(self, watermark: int | None) -> Rows:
        """Return the chunk rows to write, and None for those that the watermark has passed."""
        rows: Rows = {}
        if self._fresh:
            pairs = np.concatenate(self._fresh)
            rows[_key(self._next)] = pairs.astype("<i8", copy=False).tobytes()
            self._chunks.append((self._next, int(pairs[:, 1].max())))
            self._next += 1
            self._fresh = []
        while self._chunks and watermark is not None and self._chunks[0][1] < watermark:
            rows[_key(self._chunks.popleft()[0])] = None
        return rows

    def span(self) -> tuple[int, int]:
        """Numbers of the first live chunk and of the next one."""
        return (self._chunks[0][0] if self._chunks else self._next), self._next

    @staticmethod
    def keys(span: tuple[int, int]) -> list[str]:
        """Keys of the chunks in a span."""
        return [_key(number) for number in range(*span)]

    def restore(self, span: tuple[int, int], rows: list[bytes | None]) -> bool:
        """Take back the chunks of `span`; say whether all of them were there, and whole."""
        for number, row in zip(range(*span), rows, strict=True):
            if not row or len(row) % _PAIR_BYTES:
                return False
            pairs = np.frombuffer(row, "<i8").astype(np.int64).reshape(-1, 2)
            self._reserve(len(pairs), NEVER)
            self._table.used += _put(self._table.pairs, pairs)
            self._chunks.append((number, int(pairs[:, 1].max())))
        self._next = span[1]
        return True

    def _reserve(self, count: int, watermark: int) -> None:
        """See that `count` more ids keep the table half empty."""
        table = self._table
        if 2 * (table.used + count) <= len(table.pairs):
            return
        self._move(self._left, watermark)
        size, live = _LEAST, _live(table.pairs, watermark)
        while size < 3 * (live + count):
            size *= 2
        self._old, self._left, self._table = table, len(table.pairs), _Table(size)

    def _move(self, places: int, watermark: int) -> None:
        """Move the last `places` of what is left of the old table, and let go of it once all are."""
        if not self._left:
            return
        end, self._left = self._left, max(0, self._left - places)
        old, table = self._old, self._table
        table.used += _move(old.pairs[self._left : end], watermark, table.pairs)
        if not self._left:
            self._old = _Table(0)


class _Table:
    """Pairs (size, 2) of an id, 0 where there is none, and until when it is known (ms); size is a power of two."""

    def __init__(self, size: int) -> None:
        self.pairs, self.used = _zeros(size), 0


def _zeros(size: int) -> _Ints:
    """Return `size` pairs of zeros that the system fills in by small pages.

    Ids come in at random places: by huge pages the first batch would wait until all of a new table is filled in.
    """
    if size <= _SMALL:
        return np.zeros((size, 2), np.int64)
    memory = mmap.mmap(-1, _PAIR_BYTES * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a system without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.int64).reshape(-1, 2)


def _key(number: int) -> str:
    return f"d:{number}"


@njit(cache=True, error_model="numpy")
def _place(table, digest):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return where an id stands in the table, or would stand."""
    mask = len(table) - 1
    at = digest & mask
    while table[at, 0] != 0 and table[at, 0] != digest:
        at = (at + 1) & mask
    return at


@njit(cache=True, error_model="numpy")
def _put(table, pairs):  # type: ignore[no-untyped-def]  # numba infers the types
    """Take (id, known until) pairs into the table, the later of one id last; return how many ids are new."""
    added = 0
    for i in range(len(pairs)):
        at = _place(table, pairs[i, 0])
        added += table[at, 0] == 0
        table[at] = pairs[i]
    return added


@njit(cache=True, error_model="numpy")
def _live(table, watermark):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return how many ids the watermark has not passed. Of all: who makes ids up could fool a sample."""
    live = 0
    for i in range(len(table)):
        live += (table[i, 0] != 0) & (table[i, 1] >= watermark)
    return live


@njit(cache=True, error_model="numpy")
def _move(old, watermark, table):  # type: ignore[no-untyped-def]  # numba infers the types
    """Take ids that the watermark has not passed into another table, if it has not heard later of them.

    Return how many.
    """
    moved = 0
    for i in range(len(old)):
        if old[i, 0] != 0 and old[i, 1] >= watermark:
            at = _place(table, old[i, 0])
            if table[at, 0] == 0:
                table[at] = old[i]
                moved += 1
    return moved


@njit(cache=True, error_model="numpy")
def _judge(table, old, digests, times, redriven, lateness, clock, watermark, verdicts, marks, fresh):  # type: ignore[no-untyped-def]  # numba infers the types
    """See `Dedup.judge`; return how many ids are new, how many events passed, clock and watermark."""
    added, passed = 0, 0
    for i in range(len(digests)):
        marks[i] = watermark
        time = times[i]
        until = time
        if redriven[i]:
            until = max(time, clock)
        elif time < watermark:
            verdicts[i] = LATE
            continue
        at = _place(table, digests[i])
        if table[at, 0] == 0:
            added += 1
            table[at, 0], table[at, 1] = digests[i], NEVER
            if len(old):
                before = _place(old, digests[i])
                if old[before, 0] != 0:
                    table[at, 1] = old[before, 1]
        if table[at, 1] > NEVER and table[at, 1] >= watermark:
            verdicts[i] = REPEATED
            continue
        table[at, 1] = until
        verdicts[i] = PASSED
        fresh[passed, 0], fresh[passed, 1] = digests[i], until
        passed += 1
        if time > clock:
            clock = time
            watermark = max(watermark, time - lateness)
            marks[i] = watermark
    return added, passed, clock, watermark
