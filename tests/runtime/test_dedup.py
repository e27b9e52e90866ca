"""Laws of the door's memory: its verdicts are those of a dictionary, however it is cut, kept, restored and grown."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.runtime.dedup import LATE, NEVER, PASSED, REPEATED, Dedup

LATENESS_MS = 20


class Seen(NamedTuple):
    """An event at the door."""

    id: str
    time: int
    redriven: bool


def brute_force(events: list[Seen]) -> tuple[list[int], list[int], int, int]:
    """Return verdicts, watermarks after each event, clock and watermark, one event after the other."""
    known: dict[str, int] = {}
    clock = watermark = NEVER
    verdicts, marks = [], []
    for event in events:
        if event.time < watermark and not event.redriven:
            verdict = LATE
        elif event.id in known and known[event.id] >= watermark:
            verdict = REPEATED
        else:
            verdict = PASSED
            known[event.id] = max(event.time, clock) if event.redriven else event.time
            clock = max(clock, event.time)
            watermark = max(watermark, clock - LATENESS_MS)
        verdicts.append(verdict)
        marks.append(watermark)
    return verdicts, marks, clock, watermark


class Door:
    """Judges as a task does, and writes what it remembers to rows, as a checkpoint does."""

    def __init__(self) -> None:
        self.dedup = Dedup(LATENESS_MS)
        self.clock = self.watermark = NEVER
        self.rows: dict[str, bytes] = {}

    def judge(self, events: list[Seen]) -> tuple[list[int], list[int]]:
        said = self.dedup.judge(
            self.dedup.digests([event.id for event in events]),
            np.array([event.time for event in events], np.int64),
            np.array([event.redriven for event in events], np.bool_),
            self.clock,
            self.watermark,
        )
        self.clock, self.watermark = said.clock, said.watermark
        return said.verdicts.tolist(), said.watermarks.tolist()

    def restart(self) -> None:
        """Keep what is remembered, and begin again from that."""
        for key, row in self.dedup.drain(None if self.watermark == NEVER else self.watermark).items():
            if row is None:
                del self.rows[key]
            else:
                self.rows[key] = row
        span = self.dedup.span()
        assert sorted(self.rows) == sorted(Dedup.keys(span))
        self.dedup = Dedup(LATENESS_MS)
        assert self.dedup.restore(span, [self.rows[key] for key in Dedup.keys(span)])
        assert self.dedup.span() == span


seen = st.builds(Seen, st.sampled_from("abcdefgh"), st.integers(0, 100), st.booleans())


@given(st.lists(seen, max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_verdicts_are_those_of_a_dictionary(events: list[Seen], cuts: list[int]) -> None:
    """Neither how events are cut into batches nor a restart between them shows."""
    door, verdicts, marks = Door(), [], []
    bounds = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    for start, end in pairwise(bounds):
        said, after = door.judge(events[start:end])
        verdicts += said
        marks += after
        door.restart()
    assert (verdicts, marks, door.clock, door.watermark) == brute_force(events)


def test_a_hundred_thousand_ids_are_told_apart_and_forgotten() -> None:
    """The table grows with what is live, not with what was: each id passes once, and again when it is out of memory."""
    door = Door()
    for start in range(0, 100_000, 1_000):
        events = [Seen(f"e{n}", n // 100, redriven=False) for n in range(start, start + 1_000)]
        verdicts, _ = door.judge(events + events)
        assert verdicts == [PASSED] * 1_000 + [REPEATED] * 1_000
    assert len(door.dedup._table.pairs) <= 32_768  # 2,100 ids are within the allowed lateness and a batch
    again, _ = door.judge([Seen("e0", 999, redriven=False)])
    assert again == [PASSED]


@given(st.integers(0, 1 << 32), st.sampled_from([0, 1, 3]))
@settings(max_examples=20)
def test_a_table_that_moves_knows_what_it_knew(seed: int, restarts: int) -> None:
    """Repeats of long ago are found in whichever table they stand, whatever the watermark has passed meanwhile."""
    chance = np.random.default_rng(seed)
    numbers = np.maximum(np.arange(12_000) - chance.geometric(1 / 1_500, 12_000) * (chance.random(12_000) < 0.4), 0)
    times = np.arange(12_000) // int(chance.integers(50, 2_000)) - chance.integers(0, LATENESS_MS + 2, 12_000)
    redriven = chance.random(12_000) < 0.02
    events = [Seen(*seen) for seen in zip(map(str, numbers.tolist()), times.tolist(), redriven.tolist(), strict=True)]
    bounds = sorted({0, 12_000, *chance.integers(0, 12_000, 100).tolist()})
    door, verdicts, marks = Door(), [], []
    afresh = set(chance.choice(bounds, restarts).tolist())
    for start, end in pairwise(bounds):
        said, after = door.judge(events[start:end])
        verdicts += said
        marks += after
        if start in afresh:
            door.restart()
    assert (verdicts, marks, door.clock, door.watermark) == brute_force(events)
    assert {PASSED, REPEATED} <= set(verdicts)


def test_a_large_table_forgets_nothing_and_shrinks_again() -> None:
    """Tables far beyond the small ones, and what is known in them when it has half moved."""
    dedup, size, batch = Dedup(LATENESS_MS), 400_000, 5_000
    ids = (np.arange(1, 3 * size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)

    def judge(part: NDArray[np.int64], time: int) -> set[int]:
        times, redriven = np.full(len(part), time), np.zeros(len(part), np.bool_)
        return set(dedup.judge(part, times, redriven, time, time - LATENESS_MS).verdicts.tolist())

    for start in range(0, size, batch):
        assert judge(ids[start : start + batch], 0) == {PASSED}
        assert judge(ids[start // 2 : start // 2 + batch], 0) == {REPEATED}
    largest = len(dedup._table.pairs)
    assert largest >= 2 * size
    for turn, start in enumerate(range(size, 3 * size - batch, batch)):
        assert judge(ids[start : start + batch], 100 * (turn + 1)) == {PASSED}
    assert len(dedup._table.pairs) <= largest / 8


def test_a_chunk_that_is_gone_is_noticed() -> None:
    """A checkpoint without one of its chunks is none."""
    door = Door()
    door.judge([Seen("a", 5, redriven=False)])
    door.restart()
    assert not Dedup(LATENESS_MS).restore(door.dedup.span(), [None])
    assert not Dedup(LATENESS_MS).restore(door.dedup.span(), [b"cut"])
