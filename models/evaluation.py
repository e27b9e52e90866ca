"""How good predictions are: proper scores and calibration for probabilities, point and quantile errors for demand.

Every function takes arrays (or what numpy makes one of), leaves out what is NaN in `actual` (a period without a record
is unknown, not zero), and returns a float; NaN where a figure is undefined. None of them knows models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats = NDArray[np.float64]

LOWEST = 1e-15
"""Probabilities are taken as at least this, and at most one minus it, in a log loss."""


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean negative log likelihood (nats) of `labels` (n,) in {0, 1} under `probabilities` (n,).

    >>> round(log_loss([1, 0], [0.5, 0.5]), 4)
    0.6931
    """
    y, p = _pairs(labels, probabilities)
    p = np.clip(p, LOWEST, 1 - LOWEST)
    return _mean(-np.where(y > 0, np.log(p), np.log1p(-p)))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean squared error of `probabilities` (n,).

    >>> brier([1, 0], [0.5, 0.0])
    0.125
    """
    y, p = _pairs(labels, probabilities)
    return _mean((y - p) ** 2)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the chance that a positive outranks a negative, ties counting half; NaN without both.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    y, s = _pairs(labels, scores)
    positives = int((y > 0).sum())
    negatives = len(y) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, place, counts = np.unique(s, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts - 1) / 2  # ties share the mean of their ranks
    ranks = middle[place][y > 0].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 10, *, equal_mass: bool = False
) -> float:
    """Return the expected calibration error: over `bins` of equal width, the mean gap of rate and probability.

    Where all probabilities are small they share one bin of equal width, which then sees no more than their mean; bins
    that hold about as many each (`equal_mass`; equal probabilities stay together) see more.

    >>> calibration_error([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25])
    0.0
    >>> labels, wrong = [0, 0, 0, 0, 0, 1], [0.05] * 3 + [0.01] * 3  # high where nobody buys
    >>> calibration_error(labels, wrong, bins=2) < calibration_error(labels, wrong, bins=2, equal_mass=True)
    True
    """
    y, p = _pairs(labels, probabilities)
    if not len(y):
        return float("nan")
    if equal_mass:
        edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="lower"))
        place = np.searchsorted(edges, p, side="left")
    else:
        place = np.clip((p * bins).astype(np.int64), 0, bins - 1)
    gaps = np.bincount(place, weights=p - y, minlength=bins)
    return float(np.abs(gaps).sum() / len(y))


def wape(actual: ArrayLike, mean: ArrayLike) -> float:
    """Return the sum of absolute errors over the sum of absolute actuals; both of one shape.

    >>> wape([2, 0, 2], [1, 1, 2])
    0.5
    """
    a, m = _pairs(actual, mean)
    total = np.abs(a).sum()
    return float(np.abs(a - m).sum() / total) if total > 0 else float("nan")


def seasonal_scale(history: ArrayLike, season: int) -> float:
    """Return the mean absolute error of the seasonal naive forecast within `history` (n,): what MASE divides by.

    >>> seasonal_scale([1, 5, 2, 7], 2)
    1.5
    """
    values = np.asarray(history, dtype=np.float64)
    if season < 1:
        raise ValueError(f"seasonal scale: season {season}; at least 1 expected")
    steps = np.abs(values[season:] - values[:-season])
    return _mean(steps[~np.isnan(steps)])


def mase(actual: ArrayLike, mean: ArrayLike, scale: float) -> float:
    """Return the mean absolute error in units of `scale` (see `seasonal_scale`); NaN where the scale is 0.

    >>> mase([1, 3], [2, 2], 0.5)
    2.0
    """
    a, m = _pairs(actual, mean)
    return _mean(np.abs(a - m)) / scale if scale > 0 else float("nan")


def pinball(actual: ArrayLike, quantiles: ArrayLike, levels: Sequence[float]) -> _Floats:
    """Return the summed pinball loss per level (Q,) of `quantiles` (..., Q) for `actual` (...).

    >>> pinball([10.0], [[8.0, 12.0]], (0.1, 0.9)).round(3).tolist()
    [0.2, 0.2]
    """
    a = np.asarray(actual, dtype=np.float64)
    q = np.asarray(quantiles, dtype=np.float64)
    tau = np.asarray(levels, dtype=np.float64)
    if q.shape != (*a.shape, len(tau)):
        raise ValueError(f"pinball: quantiles {q.shape} for actual {a.shape}; {(*a.shape, len(tau))} expected")
    known = ~np.isnan(a)
    over = a[known][:, None] - q[known]
    return np.asarray(np.maximum(tau * over, (tau - 1) * over).sum(axis=0))


def wql(actual: ArrayLike, quantiles: ArrayLike, levels: Sequence[float]) -> float:
    """Return the weighted quantile loss: twice the pinball losses, mean over levels, over the sum of actuals.

    >>> round(wql([10.0], [[8.0, 12.0]], (0.1, 0.9)), 3)
    0.04
    """
    total = float(np.nansum(np.abs(np.asarray(actual, dtype=np.float64))))
    losses = pinball(actual, quantiles, levels)
    return float(2 * losses.mean() / total) if total > 0 else float("nan")


def coverage(actual: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Return the share of `actual` within ``[low, high]``, bounds included.

    >>> coverage([1, 2, 3, 4], [0, 0, 0, 0], [2, 2, 3, 3])
    0.75
    """
    a = np.asarray(actual, dtype=np.float64)
    inside = (np.asarray(low) <= a) & (a <= np.asarray(high))
    return _mean(inside[~np.isnan(a)].astype(np.float64))


def _pairs(actual: ArrayLike, predicted: ArrayLike) -> tuple[_Floats, _Floats]:
    a = np.asarray(actual, dtype=np.float64)
    p = np.asarray(predicted, dtype=np.float64)
    if a.shape != p.shape:
        raise ValueError(f"actual of shape {a.shape} and predicted of shape {p.shape}: one shape expected")
    known = ~np.isnan(a)
    return a[known], p[known]


def _mean(values: _Floats) -> float:
    return float(values.mean()) if values.size else float("nan")
