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

An example waits in memory, beside at most `most` newer ones: beyond that it leaves, and what becomes known of it
becomes known when its horizon is over, as read by a second reading of the log (`models.late_cursor`): an order does not
find it any earlier, and it gets no provisional label. Corrections are made of the `most` positives settled last.

All that is decided, is decided by event time and by places in the log. A redriven outcome, stamped before its
partition's watermark, counts as known at that watermark. The clock keeps no file: it names the offsets (`floor`) from
which the log must be read again. They say how far a reading has come, so right after a restart they are older.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from heapq import heappop, heappush
from operator import attrgetter
from typing import Final

from models.known_orders import KnownOrders
from models.label_memory import Frontier, Known, Label, Message, Partition, Pending, Place
from models.late_cursor import Arrival, LabelLogError, LateCursor
from schemas.internal import Example, ExampleBatch, Outcome

__all__ = ["DAY_MS", "Frontier", "Label", "LabelClock", "LabelLogError", "remembered_ms"]


DAY_MS: Final = 86_400_000


_FIRST_PATIENCE: Final = 16
"""Patience begins with this part of the true time: less would take buyers for others, more would hold those back."""

_PATIENCE_GROWTH: Final = 2
"""Patience then grows by one unit of time in so many."""


def remembered_ms(horizon_ms: int, lateness_ms: int, corrections_ms: int = DAY_MS) -> int:
    """Return how far back (ms of event time) a label clock reads again after a restart: so long its log must be kept.

    An example is remembered while its label may be corrected; and whatever was said of an order before one that could
    touch it, too.

    >>> remembered_ms(3_600_000, 0) == 2 * 3_600_000 + DAY_MS
    True
    """
    return 2 * (horizon_ms + lateness_ms) + corrections_ms


class LabelClock:
    """Turns the examples log, fed in any interleaving of its partitions, into one sequence of labels.

    `horizon_ms` and `lateness_ms` fix the labels, `most` bounds memory (None: as many examples as there are).
    `frontier` and `origin` continue after a restart: labels at or below the frontier were released before and are
    skipped when the log is fed again from `floor`.

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
        most: int | None = None,
    ) -> None:
        if horizon_ms <= 0 or lateness_ms < 0 or corrections_ms < 0 or (most is not None and most < 1):
            raise ValueError(
                f"label clock: horizon {horizon_ms}, lateness {lateness_ms}, corrections {corrections_ms} ms, at most "
                f"{most} examples; the horizon and the bound must be positive, the others not negative"
            )
        self.horizon_ms = horizon_ms
        self.frontier = frontier
        self.origin = origin
        """Event time of the log's first example (UTC ms), where the warm-up begins."""
        self.settled_after = horizon_ms + lateness_ms
        """How long after its example a negative is known (ms)."""
        self.wanted: tuple[int, int] | None = None
        """Partition and offset that must be recalled before more can be released."""
        self._most = most
        self._corrections_ms = corrections_ms
        self._orders = KnownOrders(remembered_ms(horizon_ms, lateness_ms, corrections_ms), repeat_ms=self.settled_after)
        self._tasks: int | None = None
        self._least: int | None = None
        self._partitions: dict[int, Partition] = {}
        self._coming: list[tuple[int, int, Place, Pending | Known]] = []
        # All that is due later, becomes due in the order in which it was put here.
        self._ring: deque[Pending] = deque()
        self._patient: deque[Pending] = deque()
        self._correctable: deque[Pending] = deque()
        self._open: dict[str, list[Pending]] = {}
        self._late = LateCursor(self._partitions)
        self._evicted = 0
        self._settled_through: Arrival | None = None

    @property
    def pending(self) -> int:
        """Number of examples in memory: still ahead of the watermark, not settled, or open to correction."""
        ahead = sum(track.waiting for track in self._partitions.values())
        return ahead + len(self._ring) + len(self._correctable) + len(self._late)

    @property
    def unmatched_cancellations(self) -> int:
        """Cancellations of orders that are not, or no longer, known; since this clock was made."""
        return self._orders.unmatched_cancellations

    @property
    def evicted(self) -> int:
        """Number of examples that wait for the second reading of the log."""
        return self._evicted

    @property
    def watermark(self) -> int | None:
        """Least watermark of all partitions, None before each was heard."""
        return self._least

    def ahead(self, partition: int) -> int:
        """Return how many examples of a partition wait for others, whose watermark is behind: reading on can wait."""
        track = self._partitions.get(partition)
        least = self.watermark
        if track is None or (least is not None and track.watermark == least):
            return 0
        return 0 if track.watermark is None else track.waiting

    def floor(self) -> dict[int, int]:
        """Return, per partition heard, the offset to read from again after a restart."""
        return {number: partition.floor() for number, partition in sorted(self._partitions.items())}

    def first_unsettled(self) -> dict[int, int]:
        """Return, per partition heard, the offset below which nothing will be wanted again."""
        return {number: track.first_unsettled() for number, track in sorted(self._partitions.items())}

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
        """Take one message and return the labels it makes known, in order: `add`, then `release`."""
        self.add(partition, offset, batch)
        return self.release()

    def add(self, partition: int, offset: int, batch: ExampleBatch) -> None:
        """Take one message.

        Messages of one partition come in the order of their offsets. Raises LabelLogError when they do not, or when
        the number of tasks changed.
        """
        track = self._track(partition, offset, batch)
        message = track.message(offset, batch.schema_hash)
        for number, example in enumerate(batch.examples):
            self._add_example((partition, offset, number), track, message, example)
        for number, outcome in enumerate(batch.outcomes):
            if outcome.kind != "session_end":
                self._add_outcome((partition, offset, number), message, outcome)
        before = track.watermark
        track.heard(message, batch.watermark)
        if track.watermark != before:
            self._least = self._least_watermark()

    def _least_watermark(self) -> int | None:
        if self._tasks is None or len(self._partitions) < self._tasks:
            return None
        marks = [partition.watermark for partition in self._partitions.values()]
        return None if None in marks else min(mark for mark in marks if mark is not None)

    def release(self) -> list[Label]:
        """Return the labels that are known and were not returned before, in order.

        Where `wanted` says so afterwards, the message there must be recalled, and this be called again. Everything
        before the least watermark is acted on; what bears its very time may still be joined by others.
        """
        released: list[Label] = []
        watermark = self.watermark
        if watermark is None:
            return released
        while (now := self._next_due(watermark)) is not None:
            labels: list[Label] = []
            self._live(now, labels)
            labels.sort(key=_id)
            for label in labels:
                if self.frontier is None or self.frontier < label.key:
                    self.frontier = label.key
                    released.append(label)
        # Nothing below the watermark is left to release, so the frontier is there even if no label bears that key.
        if self.wanted is None and (self.frontier is None or self.frontier < (watermark, "")):
            self.frontier = (watermark, "")
        return released

    def recall(self, partition: int, offset: int, batch: ExampleBatch | None) -> None:
        """Take again the first message at or after the one `wanted`; None: it was no batch at the first reading either.

        Those that follow it in the partition may be given, too, heard before or not. Raises LabelLogError if one is
        gone that is needed.
        """
        self.wanted = None
        self._late.take(partition, offset, batch)

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

    def _add_example(self, place: Place, track: Partition, message: Message, example: Example) -> None:
        pending = Pending(example, place, message)
        message.needed += 1
        message.unsettled += 1
        track.waiting += 1
        self._push(pending.at, _ARRIVE, pending)

    def _add_outcome(self, place: Place, message: Message, outcome: Outcome) -> None:
        # A redriven outcome lies behind the watermark; counting it as known there keeps the order of release total.
        if outcome.kind == "cancel" and outcome.order_id is None:
            self._orders.unmatched_cancellations += 1
            return
        message.needed += 1
        known = Known(outcome, place, message)
        self._push(known.known_at, _CANCEL if outcome.kind == "cancel" else _ORDER, known)

    def _push(self, time: int, action: int, item: Pending | Known) -> None:
        # At equal times the place in the log decides, never the interleaving in which its partitions were fed.
        heappush(self._coming, (time, action, item.place, item))

    def _next_due(self, watermark: int) -> int | None:
        """Return the next instant before the watermark at which something happens; None: none, or one is `wanted`."""
        due = watermark
        if self._coming:
            due = min(due, self._coming[0][0])
        if self._patient:
            due = min(due, self._provided_at(self._patient[0]))
        if self._ring:
            due = min(due, self._ring[0].at + self.settled_after)
        if self._correctable:
            due = min(due, self._correctable[0].at + self.settled_after + self._corrections_ms)
        expiry = self._orders.next_expiry()
        if expiry is not None:
            due = min(due, expiry)
        if self._evicted:
            # Before it is known which of them come first, nothing may be decided.
            self.wanted = self._late.wants(due - self.settled_after)
            if self.wanted is not None:
                return None
            head = self._late.head(self._settled_through)
            if head is not None:
                due = min(due, head + self.settled_after)
        return due if due < watermark else None

    def _live(self, now: int, labels: list[Label]) -> None:
        """Do all that is due at an instant; a cancellation at an order's very time comes before it."""
        coming = self._coming
        while coming and coming[0][0] == now and coming[0][1] != _ARRIVE:
            _, action, _, known = heappop(coming)
            assert isinstance(known, Known)
            (self._cancel if action == _CANCEL else self._order)(now, known, labels)
        while self._patient and self._provided_at(self._patient[0]) == now:
            self._provide(now, self._patient.popleft(), labels)
        self._settle_due(now, labels)
        while self._correctable and self._correctable[0].at + self.settled_after + self._corrections_ms == now:
            self._forget(self._correctable.popleft())
        while self._orders.next_expiry() == now:
            self._orders.expire()
        while coming and coming[0][0] == now:
            pending = heappop(coming)[3]
            assert isinstance(pending, Pending)
            self._arrive(pending)

    def _arrive(self, pending: Pending) -> None:
        """The watermark has passed the example: the first one of all is the origin."""
        if self.origin is None:
            self.origin = pending.at
        self._partitions[pending.place[0]].waiting -= 1
        insort(self._open.setdefault(pending.example.user, []), pending, key=_as_of)
        self._ring.append(pending)
        if self.patience(pending.at) < self.settled_after:
            self._patient.append(pending)
        if self._most is not None and len(self._ring) > self._most:
            self._evict(self._ring.popleft())

    def _evict(self, pending: Pending) -> None:
        """Let go of the oldest example; the late cursor finds its contents again."""
        if self._patient and self._patient[0] is pending:
            self._patient.popleft()
        self._detach(pending)
        pending.message.note(pending.place[2], pending.positive, pending.provided)
        if not self._evicted:
            self._late.start()
        self._evicted += 1

    def _detach(self, pending: Pending) -> None:
        """Remove an example from its order, or from those that wait for one."""
        if pending.order is not None:
            del pending.order.examples[pending.place]
            pending.order = None
            return
        mine = self._open[pending.example.user]
        place = bisect_left(mine, pending.as_of, key=_as_of)
        while mine[place] is not pending:
            place += 1
        self._close(pending.example.user, mine, place, place + 1)

    def _provided_at(self, pending: Pending) -> int:
        return pending.at + self.patience(pending.at)

    def _provide(self, now: int, pending: Pending, labels: list[Label]) -> None:
        """Patience is over: without any order so far, the example is learnt as a negative."""
        if not pending.positive:
            pending.provided = True
            labels.append(pending.label(now, positive=False, provisional=True))

    def _settle_due(self, now: int, labels: list[Label]) -> None:
        """Horizon and lateness are over, and no further order can count: first for what left memory, as it is older."""
        arrived = now - self.settled_after
        while self._evicted and self._late.head(self._settled_through) == arrived:
            self._evicted -= 1
            self._settle(now, self._late.pop(), labels)
            if not self._evicted:
                self._late.rest()
        while self._ring and self._ring[0].at == arrived:
            pending = self._ring.popleft()
            self._detach(pending)
            self._settle(now, pending, labels)

    def _settle(self, now: int, pending: Pending, labels: list[Label]) -> None:
        self._settled_through = (pending.at, pending.place)
        pending.settled = True
        pending.message.unsettled -= 1
        order = self._first_order(pending)
        if order is None:
            labels.append(pending.label(now, positive=False, correction=pending.positive))
            self._forget(pending)
            return
        if not pending.positive:
            labels.append(pending.label(now, positive=True))
            pending.positive = True
        self._attach(pending, order)
        self._correctable.append(pending)
        if self._most is not None and len(self._correctable) > self._most:
            self._forget(self._correctable.popleft())

    def _forget(self, pending: Pending) -> None:
        if pending.order is not None:
            del pending.order.examples[pending.place]
            pending.order = None
        pending.message.needed -= 1

    def _order(self, now: int, order: Known, labels: list[Label]) -> None:
        if not self._orders.order(order):
            return
        mine = self._open.get(order.user, [])
        first = bisect_left(mine, order.time - self.horizon_ms, key=_as_of)
        last = bisect_left(mine, order.time, first, key=_as_of)
        for pending in mine[first:last]:
            self._attach(pending, order)
            if not pending.positive:
                pending.positive = True
                labels.append(pending.label(now, positive=True))
        self._close(order.user, mine, first, last)

    def _cancel(self, now: int, cancel: Known, labels: list[Label]) -> None:
        order = self._orders.cancel(cancel)
        if order is not None:
            lost, order.examples = order.examples, {}
            for pending in lost.values():
                self._reconsider(now, pending, labels)

    def _reconsider(self, now: int, pending: Pending, labels: list[Label]) -> None:
        """Find another order for an example that lost its own, or correct its label."""
        pending.order = None
        order = self._first_order(pending)
        if order is not None:
            self._attach(pending, order)
        elif pending.settled:
            labels.append(pending.label(now, positive=False, correction=True))
        else:  # until the end of its horizon another order may come
            insort(self._open.setdefault(pending.example.user, []), pending, key=_as_of)

    def _first_order(self, pending: Pending) -> Known | None:
        """Return the first order known that counts for an example."""
        return self._orders.first(pending.example.user, pending.as_of, pending.as_of + self.horizon_ms)

    def _attach(self, pending: Pending, order: Known) -> None:
        pending.order = order
        order.examples[pending.place] = pending

    def _close(self, user: str, mine: list[Pending], first: int, last: int) -> None:
        del mine[first:last]
        if not mine:
            self._open.pop(user, None)


_CANCEL, _ORDER, _ARRIVE = range(3)
"""What comes at one time, comes in this order."""

_id = attrgetter("id")
_as_of = attrgetter("as_of")
