"""Rows in the order of their times, each once its label is settled: what came within the horizon is known by then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush

import msgspec

from models.labels import LabelClock
from schemas.internal import Example, ExampleBatch
from streams.backfill.table import TrainingRow


class _Pending:
    """A row whose horizon is not over."""

    __slots__ = ("example", "known_at", "label", "session")

    def __init__(self, example: Example, session: str | None) -> None:
        self.example, self.session = example, session
        self.label: bool | None = None
        self.known_at: int | None = None


class SettledRows:
    """Takes the batches of all score tasks, and gives rows by (as_of, partition, place in the partition).

    Labels are those that the learner learns: its own `LabelClock` makes them. An order that was cancelled before the
    label was known never counted; `corrections` counts those cancelled later, whose rows stay positive.
    """

    def __init__(self, horizon_ms: int, lateness_ms: int, give: Callable[[TrainingRow], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._settles_after = horizon_ms + lateness_ms
        self._clock = LabelClock(horizon_ms, lateness_ms)
        self._give = give
        self._next: Counter[int] = Counter()
        self._number = 0
        self._pending: dict[str, _Pending] = {}
        self._waiting: list[tuple[int, int, int, str]] = []

    @property
    def watermark(self) -> int | None:
        """Least watermark (UTC ms) of all tasks: every row that settles before it was given."""
        return self._clock.watermark

    def add(self, example: Example, session: str | None, partition: int) -> None:
        """Take an example that becomes a row, before its batch is heard."""
        self._pending[example.id] = _Pending(example, session)
        heappush(self._waiting, (example.as_of, partition, self._number, example.id))
        self._number += 1

    def hear(self, batch: ExampleBatch) -> None:
        """Take a batch of a task; each task's come in order."""
        bare = [msgspec.structs.replace(example, vector=b"") for example in batch.examples]
        partition = batch.task
        for label in self._clock.feed(partition, self._next[partition], msgspec.structs.replace(batch, examples=bare)):
            if label.provisional:
                continue  # only learnt from; the true label follows
            pending = self._pending.get(label.id)
            if label.correction:
                self.counts["corrections"] += 1
            elif pending is not None:
                pending.label, pending.known_at = label.positive, label.known_at
        self._next[partition] += 1
        watermark = self._clock.watermark
        while watermark is not None and self._waiting and self._waiting[0][0] + self._settles_after < watermark:
            self._release(settled=True)

    def close(self) -> None:
        """Give the rest, without labels: their horizon is not over."""
        while self._waiting:
            self._release(settled=False)

    def _release(self, *, settled: bool) -> None:
        pending = self._pending.pop(heappop(self._waiting)[3])
        if settled:
            self.counts["positive"] += bool(pending.label)
            self._give(TrainingRow(pending.example, pending.session, pending.label, pending.known_at))
        else:
            self.counts["unlabelled"] += 1
            self._give(TrainingRow(pending.example, pending.session, None, None))
