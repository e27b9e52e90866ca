"""The aggregates as an algebra, written for reading: ``zero``, ``update``, ``merge``, ``finalise``.

Every aggregate here is mergeable: `merge` is associative and commutative with `zero` as its unit, and updating with one
half, with the other, and merging equals updating with the whole, in any order. States are integers or sets of them, so
this holds bit for bit; only `finalise` makes a float. The oracle is built of these; the kernels are measured by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

S = TypeVar("S")


class Aggregate(Protocol[S]):
    """A summary of items; an item is (value, stamp in ms)."""

    def zero(self) -> S:
        """Return the state of no items."""

    def update(self, state: S, value: int, time: int) -> S:
        """Return `state` with one item more."""

    def merge(self, left: S, right: S) -> S:
        """Return the state of the items of both."""

    def finalise(self, state: S) -> float:
        """Return what the feature says."""


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of values: a count where each is 1, with -1 for what is undone; never below 0 in the end.

    >>> total = Total(scale=100)
    >>> total.finalise(total.update(total.update(total.zero(), 250, 0), -100, 1))
    1.5
    """

    scale: int = 1

    def zero(self) -> int:
        """Return 0."""
        return 0

    def update(self, state: int, value: int, time: int) -> int:
        """Add `value`."""
        return state + value

    def merge(self, left: int, right: int) -> int:
        """Add the sums."""
        return left + right

    def finalise(self, state: int) -> float:
        """Return the sum in units of `scale`."""
        return max(state, 0) / self.scale


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest stamp, as seconds before `now`: at most `limit_ms`, which also stands for "never"."""

    now: int
    limit_ms: int

    def zero(self) -> int:
        """Return -1, before all time."""
        return -1

    def update(self, state: int, value: int, time: int) -> int:
        """Take the later one."""
        return max(state, time)

    def merge(self, left: int, right: int) -> int:
        """Take the later one."""
        return max(left, right)

    def finalise(self, state: int) -> float:
        """Return the seconds from the stamp to now."""
        if state < 0 or state > self.now:
            return self.limit_ms / 1000
        return min(self.now - state, self.limit_ms) / 1000


@dataclass(frozen=True, slots=True)
class Last:
    """The value at the latest stamp, of several the highest, in units of `scale`.

    0 where it is negative, or its stamp after `now`, or not less than `limit_ms` before it.

    >>> last = Last(now=9, limit_ms=5)
    >>> result(last, [(7, 5), (8, 5), (9, 1)]), result(last, [(7, 4)])
    (8.0, 0.0)
    """

    now: int
    limit_ms: int
    scale: int = 1

    def zero(self) -> tuple[int, int]:
        """Return (-1, -1), before all time."""
        return -1, -1

    def update(self, state: tuple[int, int], value: int, time: int) -> tuple[int, int]:
        """Take the later one."""
        return max(state, (time, value))

    def merge(self, left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        """Take the later one."""
        return max(left, right)

    def finalise(self, state: tuple[int, int]) -> float:
        """Return the value."""
        time, value = state
        return value / self.scale if 0 <= self.now - time < self.limit_ms and value >= 0 else 0.0


@dataclass(frozen=True, slots=True)
class Extreme:
    """The highest value, or the lowest one, in units of `scale`; 0 of none.

    >>> result(Extreme(lowest=True), [(7, 0), (-8, 0)])
    -8.0
    """

    lowest: bool = False
    scale: int = 1

    def zero(self) -> int | None:
        """Return None."""
        return None

    def update(self, state: int | None, value: int, time: int) -> int | None:
        """Take the value if it goes beyond."""
        return self.merge(state, value)

    def merge(self, left: int | None, right: int | None) -> int | None:
        """Take the one that goes further."""
        if left is None or right is None:
            return right if left is None else left
        return min(left, right) if self.lowest else max(left, right)

    def finalise(self, state: int | None) -> float:
        """Return the value."""
        return 0.0 if state is None else state / self.scale


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of values in units of `scale`; 0 of none.

    >>> result(Mean(), [(7, 0), (8, 0)])
    7.5
    """

    scale: int = 1

    def zero(self) -> tuple[int, int]:
        """Return (0, 0)."""
        return 0, 0

    def update(self, state: tuple[int, int], value: int, time: int) -> tuple[int, int]:
        """Add the value, and count it."""
        return state[0] + value, state[1] + 1

    def merge(self, left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        """Add sums and counts."""
        return left[0] + right[0], left[1] + right[1]

    def finalise(self, state: tuple[int, int]) -> float:
        """Return the mean."""
        total, count = state
        return total / count / self.scale if count else 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """How many items, and the first stamp: their duration up to `now` in seconds, or the mean time between them."""

    now: int
    mean: bool = False

    def zero(self) -> tuple[int, int]:
        """Return (0, now)."""
        return 0, self.now

    def update(self, state: tuple[int, int], value: int, time: int) -> tuple[int, int]:
        """Count one, and take the earlier stamp."""
        return state[0] + 1, min(state[1], time)

    def merge(self, left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        """Add the counts, and take the earlier stamp."""
        return left[0] + right[0], min(left[1], right[1])

    def finalise(self, state: tuple[int, int]) -> float:
        """Return seconds."""
        count, first = state
        duration = (self.now - first) / 1000
        if not self.mean:
            return duration
        return duration / (count - 1) if count > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Distinct:
    """How many different values, at most `limit`."""

    limit: int

    def zero(self) -> frozenset[int]:
        """Return the empty set."""
        return frozenset()

    def update(self, state: frozenset[int], value: int, time: int) -> frozenset[int]:
        """Add the value."""
        return state | {value}

    def merge(self, left: frozenset[int], right: frozenset[int]) -> frozenset[int]:
        """Unite the sets."""
        return left | right

    def finalise(self, state: frozenset[int]) -> float:
        """Return the size, cut at the limit."""
        return min(len(state), self.limit)


@dataclass(frozen=True, slots=True)
class Top:
    """Whether `value` is among the `k` most frequent; as frequent ones share the best place, so no order matters.

    >>> top = Top(value=7)
    >>> result(top, [(7, 0), (8, 0)]), result(top, [(7, 0), (8, 0), (8, 1)]), result(top, [])
    (1.0, 0.0, 0.0)
    """

    value: int
    k: int = 1

    def zero(self) -> Mapping[int, int]:
        """Return no counts."""
        return {}

    def update(self, state: Mapping[int, int], value: int, time: int) -> Mapping[int, int]:
        """Count the value."""
        return {**state, value: state.get(value, 0) + 1}

    def merge(self, left: Mapping[int, int], right: Mapping[int, int]) -> Mapping[int, int]:
        """Add the counts."""
        return {value: left.get(value, 0) + right.get(value, 0) for value in {*left, *right}}

    def finalise(self, state: Mapping[int, int]) -> float:
        """Return 1 or 0."""
        own = state.get(self.value, 0)
        return float(own > 0 and sum(count > own for count in state.values()) < self.k)


@dataclass(frozen=True, slots=True)
class HyperLogLog:
    """About how many different values, hashes of at least `register_bits` + `rank_bits` bits, at most `limit`.

    The low bits of a value choose one of 2 ** `register_bits` registers; its rank is the place, from 1, of the lowest
    bit set among the next `rank_bits`, or one more where none is. A register keeps its highest rank. Registers are as
    in Flajolet et al. (2007), the estimate is Ertl's (2017, arXiv:1702.01284, algorithm 6), here from its definition.

    >>> few = HyperLogLog(register_bits=6, rank_bits=14)
    >>> [round(result(few, [(value * 77_777, 0) for value in values]), 1) for values in ([], [7], [7, 8, 7])]
    [0.0, 1.0, 2.0]
    """

    register_bits: int
    rank_bits: int
    limit: float = math.inf

    def zero(self) -> tuple[int, ...]:
        """Return empty registers."""
        return (0,) * (1 << self.register_bits)

    def update(self, state: tuple[int, ...], value: int, time: int) -> tuple[int, ...]:
        """Raise the value's register to its rank."""
        register, rest = value % len(state), value // len(state) % (1 << self.rank_bits)
        rank = 1 + next((place for place in range(self.rank_bits) if rest >> place & 1), self.rank_bits)
        return self.merge(state, tuple(rank if place == register else 0 for place in range(len(state))))

    def merge(self, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
        """Take the higher of each register."""
        return tuple(map(max, left, right))

    def finalise(self, state: tuple[int, ...]) -> float:
        """Return the estimate."""
        count, highest = len(state), self.rank_bits + 1
        empty, full = state.count(0) / count, state.count(highest) / count
        if empty == 1.0:
            return 0.0
        # Series whose terms are soon below what a float can tell.
        many = range(1, 60)
        few = empty + sum(empty ** (2**k) * 2 ** (k - 1) for k in range(1, 30))
        most = (full - sum((1 - (1 - full) ** (2.0**-k)) ** 2 * 2.0**-k for k in many)) / 3 if full < 1.0 else 0.0
        below = count * (few + most * 2.0**-self.rank_bits)
        below += sum(2.0**-rank for rank in state if 0 < rank < highest)
        return min(count**2 / (2 * math.log(2)) / below, self.limit) if below > 0.0 else self.limit


@dataclass(frozen=True, slots=True)
class Decayed:
    """A sum that halves every `half_life_ms` by whole tiles of age, cut after the `tiles` newest up to `now`.

    Weights are multiples of 2**-20, so that the sum stays an integer until the end.
    """

    now: int
    tile_ms: int
    tiles: int
    half_life_ms: int

    def weight(self, time: int) -> int:
        """Return the weight of a stamp in units of 2**-20."""
        age = self.now // self.tile_ms - time // self.tile_ms
        if not 0 <= age < self.tiles:
            return 0
        return round((1 << 20) * math.pow(0.5, age * self.tile_ms / self.half_life_ms))

    def zero(self) -> int:
        """Return 0."""
        return 0

    def update(self, state: int, value: int, time: int) -> int:
        """Add the weighted value."""
        return state + value * self.weight(time)

    def merge(self, left: int, right: int) -> int:
        """Add the sums."""
        return left + right

    def finalise(self, state: int) -> float:
        """Return the sum."""
        return state / (1 << 20)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Sums above and below a line, each with its prior: a smoothed share. Value 1 goes above, 2 below, 3 to both."""

    above: float
    below: float

    def zero(self) -> tuple[int, int]:
        """Return (0, 0)."""
        return 0, 0

    def update(self, state: tuple[int, int], value: int, time: int) -> tuple[int, int]:
        """Count the item above, below, or on both sides of the line; a negative value takes it back."""
        sign = 1 if value > 0 else -1
        return state[0] + sign * (abs(value) & 1), state[1] + sign * (abs(value) >> 1)

    def merge(self, left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        """Add both sums."""
        return left[0] + right[0], left[1] + right[1]

    def finalise(self, state: tuple[int, int]) -> float:
        """Return the smoothed share."""
        return (max(state[0], 0) + self.above) / (max(state[1], 0) + self.below)


def fold(aggregate: Aggregate[S], items: list[tuple[int, int]]) -> S:
    """Return the state after all items (value, time)."""
    state = aggregate.zero()
    for value, time in items:
        state = aggregate.update(state, value, time)
    return state


def result(aggregate: Aggregate[S], items: list[tuple[int, int]]) -> float:
    """Return what `aggregate` says of all items (value, time).

    >>> result(Distinct(limit=2), [(7, 0), (8, 0), (7, 1), (9, 2)])
    2
    """
    return aggregate.finalise(fold(aggregate, items))
