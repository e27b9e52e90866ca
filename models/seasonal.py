"""The seasonal forecast of demand: quantiles per step from a bounded history, for one series at a time.

What sold before, weighted by age, is the distribution to come (an honest answer to intermittent demand, whose zeros
stay zeros), with three corrections, each only as strong as the series' own evidence:

- a place in the season where nothing ever sold is closed with the probability that its zeros are no coincidence;
- a seasonal profile, shrunken towards flat, scales the rest where it would have forecast the history better;
- the level of River's HoltWinters (simple exponential smoothing), against the history's mean, scales it all, by half
  of its way: one half keeps up with a ramp, and does not chase a bulk order.

Scaling happens on square roots, on which counts have a stable spread. Histories of less than two seasons get no season.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from river import time_series

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

QUANTILES: Final = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
"""Levels of the quantiles: the intervals of 95% and 80%, and every decile."""

MEMORY: Final = 56
"""Buckets of history that a forecast uses, or two seasons if that is more."""

_PRIOR_CLOSED = 0.1
_SEASON_PSEUDO = 8  # observations' worth of a flat profile
_SEASON_GAIN = 0.05  # share of squared error a profile must save
_SAME_PLACE = 0.25  # share of weight that goes to the step's own place in the season
_LEVEL_TRUST = 0.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """`mean` (h,) and `quantiles` (h, Q) in units, for the h buckets after the history; none is negative."""

    mean: _Floats
    quantiles: _Floats


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast the past is forgotten, in buckets: half-life of the weights, and smoothing of the level."""

    half_life: float
    alpha: float
    start: int


def forecast(
    history: Sequence[float | None] | _Floats,
    season: int,
    horizon: int,
    quantiles: Sequence[float] = QUANTILES,
) -> Forecast:
    """Forecast the `horizon` buckets after `history` (oldest first; None or NaN where a bucket is unknown).

    `season` is the number of buckets in one season; 168 is an hourly week, taken as hours of the day times days.
    Quantities below zero (more returned than sold) count as zero. Without any known bucket all is zero.

    >>> week = [4, 5, 4, 6, 9, 8, 0]
    >>> found = forecast(week * 8, season=7, horizon=7, quantiles=(0.1, 0.5, 0.9))
    >>> found.mean.round(1).tolist()
    [4.7, 5.3, 4.7, 5.9, 7.6, 7.1, 0.0]
    """
    if season < 1 or horizon < 1:
        raise ValueError(f"forecast: season {season}, horizon {horizon}; both must be at least 1")
    levels = np.asarray(quantiles, dtype=np.float64)
    if levels.ndim != 1 or (np.diff(levels) <= 0).any() or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"forecast: quantiles {list(quantiles)}; ascending levels within (0, 1) expected")
    values = np.array(history, dtype=np.float64)[-max(MEMORY, 2 * season) :]
    time = np.flatnonzero(np.isfinite(values))
    roots = np.sqrt(np.maximum(values[time], 0.0))
    if not roots.any():
        return Forecast(np.zeros(horizon), np.zeros((horizon, len(levels))))

    seasonal = season > 1 and len(values) >= 2 * season
    pace = _Pace(8.0 * season, 0.35 / season, 2 * season) if seasonal else _Pace(8.0, 0.2, 4)
    cycles = _cycles(season) if seasonal else []
    weights = 0.5 ** ((len(values) - 1 - time) / pace.half_life)
    ahead = np.arange(len(values), len(values) + horizon)

    closed_ahead = np.zeros(horizon)
    for cycle in cycles:
        chance = _closed(cycle.phase(time), cycle.size, roots == 0.0)
        weights = weights * np.maximum(1 - chance[cycle.phase(time)], 1e-9)
        closed_ahead = 1 - (1 - closed_ahead) * (1 - chance[cycle.phase(ahead)])
    flat, scale_ahead = roots, np.ones(horizon)
    for cycle in cycles:
        profile = _profile(cycle.phase(time), cycle.size, flat, weights)
        flat = flat / profile[cycle.phase(time)]
        scale_ahead *= profile[cycle.phase(ahead)]
    flat = flat * _level_ratio(flat, weights, pace)

    # Steps at one place of the season share a distribution; a place that the history lacks takes part in all of it.
    _, first, place = np.unique(ahead % season if cycles else 0 * ahead, return_index=True, return_inverse=True)
    own = np.zeros((len(first), len(time)), dtype=np.bool_)
    if cycles:
        own = cycles[0].phase(time) == cycles[0].phase(ahead[first])[:, None]
    mean, middle, roots_ahead = (
        part[place] for part in _distributions(flat, weights, own, closed_ahead[first], levels)
    )
    # A smoothed level wanders: its error grows with the steps ahead.
    widening = np.sqrt(1 + np.arange(horizon) * (_LEVEL_TRUST * pace.alpha) ** 2)
    spread = (roots_ahead - middle[:, None]) * widening[:, None]
    found = np.square(np.maximum(middle[:, None] + spread, 0.0) * scale_ahead[:, None])
    return Forecast(mean * scale_ahead**2, np.maximum.accumulate(found, axis=1))


@dataclass(frozen=True, slots=True)
class _Cycle:
    """A regular movement: `size` places, each held for `every` buckets."""

    every: int
    size: int

    def phase(self, time: _Ints) -> _Ints:
        return np.asarray(time // self.every % self.size)


def _cycles(season: int) -> list[_Cycle]:
    return [_Cycle(1, 24), _Cycle(24, 7)] if season == 168 else [_Cycle(1, season)]


def _closed(phase: _Ints, size: int, zero: NDArray[np.bool_]) -> _Floats:
    """Return the probability (size,) that nothing can be sold at each place of the cycle."""
    count = np.bincount(phase, minlength=size)
    zeros = np.bincount(phase, weights=zero, minlength=size)
    elsewhere = (zeros.sum() - zeros + 0.5) / (len(phase) - count + 1)
    chance = _PRIOR_CLOSED / (_PRIOR_CLOSED + (1 - _PRIOR_CLOSED) * elsewhere**count)
    return np.where((zeros == count) & (count >= 2), chance, 0.0)


def _profile(phase: _Ints, size: int, roots: _Floats, weights: _Floats) -> _Floats:
    """Return the factors (size,) of a cycle, all 1 unless they would have forecast what they had not seen."""
    level = np.dot(roots, weights) / weights.sum()
    evidence = np.bincount(phase, weights=weights, minlength=size)
    doubt = _SEASON_PSEUDO * weights.mean()
    excess = np.bincount(phase, weights=(roots / level - 1) * weights, minlength=size)
    profile = np.maximum(1 + excess / (evidence + doubt), 0.2)
    own_share = (weights / (evidence + doubt)[phase]).clip(max=0.9)
    flat_error = np.dot((roots - level) ** 2, weights)
    error = np.dot(((roots - level * profile[phase]) / (1 - own_share)) ** 2, weights)
    return profile if error < (1 - _SEASON_GAIN) * flat_error else np.ones(size)


def _level_ratio(flat: _Floats, weights: _Floats, pace: _Pace) -> float:
    """Return by how much today's level differs from the history's, on the scale of roots, halved in logarithms."""
    mean = np.dot(flat, weights) / weights.sum()
    start = np.dot(flat[: pace.start], weights[: pace.start]) / weights[: pace.start].sum()
    model = time_series.HoltWinters(alpha=pace.alpha)
    later = flat[pace.start :][weights[pace.start :] > 1e-3 * weights.mean()]  # closed days say nothing of the level
    for value in (start, start, *later.tolist()):
        model.learn_one(value)
    level = model.forecast(1)[0]
    return float(np.clip((level + 0.1) / (mean + 0.1), 1 / 3, 3.0) ** _LEVEL_TRUST)


def _distributions(
    flat: _Floats, weights: _Floats, own: NDArray[np.bool_], closed: _Floats, levels: _Floats
) -> tuple[_Floats, _Floats, _Floats]:
    """Return, for places P: mean (P,) in units, median (P,) and quantiles (P, Q) in roots.

    `own` (P, n) marks the observations made at the same place, which weigh more; `closed` (P,) mixes in a zero.
    """
    order = np.argsort(flat, kind="stable")
    flat, weights, own = flat[order], weights[order], own[:, order]
    share = own @ weights
    boost = np.maximum(_SAME_PLACE * (weights.sum() - share) / ((1 - _SAME_PLACE) * np.maximum(share, 1e-300)), 1.0)
    parts = np.where(own, weights * np.where(share > 1e-6, boost, 1.0)[:, None], weights)
    below = np.cumsum(parts, axis=1)
    total = below[:, -1:]
    # Half-way between mid-point and Weibull plotting positions: the tails of few observations lie beyond them.
    margin = 0.5 * np.square(parts).sum(axis=1, keepdims=True) / total
    places = (below - 0.5 * parts + 0.5 * margin) / (total + margin)
    middle = np.array([np.interp(0.5, place, flat) for place in places])
    asked = (levels - closed[:, None]) / np.maximum(1 - closed[:, None], 1e-9)
    found = [np.interp(a, place, flat) * (a > 0) for a, place in zip(asked, places, strict=True)]
    return (1 - closed) * (parts @ flat**2) / total[:, 0], middle, np.array(found)
