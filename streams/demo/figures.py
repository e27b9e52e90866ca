"""What the demo knows: what it sent, and what came back on the topics, read as any downstream consumer would."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from schemas.outputs import (
    PurchasePrediction,
    decode_announcement,
    decode_dead_letter,
    decode_history,
    decode_prediction,
)
from streams.demo.shops import Item
from streams.records import CLICKSTREAM, DEADLETTERS, HISTORY, MODELS, ORDERS, PREDICTIONS, Record

READ = (PREDICTIONS, HISTORY, MODELS, DEADLETTERS)
"""The topics that `Figures.take` understands."""
_SHOPPERS = 8


@dataclass(frozen=True, slots=True)
class Shopper:
    """The latest prediction for one user, beside the truth (None: unknown)."""

    user: str
    probability: float
    truth: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a product was forecast to sell on the next day: mean and 80% interval in units."""

    product: str
    mean: float
    low: float
    high: float


@dataclass(slots=True)
class Figures:
    """Counts and the latest of everything.

    `waiting` are the ids of clicks with a user that were neither scored nor refused yet. `forecasts` and `sold` are by
    the day's start, then by product; `compared` is the last day of which something has both.
    """

    total: int = 0
    timezone: str = "UTC"
    sent: int = 0
    clicks: int = 0
    anonymous: int = 0
    at: int = 0
    waiting: set[str] = field(default_factory=set)
    purchases: int = 0
    demands: int = 0
    buckets: int = 0
    versions: int = 0
    doubled: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    shoppers: OrderedDict[str, Shopper] = field(default_factory=OrderedDict)
    forecasts: dict[int, dict[str, Forecast]] = field(default_factory=dict)
    sold: dict[int, dict[str, int]] = field(default_factory=dict)
    compared: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    version: str = "none yet"
    first_prediction_s: float | None = None
    _asked: set[str] = field(default_factory=set)
    _ids: set[str] = field(default_factory=set)
    _truths: dict[str, float] = field(default_factory=dict)
    _errors: deque[float] = field(default_factory=lambda: deque(maxlen=20_000))
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=60))

    def sending(self, item: Item) -> None:
        """Note an event that is about to be sent."""
        self.sent += 1
        if item.topic in (CLICKSTREAM, ORDERS):
            self.at = max(self.at, item.time_ms)
        self.clicks += item.topic == CLICKSTREAM
        click = item.click
        if click is None:
            return
        if click.user_id is None:
            self.anonymous += 1
        elif click.event_id not in self._asked:  # a repeat is scored once
            self._asked.add(click.event_id)
            self.waiting.add(click.event_id)
            if item.truth is not None:
                self._truths[click.event_id] = item.truth

    def take(self, record: Record, elapsed_s: float) -> None:
        """Take a record of one of the topics in `READ`."""
        topic, value = record.input.topic, record.value
        if value is None:
            return
        if topic == MODELS:
            # Each version comes a second time, under a key to pin it by.
            if record.key == b"purchase/champion":
                self._model(value)
        elif topic == HISTORY:
            bucket = decode_history(value)
            self.buckets += 1
            self.sold.setdefault(bucket.bucket_start, {})[bucket.product_id] = bucket.quantity
            self._compare(bucket.bucket_start, bucket.product_id)
        elif topic == DEADLETTERS:
            self._dead_letter(value)
        elif topic == PREDICTIONS:
            if self.first_prediction_s is None:
                self.first_prediction_s = elapsed_s
            self._prediction(value)

    def complete(self, counts: Mapping[str, int]) -> bool:
        """Tell whether every click was answered and all that the workers counted was read."""
        return (
            not self.waiting
            and self.demands >= counts.get("demand_predictions", 0)
            and self.buckets >= counts.get("buckets_closed", 0) + counts.get("buckets_revised", 0)
            and self.versions >= counts.get("models_published", 0)
        )

    def tick(self, elapsed_s: float) -> None:
        """Note how far it is, for the rate."""
        self._recent.append((elapsed_s, self.purchases))

    def rate(self) -> float:
        """Return clicks scored per second over the last seconds."""
        if len(self._recent) < 2:
            return 0.0
        (since, before), (until, after) = self._recent[0], self._recent[-1]
        return (after - before) / (until - since) if until > since else 0.0

    def truth_gap(self) -> float | None:
        """Return the mean absolute distance of recent probabilities from the simulated truth."""
        return sum(self._errors) / len(self._errors) if self._errors else None

    def log_losses(self) -> tuple[float, float] | None:
        """Return the prequential log loss of the model and of the running base rate, None before anything is judged."""
        loss, base = self.metrics.get("log_loss"), self.metrics.get("base_rate_log_loss")
        return None if loss is None or base is None else (loss, base)

    def day(self) -> int | None:
        """Return the start of the day to show: the last one that was sold, else the next one that is forecast."""
        return self.compared if self.compared is not None else max(self.forecasts, default=None)

    def _model(self, value: bytes) -> None:
        announced = decode_announcement(value)
        self.versions += 1
        self.version = f"{announced.name} {announced.version.lstrip('0') or '0'}"
        self.metrics = announced.metrics

    def _dead_letter(self, value: bytes) -> None:
        letter = decode_dead_letter(value)
        self.refused[letter.reason] += 1
        try:
            refused = orjson.loads(letter.value() or b"")
        except orjson.JSONDecodeError:
            return  # damaged on the way: nothing waits for it
        if letter.topic == CLICKSTREAM and isinstance(refused, dict):
            self.waiting.discard(str(refused.get("event_id")))

    def _prediction(self, value: bytes) -> None:
        said = decode_prediction(value)
        self.doubled += said.id in self._ids
        self._ids.add(said.id)
        if isinstance(said, PurchasePrediction):
            self.purchases += 1
            event_id, probability = said.payload.event_id, said.payload.probability
            self.waiting.discard(event_id)
            truth = self._truths.pop(event_id, None)
            if truth is not None:
                self._errors.append(abs(probability - truth))
            self.shoppers[said.subject] = Shopper(said.subject, probability, truth)
            self.shoppers.move_to_end(said.subject)
            while len(self.shoppers) > _SHOPPERS:
                self.shoppers.popitem(last=False)
            return
        self.demands += 1
        step = said.payload.steps[0]
        forecast = Forecast(said.subject, step.mean, step.quantiles["0.1"], step.quantiles["0.9"])
        self.forecasts.setdefault(step.start, {})[said.subject] = forecast
        self._compare(step.start, said.subject)

    def _compare(self, start: int, product: str) -> None:
        if product in self.forecasts.get(start, ()) and product in self.sold.get(start, ()):
            self.compared = max(self.compared or start, start)
