"""The seasonal naive forecast: the last season again. The yardstick that a forecast must beat to be worth its name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def seasonal_naive(history: Floats, season: int, horizon: int, levels: Sequence[float]) -> tuple[Floats, Floats]:
    """Return mean ``(horizon,)`` and quantiles ``(horizon, levels)`` of the buckets after `history` (oldest first).

    The mean is the value one season before, or the latest known at that place; the quantiles add what this forecast
    was wrong by in the past. With no more than one season known the last known value stands for all (season 1). NaN is
    unknown.

    >>> mean, quantiles = seasonal_naive(np.array([1.0, 9, 1, 9, 2, 9]), 2, 3, (0.5,))
    >>> mean.tolist(), quantiles[:, 0].tolist()
    ([2.0, 9.0, 2.0], [2.0, 9.0, 2.0])
    """
    values = np.maximum(np.asarray(history, dtype=np.float64), 0.0)
    if not np.isfinite(values).any():
        return np.zeros(horizon), np.zeros((horizon, len(levels)))
    if len(values) <= season:
        season = 1
    filled = values.copy()
    for place in range(len(filled)):
        if np.isnan(filled[place]) and place >= season:
            filled[place] = filled[place - season]
    latest = filled[-season:]
    latest = np.where(np.isnan(latest), np.nanmean(values), latest)
    mean = np.resize(latest, horizon)
    errors = values[season:] - filled[:-season]
    errors = errors[np.isfinite(errors)]
    if not len(errors):
        errors = np.zeros(1)
    quantiles = mean[:, None] + np.quantile(errors, levels)[None, :]
    return mean, np.maximum(quantiles, 0.0)
