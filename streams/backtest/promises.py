"""What was promised for each click, until its horizon is over and its label is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from models.labels import LabelClock
from models.online import PRIOR_PROBABILITY
from schemas.internal import ExampleBatch

_PRIOR_WEIGHT = 20


@dataclass(slots=True)
class Promise:
    """A click with its probabilities; `label` is None while the horizon is not over.

    `as_of` is the click's own time (UTC ms), `index` its number in its session.
    """

    id: str
    session: str
    user: str
    index: int
    as_of: int
    probability: float
    base_rate: float
    label: bool | None = None


class Promises:
    """Hands out promises in the order they were made, each once its label is settled.

    Labels are those that the learner learns from: its own `LabelClock` makes them from the examples log. A positive is
    known early, but is counted only when its horizon is over: else the base rate would see the buyers before the rest.

    >>> promises = Promises(horizon_ms=100, lateness_ms=0, settled=lambda promise: None)
    >>> promises.base_rate()
    0.05
    """

    def __init__(self, horizon_ms: int, lateness_ms: int, settled: Callable[[Promise], None]) -> None:
        self.corrections = 0
        self._settles_after = horizon_ms + lateness_ms
        self._lateness = lateness_ms
        self._clock = LabelClock(horizon_ms, lateness_ms)
        self._settled = settled
        self._waiting: deque[Promise] = deque()
        self._by_id: dict[str, Promise] = {}
        self._offset = 0
        self._count = 0
        self._positives = 0

    def add(self, promise: Promise) -> None:
        """Take a promise."""
        self._waiting.append(promise)
        self._by_id[promise.id] = promise

    def base_rate(self) -> float:
        """Return the share of positives among the labels settled so far, drawn to the prior while there are few."""
        return (self._positives + PRIOR_PROBABILITY * _PRIOR_WEIGHT) / (self._count + _PRIOR_WEIGHT)

    def hear(self, batch: ExampleBatch) -> None:
        """Take a message of the examples log."""
        bare = [replace(example, vector=b"") for example in batch.examples]
        for label in self._clock.feed(0, self._offset, replace(batch, examples=bare)):
            if label.provisional:
                continue  # only learnt from; the true label follows
            promise = self._by_id.get(label.id)
            if label.correction or promise is None:
                self.corrections += label.correction
            else:
                promise.label = label.positive
        self._offset += 1
        watermark = self._clock.watermark
        while watermark is not None and self._waiting and self._waiting[0].as_of + self._settles_after < watermark:
            promise = self._release()
            self._count += 1
            self._positives += bool(promise.label)
            self._settled(promise)

    def close(self, end: int | None) -> None:
        """Hand out the rest: `end` is the last event time of all (UTC ms), up to which orders are known."""
        if end is not None:
            # What the file does not hold can come no more: lateness need not be waited for.
            self.hear(ExampleBatch(0, 1, end + self._lateness, "", [], []))
        while self._waiting:
            promise = self._release()
            promise.label = None
            self._settled(promise)

    def _release(self) -> Promise:
        promise = self._waiting.popleft()
        del self._by_id[promise.id]
        return promise
