"""The learner of purchase probabilities: labels as they become known, one at a time, into River.

The state is plain data, exact to the bit, never pickled: the same examples log always makes the same model, however
often the learner was restarted. Quality is measured prequentially. A label's whole instant is predicted before any of
it is learnt: an order settles all clicks that led to it at once, and a model that learnt the first of them would look
clairvoyant about the rest. What was really promised at the time of the click is scored beside it (`served_log_loss`).

The provisional negatives of a young log's warm-up (`models.labels`) are learnt, never scored. What is known of such an
example later is scored; learnt again it is only if it was bought after all, as a counter-example to the provisional.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Final

import msgspec
import numpy as np
from river import linear_model, optim
from river.utils import VectorDict

from models.labels import DAY_MS, Frontier, Label, LabelClock
from models.linear import CLIP, LinearModel, prior
from models.scaling import LOWEST_PROBABILITY, Scaler, Vector, finite_logs
from schemas.internal import ExampleBatch

MODEL: Final = "purchase"
"""The name under which versions are published."""

PRIOR_PROBABILITY: Final = 0.05
_FIRST_VERSION: Final = 64
STATE_FORMAT: Final = 3


class LearnerStateError(ValueError):
    """A saved state that does not fit this learner; the message names what differs."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A version of the model, its figures, and the last label it learnt: (known-at in UTC ms, example id)."""

    model: LinearModel
    metrics: dict[str, float]
    trained_through: Frontier


class PurchaseLearner:
    """Learns P(order within the horizon) from the examples log.

    `features` and `schema_hash` name the layout of the vectors; examples of another layout are refused and counted.
    `max_pending` bounds the examples in memory: where the clock then wants a message again, it must be recalled.
    """

    def __init__(
        self,
        features: Sequence[str],
        schema_hash: str,
        *,
        horizon_ms: int,
        lateness_ms: int,
        corrections_ms: int = DAY_MS,
        publish_every: int = 1_000,
        max_pending: int | None = None,
    ) -> None:
        if publish_every < 1:
            raise ValueError(f"learner: publish_every {publish_every}; at least 1 expected")
        self.features = tuple(features)
        self.schema_hash = schema_hash
        self.publish_every = publish_every
        self.progress = Progress()
        self._clock_settings = (horizon_ms, lateness_ms, corrections_ms, max_pending)
        self.clock = self._clock()
        self._scaler = Scaler.of(len(self.features))
        self._regression = _regression(self.progress)

    def feed(self, partition: int, offset: int, batch: ExampleBatch) -> list[Snapshot]:
        """Take one message of the examples log; return the versions that became due, oldest first.

        A version is due every `publish_every` learnt examples, and before the first of these at 64, 128, 256 …: what
        has only just begun to learn has most to gain.
        """
        return self.learn(self.clock.feed(partition, offset, batch))

    def learn(self, labels: Iterable[Label]) -> list[Snapshot]:
        """Predict, score and learn `labels`, in order of their known-at; return the versions that became due."""
        snapshots = []
        for _, instant in groupby(labels, key=_known_at):
            for label, standard in self._predict(instant):
                self._learn(label, standard)
                if self._due():
                    snapshots.append(self.snapshot())
        return snapshots

    def predict_proba_one(self, vector: Vector) -> float:
        """Return River's own probability for one raw vector (F,), not clipped; the served model agrees with it."""
        logs = finite_logs(vector)
        if logs is None:
            raise ValueError(f"learner: vector {vector!r:.200}: finite values expected")
        return float(self._regression.predict_proba_one(self._standard(logs))[True])

    def _predict(self, instant: Iterable[Label]) -> list[tuple[Label, dict[str, float]]]:
        """Score the labels of one instant against the model as it is; return those that can be learnt.

        The scaler, which sees no label, takes each of them in first: so one standardisation serves both ends.
        """
        usable = []
        for label in instant:
            logs = self._logs(label)
            if logs is None:
                self.progress.refused += 1
                continue
            if not label.provided:
                self._scaler.learn_one(logs)
            standard = self._standard(logs)
            if not (label.provided and not label.positive):
                usable.append((label, standard))
            if self._judged(label):
                probability = float(self._regression.predict_proba_one(standard)[True])
                self.progress.score(probability, label.example.probability, label.positive)
        return usable

    def _judged(self, label: Label) -> bool:
        """Say whether a label counts in the figures: it is no second word on its example, and not too early.

        Before the first negative is known, figures would be those of buyers alone.
        """
        origin = self.clock.origin
        early = origin is not None and label.known_at < origin + self.clock.settled_after
        return not (early or label.correction or label.provisional)

    def _learn(self, label: Label, standard: dict[str, float]) -> None:
        progress = self.progress
        progress.learnt += 1
        progress.learnt_positives += label.positive
        progress.corrections += label.correction
        progress.provisional += label.provisional
        progress.trained_through = label.key
        self._regression.learn_one(standard, label.positive)

    def _logs(self, label: Label) -> Vector | None:
        """Return the logarithms of a label's vector; None for another layout, or a value that is not finite."""
        data = label.example.vector
        if label.schema_hash != self.schema_hash or len(data) != 8 * len(self.features):
            return None
        return finite_logs(np.frombuffer(data, dtype="<f8"))

    def _standard(self, logs: Vector) -> dict[str, float]:
        return dict(zip(self.features, self._scaler.transform_one(logs, CLIP).tolist(), strict=True))

    def _due(self) -> bool:
        learnt = self.progress.learnt
        early = _FIRST_VERSION <= learnt < self.publish_every and learnt & (learnt - 1) == 0
        return early or learnt % self.publish_every == 0

    def model(self) -> LinearModel:
        """Return the model as of now; the prior before anything was learnt."""
        if not self.progress.learnt:
            return prior(self.features, self.schema_hash, PRIOR_PROBABILITY)
        model = LinearModel(
            name=MODEL,
            version="",
            features=self.features,
            schema_hash=self.schema_hash,
            mean=self._scaler.mean,
            scale=np.sqrt(self._scaler.variance),
            weights=np.array(self._weights()),
            intercept=self._regression.intercept,
            clip=CLIP,
            horizon_ms=self._clock_settings[0],
        )
        # Sorted by how much was learnt; and another log, or other settings, never make another model of the same name.
        digest = hashlib.sha256(msgspec.json.encode(model.to_params())).hexdigest()[:8]
        return replace(model, version=f"{self.progress.learnt:012d}-{digest}")

    def snapshot(self) -> Snapshot:
        """Return the model as of now with its figures."""
        return Snapshot(self.model(), self.progress.metrics(), self.progress.trained_through)

    def state(self) -> bytes:
        """Return, between two messages, all that a restart needs beside the examples log from `clock.floor()` on.

        It is a function of the messages read, bit for bit. The floor itself is no part of it: it says how far the log
        was read again since the last restart, and is a matter of the checkpoint that goes with this state.
        """
        regression = self._regression
        return msgspec.msgpack.encode(
            _State(
                format=STATE_FORMAT,
                schema_hash=self.schema_hash,
                features=self.features,
                clock=self._clock_settings,
                count=self._scaler.count,
                mean=self._scaler.mean.tolist(),
                variance=self._scaler.variance.tolist(),
                weights=self._weights(),
                intercept=float(regression.intercept),
                steps=regression.optimizer.n_iterations,
                progress=self.progress,
                frontier=self.clock.frontier,
                origin=self.clock.origin,
            ),
        )

    def load(self, state: bytes) -> None:
        """Continue from `state`; the log must be fed again from the `clock.floor()` that held when it was taken.

        Raises LearnerStateError if the state is damaged, or was made for other features or another horizon.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_State)
        except (ValueError, msgspec.DecodeError) as error:
            raise LearnerStateError(f"learner state: {error}; delete it to learn again from the log") from error
        theirs = (saved.format, saved.schema_hash, saved.features, saved.clock)
        if theirs != (STATE_FORMAT, self.schema_hash, self.features, self._clock_settings):
            raise LearnerStateError(
                f"learner state: format {saved.format}, features {saved.schema_hash}, (horizon, lateness, corrections; "
                f"pending) {saved.clock}; this learner: {STATE_FORMAT}, {self.schema_hash}, {self._clock_settings}; "
                "delete the state to learn again from the log"
            )
        columns = (saved.mean, saved.variance, saved.weights)
        if any(len(column) != len(self.features) for column in columns) or not (
            np.isfinite([saved.intercept, *saved.mean, *saved.variance, *saved.weights]).all()
            and min(saved.variance, default=0.0) >= 0
        ):
            raise LearnerStateError("learner state: its numbers are damaged; delete it to learn again from the log")
        self.progress = saved.progress
        self._scaler = Scaler(saved.count, np.array(saved.mean), np.array(saved.variance))
        self._regression = _regression(self.progress)
        self._regression.intercept = saved.intercept
        self._regression.optimizer.n_iterations = saved.steps
        # River has no public way to set weights; assigning this one attribute is checked by the restart test.
        self._regression._weights = VectorDict(dict(zip(self.features, saved.weights, strict=True)))
        self.clock = self._clock(saved.frontier, saved.origin)

    def _clock(self, frontier: Frontier | None = None, origin: int | None = None) -> LabelClock:
        horizon_ms, lateness_ms, corrections_ms, max_pending = self._clock_settings
        return LabelClock(horizon_ms, lateness_ms, corrections_ms, frontier, origin, max_pending)

    def _weights(self) -> list[float]:
        weights = self._regression.weights
        return [float(weights.get(feature, 0.0)) for feature in self.features]


class Progress(msgspec.Struct):
    """Counts, and sums of log losses (nats), of what was learnt so far; `learnt` counts every step of the model."""

    learnt: int = 0
    learnt_positives: int = 0
    provisional: int = 0
    scored: int = 0
    positives: int = 0
    corrections: int = 0
    refused: int = 0
    loss: float = 0.0
    base_loss: float = 0.0
    served_loss: float = 0.0
    trained_through: Frontier = (0, "")

    def score(self, probability: float, served: float, positive: bool) -> None:
        """Add the losses of the model, of the running base rate, and of what was served at the time."""
        base = (self.positives + 1) / (self.scored + 2)
        self.loss += _log_loss(probability, positive)
        self.base_loss += _log_loss(base, positive)
        self.served_loss += _log_loss(served, positive)
        self.scored += 1
        self.positives += positive

    def metrics(self) -> dict[str, float]:
        """Return the figures that go out with a version; losses are means per example, absent while there is none."""
        losses = {"log_loss": self.loss, "base_rate_log_loss": self.base_loss, "served_log_loss": self.served_loss}
        return {
            "learnt": self.learnt,
            "scored": self.scored,
            "positives": self.positives,
            "corrections": self.corrections,
            "provisional": self.provisional,
            "refused": self.refused,
            **({name: loss / self.scored for name, loss in losses.items()} if self.scored else {}),
        }


class WeightRate(optim.base.Scheduler):  # type: ignore[misc]  # River is not typed
    """Decays with the square root of time, down to a floor that keeps up with drift."""

    def get(self, t: int) -> float:
        """Return the rate of step `t`."""
        return max(0.006 / math.sqrt(1 + t / 100), 2e-4)


class InterceptRate(optim.base.Scheduler):  # type: ignore[misc]  # River is not typed
    """A damped Newton step: the rarer positives are, the longer the way of the intercept on the logit scale."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def get(self, t: int) -> float:
        """Return the rate of step `t`."""
        base = (self.progress.learnt_positives + 1) / (self.progress.learnt + 20)
        return min(max(0.5 / (t + 100), 3e-5) / (base * (1 - base)), 0.3)


def _regression(progress: Progress) -> linear_model.LogisticRegression:
    return linear_model.LogisticRegression(
        optimizer=optim.SGD(WeightRate()),
        intercept_init=math.log(PRIOR_PROBABILITY / (1 - PRIOR_PROBABILITY)),
        intercept_lr=InterceptRate(progress),
    )


class _State(msgspec.Struct):
    format: int
    schema_hash: str
    features: tuple[str, ...]
    clock: tuple[int, int, int, int | None]
    count: int
    mean: list[float]
    variance: list[float]
    weights: list[float]
    intercept: float
    steps: int
    progress: Progress
    frontier: Frontier | None
    origin: int | None


def _log_loss(probability: float, positive: bool) -> float:
    chance = probability if positive else 1 - probability
    return -math.log(min(max(chance, LOWEST_PROBABILITY), 1.0))


_known_at = attrgetter("known_at")
