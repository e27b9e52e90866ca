"""One score task as its inputs and its examples tell of it: what it accepted, and what the log still says of that.

Where the log no longer begins at its first record, what is lost was stamped before the first example that stands
wholly behind it, but for the lateness: the door does not go back further. From the longest memory later on, nothing
that is lost counts; but who then undoes an order that is lost, cannot be followed for as long.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from features.columns import Event
from features.sets import MEMORY_MS
from schemas.codec import Click, Order
from schemas.internal import Example
from streams.records import CLICKSTREAM, EXAMPLES, ORDERS, Input
from streams.topologies.orderbook import OrderBook
from streams.topologies.shop import feature_schema, shop_of
from streams.verification.door import Applied, accepted, events_of
from streams.verification.reading import Reading

_ID = re.compile(rf"{CLICKSTREAM}-(\d+)-(\d+)-purchase")
_NEVER = 1 << 62
_AHEAD = 1_000


class LoggedTask:
    """Task `partition` of score, read from its inputs."""

    def __init__(self, reading: Reading, partition: int) -> None:
        self.partition = partition
        self._reading = reading
        self._inputs = (Input(CLICKSTREAM, partition), Input(ORDERS, partition))
        ends = [reading.topics.scored(input_) for input_ in self._inputs]
        self._ends = (None, None) if None in ends else (ends[0], ends[1])
        self._lows = tuple(reading.topics.bounds(input_)[0] for input_ in self._inputs)
        self._known_from = self._after_what_is_lost() if any(self._lows) else 0
        self._books = defaultdict[str, OrderBook](OrderBook)
        self._exchange = shop_of(reading.settings).exchange
        self._unsure: dict[str, int] = {}
        self.examples = LoggedExamples(reading, partition, self._ends[0])
        low, _ = reading.topics.bounds(Input(EXAMPLES, partition))
        self._first = self.examples.first() if low else 0

    def accepted(self) -> Iterator[Applied]:
        """Yield what the task accepted, as far as it had come."""
        clicks, orders = (self._reading.read(input_, end) for input_, end in zip(self._inputs, self._ends, strict=True))
        return accepted(clicks, orders, self._reading.settings, closed=self._ends[0] is not None)

    def events(self, applied: Applied) -> list[Event]:
        """Return what an accepted event does to its user's features; call it for each one, in order."""
        item = self._exchange.convert(applied.item)
        if isinstance(item, Click):
            return events_of(item, OrderBook(), applied.watermark)
        book = self._books[item.user_id if item.user_id is not None else f"order:{item.order_id}"]
        if item.user_id is not None and self._may_be_lost(item, book, applied.watermark):
            self._unsure[item.user_id] = item.time + MEMORY_MS
        return events_of(item, book, applied.watermark)

    def uncovered(self, applied: Applied) -> str | None:
        """Say why the log does not tell the features of an accepted click, None where it does."""
        item = applied.item
        if item.time < self._known_from + MEMORY_MS and self._known_from:
            return "; ".join(
                f"{i} starts at offset {low}" for i, low in zip(self._inputs, self._lows, strict=True) if low
            )
        if self._unsure.get(item.user_id or "", -1) >= item.time:
            return f"{self._inputs[1]} may hold an order, undone by the same user, only in part or no longer"
        return None

    def must_have_example(self, applied: Applied) -> bool:
        """Say whether the example of an accepted click would still be in the log."""
        return applied.offset >= self._first and applied.item.time >= self._known_from

    def may_be_of_old(self, example: Example) -> bool:
        """Say whether the click of an example may have left the log, or stood so early that the door cannot tell."""
        at = offset_of(example, self.partition)
        return at is not None and (at < self._lows[0] or example.as_of < self._known_from)

    def stands_at(self, example: Example, applied: Applied) -> bool:
        """Say whether an example names its click's user and time, and the offsets after it.

        Before its first order since a rebuilding, or since the log begins, a task has none to name.
        """
        item, (clicks, orders) = applied.item, example.offsets
        known = (orders, applied.positions[1])
        same = known[0] == known[1] or orders == 0 or (known[1] == 0 and self._known_from > 0)
        return same and (example.user, example.as_of, clicks) == (item.user_id, item.time, applied.positions[0])

    def _may_be_lost(self, order: Order, book: OrderBook, watermark: int) -> bool:
        at = max(order.time, watermark)
        early = self._known_from > 0 and at < self._known_from + MEMORY_MS
        return early and order.status != "placed" and not book.knows(order.order_id, at)

    def _after_what_is_lost(self) -> int:
        lateness = self._reading.settings.time.allowed_lateness_s * 1_000
        for batch in self._reading.examples(self.partition):
            for example in batch.examples:
                if example.offsets[0] > self._lows[0] and example.offsets[1] >= self._lows[1]:
                    return example.as_of + lateness
        return _NEVER


class LoggedExamples:
    """The examples of a task, each with whether it was made by the present definition, found by their clicks."""

    def __init__(self, reading: Reading, partition: int, until: int | None) -> None:
        self._partition = partition
        self._until = until
        self._schema_hash = feature_schema(reading.settings)
        self._stream = self._flat(reading)
        self._held: dict[int, tuple[Example, bool]] = {}
        self._strays: list[Example] = []
        self._passed = -1

    def first(self) -> int:
        """Return the offset of the click of the first one; call it before the others."""
        while not self._held and self._pull():
            pass
        return min(self._held, default=_NEVER)

    def take(self, offset: int) -> tuple[Example, bool] | None:
        """Return the example of the click at `offset`; offsets are asked for in order."""
        # They come in that order; one out of place must not hide those behind it.
        while offset not in self._held and len(self._held) < _AHEAD and self._pull():
            pass
        self._passed = offset
        found = self._held.pop(offset, None)
        if found is None and len(self._held) >= _AHEAD:
            for at in [at for at in self._held if at < offset]:
                self._strays.append(self._held.pop(at)[0])
        return found

    def rest(self) -> Iterator[Example]:
        """Yield those that nobody asked for, doubled ones included."""
        while self._pull():
            pass
        yield from self._strays
        yield from (example for example, _ in self._held.values())

    def _pull(self) -> bool:
        found = next(self._stream, None)
        if found is None:
            return False
        example, known = found
        at = offset_of(example, self._partition)
        if at is None or at <= self._passed or at in self._held:
            self._strays.append(example)
        elif self._until is None or at < self._until:
            self._held[at] = (example, known)
        return True

    def _flat(self, reading: Reading) -> Iterator[tuple[Example, bool]]:
        for batch in reading.examples(self._partition):
            known = batch.schema_hash == self._schema_hash
            for example in batch.examples:
                yield example, known


def offset_of(example: Example, partition: int) -> int | None:
    """Return the offset of an example's click, None where its id names none of this partition.

    >>> offset_of(Example("clickstream-1-41-purchase", "u", 0, b"", (42, 0), None, 0.5, "m:1"), 1)
    41
    """
    found = _ID.fullmatch(example.id)
    return int(found[2]) if found and int(found[1]) == partition else None
