"""Running figures of forecasts against what happened: sums that one pass keeps, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

# A probability of 0 or 1 that is wrong costs 27.6 nats, not infinity.
_LEAST = 1e-12
_BINS = 10


def log_loss(probability: float, positive: bool) -> float:
    """Return the loss in nats.

    >>> round(log_loss(0.25, False), 4)
    0.2877
    """
    return -log(max(probability if positive else 1.0 - probability, _LEAST))


def entropy(rate: float) -> float:
    """Return the mean log loss (nats) of the best constant where the share `rate` came true: `rate` itself.

    >>> round(entropy(0.5), 4), entropy(0.0)
    (0.6931, 0.0)
    """
    return rate * log_loss(rate, True) + (1.0 - rate) * log_loss(rate, False)


class BinaryScores:
    """Probabilities against yes or no.

    >>> scores = BinaryScores()
    >>> for probability, positive in [(0.9, True), (0.2, False), (0.6, False), (0.3, True)]:
    ...     scores.add(probability, positive)
    >>> figures = scores.figures()
    >>> figures["log_loss"] < figures["base_log_loss"]
    True
    """

    def __init__(self) -> None:
        self.count = 0
        self.positives = 0
        self._log_loss = 0.0
        self._brier = 0.0
        self._bins = [[0, 0, 0.0] for _ in range(_BINS)]

    def add(self, probability: float, positive: bool) -> None:
        """Take one."""
        self.count += 1
        self.positives += positive
        self._log_loss += log_loss(probability, positive)
        self._brier += (probability - positive) ** 2
        held = self._bins[min(int(probability * _BINS), _BINS - 1)]
        held[0] += 1
        held[1] += positive
        held[2] += probability

    def figures(self) -> dict[str, Any]:
        """Return mean log loss and Brier score, the log loss of the best constant in hindsight, and the calibration.

        The calibration has a row for each tenth of [0, 1] that was predicted: how often, the mean prediction, the
        share that came true. Without any outcome all means are None.
        """
        count = self.count
        rate = self.positives / count if count else 0.0
        return {
            "judged": count,
            "positives": self.positives,
            "log_loss": self._log_loss / count if count else None,
            "base_log_loss": entropy(rate) if count else None,
            "brier": self._brier / count if count else None,
            "calibration": [
                {"from": number / _BINS, "count": held, "predicted": total / held, "observed": positives / held}
                for number, (held, positives, total) in enumerate(self._bins)
                if held
            ],
        }


class DemandScores:
    """Forecasts with quantiles against quantities.

    WAPE is the sum of absolute errors of the mean over the sum of quantities; WQL the pinball loss, doubled and
    averaged over the levels, over the same sum; coverage the share that fell within the central interval.
    """

    def __init__(self) -> None:
        self.count = 0
        self._quantity = 0.0
        self._error = 0.0
        self._pinball = 0.0
        self._within = {"80": [0, 0], "95": [0, 0]}

    def add(self, mean: float, quantiles: Mapping[str, float], quantity: float) -> None:
        """Take one bucket; `quantiles` by level as in ``{"0.1": 3.0}``."""
        self.count += 1
        self._quantity += abs(quantity)
        self._error += abs(quantity - mean)
        if quantiles:
            losses = (_pinball(float(level), value, quantity) for level, value in quantiles.items())
            self._pinball += 2 * sum(losses) / len(quantiles)
        for name, low, high in (("80", "0.1", "0.9"), ("95", "0.025", "0.975")):
            if low in quantiles and high in quantiles:
                self._within[name][0] += 1
                self._within[name][1] += quantiles[low] <= quantity <= quantiles[high]

    def figures(self) -> dict[str, Any]:
        """Return the figures; None where there is nothing to divide by."""
        total = self._quantity
        return {
            "judged": self.count,
            "quantity": total,
            "wape": self._error / total if total else None,
            "wql": self._pinball / total if total else None,
            **{f"coverage_{name}": hits / asked if asked else None for name, (asked, hits) in self._within.items()},
        }


def _pinball(level: float, value: float, quantity: float) -> float:
    return level * (quantity - value) if quantity >= value else (1 - level) * (value - quantity)
