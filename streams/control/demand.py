"""Demand forecasts joined with the buckets that closed: each step of each forecast is judged once.

A forecast says a mean and quantiles for buckets to come; a closed bucket says what sold in it. Of several revisions of
a forecast the newest counts, if it comes before the bucket closes. A bucket counts as it was first heard of; later
revisions are counted in `revised`, and change no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from schemas.outputs import DemandPrediction, HistoryBucket

_BUCKET_MS = {"H": 3_600_000, "D": 86_400_000, "W": 604_800_000}
# A product that sells no more has no more buckets: its forecasts are dropped this many buckets later.
_PATIENCE = 30

_Bucket = tuple[str, int]


class JudgedStep(NamedTuple):
    """One step of a forecast and what sold; `step` from 1."""

    model: str
    version: str
    step: int
    mean: float
    quantiles: Mapping[str, float]
    quantity: int


class _Forecast(NamedTuple):
    revision: int
    version: str
    step: int
    mean: float
    quantiles: Mapping[str, float]


@dataclass(slots=True)
class DemandJoin:
    """Feed it forecasts and closed buckets in any order. Holds at most `limit` steps, and as many closed buckets."""

    limit: int
    unanswered: int = 0
    revised: int = 0
    no_room: int = 0
    pending: int = 0
    _waiting: dict[_Bucket, dict[tuple[str, int], _Forecast]] = field(default_factory=dict)
    _starts: list[tuple[int, str]] = field(default_factory=list)
    _actual: dict[_Bucket, int] = field(default_factory=dict)
    _judged: dict[tuple[_Bucket, str, int], None] = field(default_factory=dict)
    _latest: int = 0

    def forecast(self, prediction: DemandPrediction) -> list[JudgedStep]:
        """Take a forecast; steps whose bucket has closed already are judged at once."""
        judged = []
        model = prediction.model
        for step in prediction.payload.steps:
            bucket = (prediction.subject, step.start)
            one = _Forecast(prediction.revision, model.version, step.step, step.mean, step.quantiles)
            if bucket in self._actual:
                judged.extend(self._judge(bucket, model.name, prediction.as_of, one, self._actual[bucket]))
                continue
            there = self._waiting.get(bucket)
            if there is None:
                there = self._waiting[bucket] = {}
                heappush(self._starts, (step.start, prediction.subject))
            known = there.get((model.name, prediction.as_of))
            if known is None:
                self.pending += 1
            if known is None or known.revision <= one.revision:
                there[model.name, prediction.as_of] = one
        if self.pending > self.limit:
            self.no_room += self._drop(lambda start: self.pending > self.limit // 2)
        return judged

    def closed(self, bucket: HistoryBucket) -> list[JudgedStep]:
        """Take a closed bucket and judge the forecasts of it."""
        key = (bucket.product_id, bucket.bucket_start)
        # Of a compacted topic the first revision may be gone; the first that is seen counts.
        if key in self._actual:
            self.revised += 1
            return []
        self._actual[key] = bucket.quantity
        if len(self._actual) > self.limit:
            del self._actual[next(iter(self._actual))]
        waiting = self._waiting.pop(key, {})
        self.pending -= len(waiting)
        judged = []
        for (model, as_of), one in waiting.items():
            judged.extend(self._judge(key, model, as_of, one, bucket.quantity))
        if bucket.bucket_start > self._latest:
            self._latest = bucket.bucket_start
            floor = self._latest - _PATIENCE * _BUCKET_MS[bucket.freq]
            self.unanswered += self._drop(lambda start: start < floor)
        return judged

    def _judge(self, bucket: _Bucket, model: str, as_of: int, one: _Forecast, quantity: int) -> list[JudgedStep]:
        mark = (bucket, model, as_of)
        if mark in self._judged:
            return []
        self._judged[mark] = None
        if len(self._judged) > self.limit:
            del self._judged[next(iter(self._judged))]
        return [JudgedStep(model, one.version, one.step, one.mean, one.quantiles, quantity)]

    def _drop(self, surplus: Callable[[int], bool]) -> int:
        dropped = 0
        while self._starts and surplus(self._starts[0][0]):
            start, product = heappop(self._starts)
            gone = len(self._waiting.pop((product, start), {}))
            self.pending -= gone
            dropped += gone
        return dropped
