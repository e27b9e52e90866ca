"""When a label is known: examples and outcomes in, labelled examples out, in one order that every replay repeats.

An example is positive if its user orders within the horizon after it: ``as_of < order time <= as_of + horizon``. That
is known when the first such order happens; that nothing happened is known at the end of the horizon plus the allowed
lateness. Labels are released by (known-at, example id) once the least watermark of all partitions has passed their
known-at, so neither the interleaving of partitions nor the cut into batches shows in what comes out.

A cancellation at or before a label's known-at flips it: the order never counted. One that comes later leaves an
example without any order: a *correction* follows, label 0, at the cancellation's time but not before the horizon's end
plus lateness, for until then another order may still come. Corrections are made for `corrections_ms` after that end.

While a log is young, positives run ahead of the negatives of their own time: for a whole horizon nothing else is known,
and what learns from that learns that everybody buys. So during the *warm-up* (`LabelClock.patience`) an example without
an order is released before its time, as a declared *provisional* negative, to be learnt but not judged by. Its true
label follows when it is known, as every label does; a positive one then counters the provisional.

All that is decided, is decided by event time and by places in the log. A redriven outcome, stamped before its
partition's watermark, counts as known at that watermark. The clock keeps no file: it names the offsets (`floor`) from
which the log must be read again. They say how far a reading has come, so right after a restart they are older.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any, Final

from models.label_memory import Frontier, Key, Known, Label, Message, Partition, Pending, Place
from schemas.internal import Example, ExampleBatch, Outcome

__all__ = ["DAY_MS", "Frontier", "Label", "LabelClock", "LabelLogError"]


DAY_MS: Final = 86_400_000


_FIRST_PATIENCE: Final = 16
"""Patience begins with this part of the true time: less would take buyers for others, more would hold those back."""

_PATIENCE_GROWTH: Final = 2
"""Patience then grows by one unit of time in so many."""


class LabelLogError(ValueError):
    """The examples log contradicts itself; the message names partition, offset and repair."""


class LabelClock:
    """Turns the examples log, fed in any interleaving of its partitions, into one sequence of labels.

    `horizon_ms` and `lateness_ms` fix the labels. `frontier` and `origin` continue after a restart: labels at or below
    the frontier were released before and are skipped when the log is fed again from `floor`.

    >>> clock = LabelClock(horizon_ms=100, lateness_ms=10)
    >>> click = Example("e1", "ann", 1_000, b"", (1, 0), None, 0.05, "purchase-prior:0")
    >>> clock.feed(0, 0, ExampleBatch(0, 1, 1_000, "h", [click], []))
    []
    >>> order = Outcome("order", "ann", "o1", 1_060)
    >>> found = clock.feed(0, 1, ExampleBatch(0, 1, 1_061, "h", [], [order]))
    >>> [(label.key, label.positive, label.provisional) for label in found]
    [((1007, 'e1'), False, True), ((1060, 'e1'), True, False)]
    """

    def __init__(
        self,
        horizon_ms: int,
        lateness_ms: int,
        corrections_ms: int = DAY_MS,
        frontier: Frontier | None = None,
        origin: int | None = None,
    ) -> None:
        if horizon_ms <= 0 or lateness_ms < 0 or corrections_ms < 0:
            raise ValueError(
                f"label clock: horizon {horizon_ms}, lateness {lateness_ms}, corrections {corrections_ms} ms; "
                "the horizon must be positive, the others not negative"
            )
        self.horizon_ms = horizon_ms
        self.frontier = frontier
        self.origin = origin
        """Event time of the log's first example (UTC ms), where the warm-up begins."""
        self.unmatched_cancellations = 0
        """Cancellations of orders that are not, or no longer, known; since this clock was made."""
        self.settled_after = horizon_ms + lateness_ms
        """How long after its example a negative is known (ms)."""
        self._corrected_until = self.settled_after + corrections_ms
        # Long enough that every order and cancellation that could touch a remembered example is remembered too.
        self._orders_for = self._corrected_until + self.settled_after
        self._tasks: int | None = None
        self._partitions: dict[int, Partition] = {}
        self._heap: list[tuple[int, int, Place, Any]] = []
        self._actions = (
            self._cancel,
            self._order,
            self._arrive,
            self._provide,
            self._settle,
            self._forget,
            self._expire,
        )
        self._open: dict[str, list[Pending]] = {}
        self._orders: dict[Key | None, Known] = {}
        self._seen: dict[Key | None, Known] = {}
        self._orders_of: dict[str, list[Known]] = {}
        self._remembered = 0

    @property
    def pending(self) -> int:
        """Number of examples in memory: not yet labelled, or positive and open to correction."""
        return self._remembered

    @property
    def watermark(self) -> int | None:
        """Least watermark of all partitions, None before each was heard."""
        if self._tasks is None or len(self._partitions) < self._tasks:
            return None
        marks = [partition.watermark for partition in self._partitions.values()]
        return None if None in marks else min(mark for mark in marks if mark is not None)

    def floor(self) -> dict[int, int]:
        """Return, per partition heard, the offset to read from again after a restart."""
        return {number: partition.floor() for number, partition in sorted(self._partitions.items())}

    def patience(self, as_of: int) -> int:
        """Return how long (ms) after an example at `as_of` it is taken for a negative if there was no order.

        It grows with the log's age, by half of it, so that negatives come at no less than two thirds of their true
        rate, until it reaches the true time: the warm-up is over after about two horizons.

        >>> clock = LabelClock(horizon_ms=3_600_000, lateness_ms=0, origin=0)
        >>> [clock.patience(as_of) // 60_000 for as_of in (0, 3_600_000, 36_000_000)]
        [3, 33, 60]
        """
        age = 0 if self.origin is None else as_of - self.origin
        return min(1 + self.settled_after // _FIRST_PATIENCE + age // _PATIENCE_GROWTH, self.settled_after)

    def feed(self, partition: int, offset: int, batch: ExampleBatch) -> list[Label]:
        """Take one message and return the labels it makes known, in order.

        Messages of one partition come in the order of their offsets. Raises LabelLogError when they do not, or when
        the number of tasks changed.
        """
        track = self._track(partition, offset, batch)
        message = track.message(offset, batch.schema_hash)
        for number, example in enumerate(batch.examples):
            self._add_example((partition, offset, number), message, example)
        for number, outcome in enumerate(batch.outcomes):
            if outcome.kind != "session_end":
                self._add_outcome((partition, offset, number), track, message, outcome)
        track.heard(message, batch.watermark)
        watermark = self.watermark
        return [] if watermark is None else self._release(watermark)

    def _track(self, partition: int, offset: int, batch: ExampleBatch) -> Partition:
        place = f"examples[{partition}] offset {offset}"
        if self._tasks is None:
            self._tasks = batch.tasks
        if batch.tasks != self._tasks or not 0 <= partition < batch.tasks or batch.task != partition:
            raise LabelLogError(
                f"{place}: written by task {batch.task} of {batch.tasks}, the log began with {self._tasks} tasks; the "
                "inputs were repartitioned? start a new examples topic"
            )
        track = self._partitions.setdefault(partition, Partition())
        if offset < track.next_offset:
            raise LabelLogError(
                f"{place}: comes after offset {track.next_offset - 1}; feed each message once, in order"
            )
        return track

    def _add_example(self, place: Place, message: Message, example: Example) -> None:
        pending = Pending(example, place, message)
        message.needed += 1
        self._remembered += 1
        self._open_up(pending)
        if self.origin is None or pending.as_of < self.origin:
            self.origin = pending.as_of
        # An earlier origin may still come from another partition; it only makes the patience longer.
        if self.patience(pending.as_of) < self.settled_after:
            self._push(pending.as_of, _ARRIVE, pending)
        self._push(pending.as_of + self.settled_after, _SETTLE, pending)

    def _add_outcome(self, place: Place, track: Partition, message: Message, outcome: Outcome) -> None:
        # A redriven outcome lies behind the watermark; counting it as known there keeps the order of release total.
        if outcome.kind == "cancel" and outcome.order_id is None:
            self.unmatched_cancellations += 1
            return
        known_at = outcome.time if track.watermark is None else max(outcome.time, track.watermark)
        message.needed += 1
        action = _CANCEL if outcome.kind == "cancel" else _ORDER
        self._push(known_at, action, Known(outcome, place, known_at, message))

    def _push(self, time: int, action: int, item: Pending | Known) -> None:
        # At equal times the place in the log decides, never the interleaving in which its partitions were fed.
        heappush(self._heap, (time, action, item.place, item))

    def _release(self, watermark: int) -> list[Label]:
        """Act on everything before the watermark; what bears its very time may still be joined by others."""
        heap, released = self._heap, []
        while heap and heap[0][0] < watermark:
            now = heap[0][0]
            labels: list[Label] = []
            while heap and heap[0][0] == now:
                _, action, _, item = heappop(heap)
                self._actions[action](now, item, labels)
            labels.sort(key=_id)
            for label in labels:
                if self.frontier is None or self.frontier < label.key:
                    self.frontier = label.key
                    released.append(label)
        # Nothing below the watermark is left to release, so the frontier is there even if no label bears that key.
        if self.frontier is None or self.frontier < (watermark, ""):
            self.frontier = (watermark, "")
        return released

    def _cancel(self, now: int, cancel: Known, labels: list[Label]) -> None:
        self._push(now + self._orders_for, _EXPIRE, cancel)
        order = self._orders.get(cancel.key)
        self._seen[cancel.key] = cancel
        if order is None:
            self.unmatched_cancellations += 1
        elif order.live:
            order.live = False
            self._drop_order(order)
            for pending in order.examples:
                if pending.order is order:
                    self._reconsider(now, pending, labels)
            order.examples.clear()

    def _reconsider(self, now: int, pending: Pending, labels: list[Label]) -> None:
        """Find another order for an example that lost its own, or correct its label."""
        orders = self._orders_of.get(pending.example.user, [])
        after = bisect_right(orders, pending.as_of, key=_time)
        within = after < len(orders) and orders[after].time <= pending.as_of + self.horizon_ms
        pending.order = orders[after] if within else None
        if pending.order is not None:
            pending.order.examples.append(pending)
        elif pending.settled:
            labels.append(pending.label(now, positive=False, correction=True))
        else:
            self._open_up(pending)  # until the end of its horizon another order may come

    def _order(self, now: int, order: Known, labels: list[Label]) -> None:
        self._push(now + self._orders_for, _EXPIRE, order)
        if order.key is not None:
            # The same order again (placed, then paid) counts once; one that was cancelled before never counts. Only the
            # last word on it decides, so that a restart, which forgets all older ones, decides alike.
            earlier, self._seen[order.key] = self._seen.get(order.key), order
            if earlier is not None and now - earlier.known_at <= self.settled_after:
                return
            self._orders[order.key] = order
        order.live = True
        insort(self._orders_of.setdefault(order.user, []), order, key=_time_and_place)
        mine = self._open.get(order.user, [])
        first = bisect_left(mine, order.time - self.horizon_ms, key=_as_of)
        last = bisect_left(mine, order.time, first, key=_as_of)
        for pending in mine[first:last]:
            pending.order = order
            order.examples.append(pending)
            if not pending.positive:
                pending.positive = True
                labels.append(pending.label(now, positive=True))
        self._close(order.user, mine, first, last)

    def _arrive(self, now: int, pending: Pending, labels: list[Label]) -> None:
        """The watermark has passed the example: by now the origin is known for good."""
        patience = self.patience(pending.as_of)
        if patience < self.settled_after:
            self._push(now + patience, _PROVIDE, pending)

    def _provide(self, now: int, pending: Pending, labels: list[Label]) -> None:
        """Patience is over: without any order so far, the example is learnt as a negative."""
        if not pending.positive:
            pending.provided = True
            labels.append(pending.label(now, positive=False, provisional=True))

    def _settle(self, now: int, pending: Pending, labels: list[Label]) -> None:
        """Horizon and lateness are over: no further order can count."""
        pending.settled = True
        if pending.order is not None:
            self._push(pending.as_of + self._corrected_until, _FORGET, pending)
            return
        mine = self._open[pending.example.user]
        place = bisect_left(mine, pending.as_of, key=_as_of)
        while mine[place] is not pending:
            place += 1
        self._close(pending.example.user, mine, place, place + 1)
        labels.append(pending.label(now, positive=False, correction=pending.positive))
        self._forget(now, pending, labels)

    def _forget(self, now: int, pending: Pending, labels: list[Label]) -> None:
        pending.order = None
        pending.message.needed -= 1
        self._remembered -= 1

    def _expire(self, now: int, known: Known, labels: list[Label]) -> None:
        known.message.needed -= 1
        for memory in (self._orders, self._seen):
            if known.key is not None and memory.get(known.key) is known:
                del memory[known.key]
        if known.live:
            self._drop_order(known)

    def _drop_order(self, order: Known) -> None:
        orders = self._orders_of[order.user]
        del orders[bisect_left(orders, _time_and_place(order), key=_time_and_place)]
        if not orders:
            del self._orders_of[order.user]

    def _open_up(self, pending: Pending) -> None:
        insort(self._open.setdefault(pending.example.user, []), pending, key=_as_of)

    def _close(self, user: str, mine: list[Pending], first: int, last: int) -> None:
        del mine[first:last]
        if not mine:
            self._open.pop(user, None)


_CANCEL, _ORDER, _ARRIVE, _PROVIDE, _SETTLE, _FORGET, _EXPIRE = range(7)
"""What is due at one time happens in this order: a cancellation at an order's very time comes before it."""

_id = attrgetter("id")
_as_of = attrgetter("as_of")
_time = attrgetter("time")
_time_and_place = attrgetter("time", "place")
