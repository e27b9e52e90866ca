"""The aggregates as an algebra, written for reading: ``zero``, ``update``, ``merge``, ``finalise``.

Every aggregate here is mergeable: `merge` is associative and commutative with `zero` as its unit, and updating with one
half, with the other, and merging equals updating with the whole, in any order. States are integers or sets of them, so
this holds bit for bit; only `finalise` makes a float. The oracle is built of these; the kernels are measured by it.
"""

from __future__ import annotations

import math
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
