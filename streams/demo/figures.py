"""What the demo knows: gathered from the topics as any downstream consumer would read them."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import orjson

from streams.records import MODELS, PREDICTIONS, Record

_SHOPPERS = 8


@dataclass(slots=True)
class Shopper:
    """The latest prediction for one user, beside the truth (None: unknown)."""

    user: str
    probability: float
    truth: float | None
    model: str


@dataclass(slots=True)
class Product:
    """The latest forecast of the next bucket for one product: mean and 80% interval in units, beside the truth."""

    product: str
    start: int
    mean: float
    low: float
    high: float
    model: str


@dataclass(slots=True)
class Figures:
    """Counts and the latest of everything. `truth` gives a click's true probability, by event id."""

    sent: int = 0
    clicks: int = 0
    total: int = 0
    at: int = 0
    purchases: int = 0
    demands: int = 0
    ids: set[str] = field(default_factory=set)
    doubled: int = 0
    shoppers: OrderedDict[str, Shopper] = field(default_factory=OrderedDict)
    products: dict[str, Product] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    version: str = "none yet"
    truths: dict[str, float] = field(default_factory=dict)
    errors: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=20_000))
    first_prediction_s: float | None = None
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=60))

    def take(self, record: Record, elapsed_s: float) -> None:
        """Take a record of predictions or models."""
        if record.value is None:
            return
        if record.input.topic == MODELS:
            self._model(orjson.loads(record.value))
        elif record.input.topic == PREDICTIONS:
            if self.first_prediction_s is None:
                self.first_prediction_s = elapsed_s
            self._prediction(orjson.loads(record.value))

    def tick(self, elapsed_s: float) -> None:
        """Note how far it is, for the rate."""
        self.recent.append((elapsed_s, self.purchases))

    def rate(self) -> float:
        """Return clicks scored per second over the last seconds."""
        if len(self.recent) < 2:
            return 0.0
        (since, before), (until, after) = self.recent[0], self.recent[-1]
        return (after - before) / (until - since) if until > since else 0.0

    def truth_gap(self) -> float | None:
        """Return the mean absolute distance of recent probabilities from the simulated truth."""
        return sum(abs(p - t) for p, t in self.errors) / len(self.errors) if self.errors else None

    def log_losses(self) -> tuple[float, float] | None:
        """Return the prequential log loss of the model and of the running base rate, None before the first version."""
        loss, base = self.metrics.get("log_loss", math.nan), self.metrics.get("base_rate_log_loss", math.nan)
        return None if math.isnan(loss) or math.isnan(base) else (loss, base)

    def _model(self, announced: dict) -> None:  # type: ignore[type-arg]
        if announced["model"] == "purchase":
            self.version = f"{announced['name']} {announced['version'].lstrip('0') or '0'}"
            self.metrics = announced["metrics"]

    def _prediction(self, said: dict) -> None:  # type: ignore[type-arg]
        if said["id"] in self.ids:
            self.doubled += 1
        self.ids.add(said["id"])
        model = f"{said['model']['name']} {said['model']['version'].lstrip('0') or '0'}"
        if said["kind"] == "purchase":
            self.purchases += 1
            payload = said["payload"]
            truth = self.truths.pop(payload["event_id"], None)
            if truth is not None:
                self.errors.append((payload["probability"], truth))
            self.shoppers[said["subject"]] = Shopper(said["subject"], payload["probability"], truth, model)
            self.shoppers.move_to_end(said["subject"])
            while len(self.shoppers) > _SHOPPERS:
                self.shoppers.popitem(last=False)
        elif said["kind"] == "demand":
            self.demands += 1
            step = said["payload"]["steps"][0]
            quantiles = step["quantiles"]
            self.products[said["subject"]] = Product(
                said["subject"], step["start"], step["mean"], quantiles["0.1"], quantiles["0.9"], model
            )
