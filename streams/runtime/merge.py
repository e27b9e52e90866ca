"""The order in which a task takes the records of its inputs: a pure function of the logs.

A k-way merge of first-in-first-out queues by (event time, topic, offset) of their heads. While any input has no
head nothing is taken, since a smaller one may still come; a time marker, being a record, is what releases the rest.
So the same logs give the same order however they are cut into batches, and after a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, takewhile
from typing import Any

import msgspec

from streams.records import Input, Record


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A decoded record in its place: `time` is the event's own (ms), `item` what the decoder made of it.

    `redriven`: it was sent again by `redrive`. `watermark`: of such an event behind the task's watermark when it passed
    the door, that watermark.
    """

    time: int
    rank: int
    offset: int
    item: Any
    record: Record
    redriven: bool = False
    watermark: int | None = None


class Merge:
    """Queues of decoded records, one an input, and the rule for taking from them.

    >>> merge = Merge([Input("a", 0), Input("b", 0)])
    >>> entry = lambda rank, time: Entry(time, rank, 0, None, Record(Input("ab"[rank], 0), 0, None, None, 0))
    >>> merge.push([entry(0, 5)])
    >>> len(merge.take(10))  # nothing: `b` may still bring something earlier
    0
    >>> merge.push([entry(1, 7)])
    >>> [taken.time for taken in merge.take(10)]
    [5]
    """

    def __init__(self, inputs: Sequence[Input], *, ordered: bool = True) -> None:
        self.inputs = tuple(inputs)
        self.positions = [0] * len(self.inputs)
        self._ordered = ordered
        self._queues: list[deque[Entry]] = [deque() for _ in inputs]

    def push(self, entries: Sequence[Entry]) -> None:
        """Add records of one input behind those it has."""
        if entries:
            self._queues[entries[0].rank].extend(entries)

    def buffered(self, rank: int) -> int:
        """Records held of one input."""
        return len(self._queues[rank])

    def last_time(self) -> int | None:
        """Greatest event time among the records held."""
        return max((queue[-1].time for queue in self._queues if queue), default=None)

    def held(self, until: int | None = None) -> Iterator[Entry]:
        """Yield the records held, input by input; with `until` (ms), those of each up to the first later one."""
        if until is None:
            return chain.from_iterable(self._queues)
        return chain.from_iterable(takewhile(lambda entry: entry.time <= until, queue) for queue in self._queues)

    def waits_for(self) -> list[int]:
        """Ranks of the empty inputs that hold back the others; empty when nothing is held back."""
        if not self._ordered or not any(self._queues):
            return []
        return [rank for rank, queue in enumerate(self._queues) if not queue]

    def can_take(self, bounds: Sequence[int] | None = None) -> bool:
        """Say whether `take` would return anything."""
        active = [q for rank, q in enumerate(self._queues) if bounds is None or self.positions[rank] < bounds[rank]]
        if not self._ordered or len(active) == 1:
            return any(active)
        return bool(active) and all(active)

    def take(self, limit: int, bounds: Sequence[int] | None = None) -> list[Entry]:
        """Take up to `limit` entries in order and move the positions (next offset of each input).

        With `bounds`, one an input, nothing at or beyond a bound is taken, and an input that reached its bound no
        longer holds back the others: the way to a committed vector of offsets, which lies on the same path.
        """
        queues = self._queues
        if bounds is not None:
            active = [queue for rank, queue in enumerate(queues) if self.positions[rank] < bounds[rank]]
        else:
            active = queues
        if not self._ordered or len(active) == 1:
            return self._take_each(active, limit, bounds)
        taken: list[Entry] = []
        while len(taken) < limit and active and all(active):
            queue = min(active, key=_head)
            rank = queue[0].rank
            taken.extend(self._take_run(queue, active, limit - len(taken), bounds))
            if bounds is not None and self.positions[rank] >= bounds[rank]:
                active = [other for other in active if other is not queue]
        return taken

    def _take_run(
        self, queue: deque[Entry], active: list[deque[Entry]], limit: int, bounds: Sequence[int] | None
    ) -> list[Entry]:
        """Take from `queue`, whose head comes first, until the head of another one does or it reaches its bound."""
        rank = queue[0].rank
        others = [other[0] for other in active if other is not queue]
        before = min((head.time for head in others), default=None)
        # At one time the lower rank goes first; `queue` may take it where it is below all that wait at that time.
        ties = before is not None and all(rank < head.rank for head in others if head.time == before)
        bound = None if bounds is None else bounds[rank]
        run: list[Entry] = []
        for entry in queue:
            if len(run) == limit or (bound is not None and entry.offset >= bound):
                break
            if before is not None and not (entry.time < before or (ties and entry.time == before)):
                break
            run.append(entry)
        for _ in run:
            queue.popleft()
        if run:
            self.positions[rank] = run[-1].offset + 1
        if bound is not None and queue and queue[0].offset >= bound:
            # What lay between is gone from the log.
            self.positions[rank] = max(self.positions[rank], bound)
        return run

    def _take_each(self, active: list[deque[Entry]], limit: int, bounds: Sequence[int] | None) -> list[Entry]:
        """Take whatever comes first of what is there, waiting for no other input."""
        taken: list[Entry] = []
        ready = [queue for queue in active if queue]
        while ready and len(taken) < limit:
            queue = min(ready, key=_head) if len(ready) > 1 else ready[0]
            rank = queue[0].rank
            if bounds is None or queue[0].offset < bounds[rank]:
                entry = queue.popleft()
                taken.append(entry)
                self.positions[rank] = entry.offset + 1
            if bounds is not None and queue and queue[0].offset >= bounds[rank]:
                # What lay between is gone from the log.
                self.positions[rank] = max(self.positions[rank], bounds[rank])
            if not queue or (bounds is not None and queue[0].offset >= bounds[rank]):
                ready.remove(queue)
        return taken


def _head(queue: deque[Entry]) -> tuple[int, int]:
    return queue[0].time, queue[0].rank
