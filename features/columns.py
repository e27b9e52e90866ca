"""What the engines take: events as columns, one list per field."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.jit import kernel

TIME_END = 4_102_444_800_000
"""2100-01-01 in UTC ms: no event is stamped later."""

Ints = Sequence[int] | NDArray[np.int64]


class FeatureError(ValueError):
    """Events or rows that the features cannot take; the message names the place, the value and the repair."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of `EventColumns`; the fields are explained there."""

    user: str
    kind: int
    time: int
    product: str | None = None
    session: str | None = None
    quantity: int = 1
    value_minor: int = 0
    price_minor: int = -1
    undo_time: int = 0
    country: str | None = None
    channel: str | None = None
    list_minor: int = -1
    plan_minor: int = -1
    stock: int = -1
    promotion: float = 0.0
    category: str | None = None


@dataclass(slots=True)
class EventColumns:
    """Events of known users in the order in which they are applied, one entry per event in each list.

    `kind` is an EventKind, `time` UTC ms. `value_minor` is the total of a purchase's line, or what a return or
    cancellation takes back (its sign does not matter; 0: unknown). `price_minor` is the price of one piece, -1 where
    unknown. `undo_time` is the stamp of the purchase that a return or cancellation takes back, 0 for none. `country`
    and `channel` are the visitor's. As of the event, `list_minor` is the product's price in the catalog, `plan_minor`
    the one that is planned (minor units), `stock` the pieces on hand, each -1 where unknown, and `promotion` the number
    planned under that name, 0 where none is. `category` is the product's, as the event itself names it.

    >>> events = EventColumns()
    >>> events.append("u1", 0, 1_700_000_000_000, "p1", "s1", price_minor=999)
    >>> len(events), events.product
    (1, ['p1'])
    """

    user: list[str] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    time: list[int] = field(default_factory=list)
    product: list[str | None] = field(default_factory=list)
    session: list[str | None] = field(default_factory=list)
    quantity: list[int] = field(default_factory=list)
    value_minor: list[int] = field(default_factory=list)
    price_minor: list[int] = field(default_factory=list)
    undo_time: list[int] = field(default_factory=list)
    country: list[str | None] = field(default_factory=list)
    channel: list[str | None] = field(default_factory=list)
    list_minor: Ints = field(default_factory=list)
    plan_minor: Ints = field(default_factory=list)
    stock: Ints = field(default_factory=list)
    promotion: Sequence[float] | NDArray[np.float64] = field(default_factory=list)
    category: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.user)

    def extend(self, columns: Iterable[Iterable[Any]]) -> None:
        """Add events, given as one column per field, in their order; far less time than `append`.

        >>> events = EventColumns()
        >>> events.extend([["u1"], [0], [1_700_000_000_000], ["p1"], ["s1"], [1], [0], [999], [0], *[[None]] * 7])
        >>> events.price_minor
        [999]
        """
        for name, column in zip(self.__slots__, columns, strict=True):
            getattr(self, name).extend(column)

    def events(self) -> Iterator[Event]:
        """Yield the events one by one."""
        for values in zip(*(getattr(self, name) for name in self.__slots__), strict=True):
            yield Event(*values)

    def append(self, *values: Any, **named: Any) -> None:
        """Add one event, given as the fields of `Event`."""
        event = Event(*values, **named)
        for name in self.__slots__:
            getattr(self, name).append(getattr(event, name))

    def show_market(self, places: Sequence[int], columns: Iterable[NDArray[Any]]) -> None:
        """Set what catalog and plan say as of the events at `places`: one array for each of these four fields.

        No more events may be added afterwards.

        >>> events = EventColumns()
        >>> for product in "pq":
        ...     events.append("u1", 0, 1_700_000_000_000, product)
        >>> events.show_market([1], [np.array([value]) for value in (999, 899, 3, 1.0)])
        >>> events.stock.tolist(), events.promotion.tolist()
        ([-1, 3], [0.0, 1.0])
        """
        for name, column in zip(("list_minor", "plan_minor", "stock", "promotion"), columns, strict=True):
            if len(places) < len(self):
                shown = np.array(getattr(self, name), column.dtype)
                shown[places] = column
                column = shown
            setattr(self, name, column)

    def part(self, start: int, stop: int) -> EventColumns:
        """Return the events [start, stop)."""
        return EventColumns(*(getattr(self, name)[start:stop] for name in self.__slots__))


def floats(name: str, values: Sequence[float] | NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return `values` as a float64 array; raise FeatureError unless there are `length` finite ones."""
    if isinstance(values, np.ndarray):
        column = np.ascontiguousarray(values, np.float64)
    else:
        column = np.frombuffer(array("d", values), np.float64) if len(values) else np.empty(0, np.float64)
    if len(column) != length:
        raise FeatureError(f"column {name}: {len(column)} values for {length} events; give one for each")
    if not np.isfinite(column).all():
        raise FeatureError(f"column {name}: value of event {int(np.argmin(np.isfinite(column)))} is not finite")
    return column


def ints(name: str, values: Ints, low: int, high: int, length: int) -> NDArray[np.int64]:
    """Return `values` as an int64 array; raise FeatureError unless there are `length` of them in [low, high]."""
    if isinstance(values, np.ndarray):
        column = np.ascontiguousarray(values, np.int64)
    else:
        # a third of the time of np.array on a list
        column = np.frombuffer(array("q", values), np.int64) if len(values) else np.empty(0, np.int64)
    if len(column) != length:
        raise FeatureError(f"column {name}: {len(column)} values for {length} events; give one for each")
    at = _first_outside(column, low, high)
    if at >= 0:
        raise FeatureError(f"column {name}: value {column[at]} of event {at} is outside {low} to {high}")
    return column


@kernel
def _first_outside(column, low, high):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return the index of the first value outside [low, high], or -1."""
    for i in range(len(column)):
        if column[i] < low or column[i] > high:
            return i
    return -1
