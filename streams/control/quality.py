"""How good the published predictions are: the joins, the running figures, and the watch over drift."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from river.drift import ADWIN

from schemas.outputs import Announcement, DemandPrediction, HistoryBucket, PurchasePrediction
from streams.control.demand import DemandJoin, JudgedStep
from streams.control.facts import Batch, Bought, Cancelled, InShadow
from streams.control.purchases import Judged, PurchaseJoin
from streams.control.scores import BinaryScores, DemandScores, entropy, log_loss

_RECENT = 5_000
# ADWIN itself looks for a change as often.
_LOOK_EVERY = 32


class DriftWatch:
    """Says when the mean of a stream of losses rose: ADWIN's test, in memory only.

    >>> watch = DriftWatch()
    >>> for time in range(4_000):
    ...     watch.add(time, 0.1 + 0.5 * (time > 2_000))
    >>> watch.risen, 2_000 < watch.last_at < 2_200
    (1, True)
    """

    def __init__(self) -> None:
        self._adwin = ADWIN()
        self._mean = 0.0
        self._seen = 0
        self.risen = 0
        self.last_at: int | None = None

    def add(self, time: int, loss: float) -> None:
        """Take the loss of a prediction as of `time` (event time, ms)."""
        self._adwin.update(loss)
        # A loss that fell is a change too, but nothing to worry about.
        if self._adwin.drift_detected and self._adwin.estimation > self._mean:
            self.risen += 1
            self.last_at = time
        self._seen += 1
        if self._seen % _LOOK_EVERY == 0 or self._adwin.drift_detected:
            self._mean = self._adwin.estimation

    def figures(self) -> dict[str, Any]:
        """Return how often the loss rose, and at which event time last."""
        return {"risen": self.risen, "last_at": self.last_at}


class _Recent:
    """The log loss of the latest `_RECENT` predictions judged."""

    def __init__(self) -> None:
        self._held: deque[tuple[float, bool]] = deque()
        self._loss = 0.0
        self._positives = 0

    def add(self, loss: float, positive: bool) -> None:
        self._held.append((loss, positive))
        self._loss += loss
        self._positives += positive
        if len(self._held) > _RECENT:
            gone, was = self._held.popleft()
            self._loss -= gone
            self._positives -= was

    def figures(self) -> dict[str, Any]:
        count = len(self._held)
        return {
            "judged": count,
            "positives": self._positives,
            "log_loss": self._loss / count if count else None,
            "base_log_loss": entropy(self._positives / count) if count else None,
        }


class _PurchaseModel:
    def __init__(self) -> None:
        self.version = ""
        self.all = BinaryScores()
        self.recent = _Recent()
        self.drift = DriftWatch()

    def add(self, judged: Judged) -> None:
        self.version = judged.version
        self.all.add(judged.probability, judged.positive)
        loss = log_loss(judged.probability, judged.positive)
        self.recent.add(loss, judged.positive)
        self.drift.add(judged.as_of, loss)

    def figures(self) -> dict[str, Any]:
        return {
            "version": self.version,
            **self.all.figures(),
            "recent": self.recent.figures(),
            "drift": self.drift.figures(),
        }


class _DemandModel:
    def __init__(self) -> None:
        self.version = ""
        self.all = DemandScores()
        self.next = DemandScores()

    def add(self, judged: JudgedStep) -> None:
        self.version = judged.version
        self.all.add(judged.mean, judged.quantiles, judged.quantity)
        if judged.step == 1:
            self.next.add(judged.mean, judged.quantiles, judged.quantity)

    def figures(self) -> dict[str, Any]:
        return {"version": self.version, **self.all.figures(), "next_bucket": self.next.figures()}


class Quality:
    """Takes what the reader found in the log and keeps the figures of each model, in bounded memory.

    `lateness_ms` is the allowed lateness of events; `limit` bounds what waits for its outcome.
    """

    def __init__(self, lateness_ms: int, limit: int) -> None:
        self._purchases = PurchaseJoin(lateness_ms, limit)
        self._demand = DemandJoin(limit)
        self._shadow = DemandJoin(limit)
        self._purchase_models: dict[str, _PurchaseModel] = {}
        self._demand_models: dict[str, _DemandModel] = {}
        self._shadow_models: dict[str, _DemandModel] = {}
        self._watermark: int | None = None
        self.models: dict[str, dict[str, Any]] = {}

    @property
    def pending(self) -> int:
        """Predictions and steps of forecasts that wait for their outcome."""
        return self._purchases.pending + self._demand.pending + self._shadow.pending

    def take(self, batch: Batch) -> None:
        """Take facts, then judge what the batch's watermark decides."""
        if batch.known_from is not None:
            self._purchases.forgotten = max(self._purchases.forgotten, batch.known_from)
        for fact in batch.facts:
            self._take(fact)
        if batch.watermark is not None and (self._watermark is None or batch.watermark > self._watermark):
            self._watermark = batch.watermark
            for judged in self._purchases.advance(batch.watermark):
                if judged.model not in self._purchase_models:
                    self._purchase_models[judged.model] = _PurchaseModel()
                self._purchase_models[judged.model].add(judged)

    def figures(self) -> dict[str, Any]:
        """Return everything that the status shows, as plain data."""
        return {
            "purchase": {name: model.figures() for name, model in sorted(self._purchase_models.items())},
            "demand": {name: model.figures() for name, model in sorted(self._demand_models.items())},
            "shadow": {name: model.figures() for name, model in sorted(self._shadow_models.items())},
            "watermark": self._watermark,
            "pending": {"purchase": self._purchases.pending, "demand": self._demand.pending},
            "skipped": {
                **asdict(self._purchases.skipped),
                "demand_unanswered": self._demand.unanswered,
                "demand_no_room": self._demand.no_room,
            },
            "buckets_revised": self._demand.revised,
        }

    def _take(self, fact: object) -> None:
        match fact:
            case PurchasePrediction():
                self._purchases.predict(
                    fact.subject,
                    fact.as_of,
                    fact.horizon_s * 1_000,
                    fact.payload.probability,
                    fact.model.name,
                    fact.model.version,
                )
            case Bought():
                self._purchases.bought(fact)
            case Cancelled():
                self._purchases.cancelled(fact)
            case DemandPrediction():
                _judge(self._demand_models, self._demand.forecast(fact))
            case InShadow():
                _judge(self._shadow_models, self._shadow.forecast(fact.prediction))
            case HistoryBucket():
                _judge(self._demand_models, self._demand.closed(fact))
                _judge(self._shadow_models, self._shadow.closed(fact))
            case Announcement():
                self.models[f"{fact.model}/{fact.role}"] = {
                    "name": fact.name,
                    "version": fact.version,
                    "published_at": fact.published_at,
                    "metrics": fact.metrics,
                }


def _judge(models: dict[str, _DemandModel], steps: Iterable[JudgedStep]) -> None:
    for judged in steps:
        if judged.model not in models:
            models[judged.model] = _DemandModel()
        models[judged.model].add(judged)
