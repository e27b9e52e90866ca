"""The figures of a backtest, and the numbers behind its pictures."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models import evaluation

Floats = NDArray[np.float64]

LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
"""The quantiles of forecasts.csv."""


@dataclass(slots=True)
class Scores:
    """Probabilities and labels of one model, 9 bytes a click.

    >>> scores = Scores()
    >>> scores.add(0.5, True)
    >>> scores.metrics()
    {'log_loss': 0.693147, 'auc': None, 'brier': 0.25, 'ece': 0.5, 'ece_equal_mass': 0.5}
    """

    probabilities: array[float] = field(default_factory=lambda: array("d"))
    labels: bytearray = field(default_factory=bytearray)

    def add(self, probability: float, label: bool) -> None:
        """Add a settled click."""
        self.probabilities.append(probability)
        self.labels.append(label)

    def metrics(self) -> dict[str, float | None]:
        """Return log loss (nats), AUC, Brier score and expected calibration error; None where undefined.

        The latter twice: with bins of equal width, as is usual, and of equal mass.
        """
        p, y = self._arrays()
        return {
            "log_loss": figure(evaluation.log_loss(y, p)),
            "auc": figure(evaluation.auc(y, p)),
            "brier": figure(evaluation.brier(y, p)),
            "ece": figure(evaluation.calibration_error(y, p)),
            "ece_equal_mass": figure(evaluation.calibration_error(y, p, equal_mass=True)),
        }

    def calibration(self, bins: int = 12) -> list[tuple[float, float, int]]:
        """Return (mean probability, share of positives, clicks) of bins of equal size, from the least probable on."""
        p, y = self._arrays()
        order = np.argsort(p, kind="stable")
        parts = [part for part in np.array_split(order, bins) if len(part)]
        return [(float(p[part].mean()), float(y[part].mean()), len(part)) for part in parts]

    def _arrays(self) -> tuple[Floats, Floats]:
        return np.array(self.probabilities, dtype=np.float64), np.array(list(self.labels), dtype=np.float64)


@dataclass(slots=True)
class DemandScores:
    """Forecasts of one model beside what came: `actual` is NaN where it is not (yet) known."""

    _actual: list[Floats] = field(default_factory=list)
    _mean: list[Floats] = field(default_factory=list)
    _quantiles: list[Floats] = field(default_factory=list)
    _scales: list[float] = field(default_factory=list)

    def add(self, actual: Floats, mean: Floats, quantiles: Floats, scale: float) -> None:
        """Add a series: `actual` and `mean` (steps,), `quantiles` (steps, levels), `scale` what MASE divides by."""
        self._actual.append(actual)
        self._mean.append(mean)
        self._quantiles.append(quantiles)
        self._scales.append(scale)

    def extend(self, other: DemandScores) -> None:
        """Add all series of another."""
        self._actual += other._actual
        self._mean += other._mean
        self._quantiles += other._quantiles
        self._scales += other._scales

    def metrics(self) -> dict[str, float | int | None]:
        """Return WAPE and MASE of the mean, WQL, and the coverage of the 80% and 95% intervals; None where undefined.

        MASE is the mean over the series whose scale is defined.
        """
        if not self._actual:
            return {}
        actual, mean, quantiles = np.array(self._actual), np.array(self._mean), np.array(self._quantiles)
        series = zip(self._actual, self._mean, self._scales, strict=True)
        mases = [evaluation.mase(a, m, scale) for a, m, scale in series]
        defined = [value for value in mases if math.isfinite(value)]

        def covered(low: float, high: float) -> float | None:
            bounds = [quantiles[..., LEVELS.index(level)] for level in (low, high)]
            return figure(evaluation.coverage(actual, *bounds))

        return {
            "wape": figure(evaluation.wape(actual, mean)),
            "mase": figure(float(np.mean(defined)) if defined else math.nan),
            "wql": figure(evaluation.wql(actual, quantiles, LEVELS)),
            "coverage_80": covered(0.1, 0.9),
            "coverage_95": covered(0.025, 0.975),
            "values": int(np.isfinite(actual).sum()),
        }


def mase_scale(history: Sequence[float] | Floats, season: int) -> float:
    """Return the scale of MASE: the error of the seasonal naive forecast in-sample, of the naive one where less than
    a season and one step is known.
    """
    values = np.asarray(history, dtype=np.float64)
    return evaluation.seasonal_scale(values, season if len(values) > season else 1)


def figure(value: float) -> float | None:
    """Return a figure for JSON, which knows no NaN: rounded to six places, None where undefined."""
    return round(value, 6) if math.isfinite(value) else None
