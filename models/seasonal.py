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
from numba import njit
from numpy.typing import NDArray
from river import time_series

from models.buckets import memory

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

QUANTILES: Final = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
"""Levels of the quantiles: the intervals of 95% and 80%, and every decile."""

_PRIOR_CLOSED = 0.1
_SEASON_PSEUDO = 8  # observations' worth of a flat profile
_SEASON_GAIN = 0.05  # share of squared error a profile must save
_SAME_PLACE = 0.25  # share of weight that goes to the step's own place in the season
_LEVEL_TRUST = 0.5
_GUESS = 2  # observations' worth of the first guess of a series' spread


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
    values = np.array(history, dtype=np.float64)[-memory(season) :]
    time = np.flatnonzero(np.isfinite(values))
    roots = np.sqrt(np.maximum(values[time], 0.0))
    if not roots.any():
        return Forecast(np.zeros(horizon), np.zeros((horizon, len(levels))))

    seasonal = season > 1 and len(values) >= 2 * season
    pace = _Pace(8.0 * season, 0.35 / season, 2 * season) if seasonal else _Pace(8.0, 0.2, 4)
    cycles = _cycles(season) if seasonal else []
    weights = 0.5 ** ((len(values) - 1 - time) / pace.half_life)
    ahead = np.arange(len(values), len(values) + horizon)

    closed, scale = np.zeros(horizon), np.ones(horizon)
    for cycle in cycles:
        chance = _closed(cycle.place(time), cycle.size, roots)
        weights = weights * np.maximum(1 - chance[cycle.place(time)], 1e-9)
        closed = 1 - (1 - closed) * (1 - chance[cycle.place(ahead)])
    flat = roots
    for cycle in cycles:
        profile = _profile(cycle.place(time), cycle.size, flat, weights)
        flat = flat / profile[cycle.place(time)]
        scale *= profile[cycle.place(ahead)]
    flat = flat * _level_ratio(flat, weights, pace)

    whole = cycles[0] if cycles else _Cycle(1, 1)
    place = whole.place(time)
    doubts, doubt = _doubts(flat, weights)
    flat, weights, place = np.append(flat, doubts), np.append(weights, doubt), np.append(place, [-1] * len(doubts))
    order = np.argsort(flat, kind="stable")
    # A smoothed level wanders: its error grows with the steps ahead.
    widening = np.sqrt(1 + np.arange(horizon) * (_LEVEL_TRUST * pace.alpha) ** 2)
    mean, found = np.empty(horizon), np.empty((horizon, len(levels)))
    _distributions(
        flat[order],
        weights[order],
        place[order],
        whole.place(ahead),
        closed,
        widening,
        levels,
        mean,
        found,
    )
    return Forecast(mean * scale**2, np.square(found * scale[:, None]))


@dataclass(frozen=True, slots=True)
class _Cycle:
    """A regular movement: `size` places, each held for `every` buckets."""

    every: int
    size: int

    def place(self, time: _Ints) -> _Ints:
        return np.asarray(time // self.every % self.size)


def _cycles(season: int) -> list[_Cycle]:
    return [_Cycle(1, 24), _Cycle(24, 7)] if season == 168 else [_Cycle(1, season)]


def _level_ratio(flat: _Floats, weights: _Floats, pace: _Pace) -> float:
    """Return by how much today's level differs from the history's, on the scale of roots, halved in logarithms."""
    mean = (flat * weights).sum() / weights.sum()
    start = (flat * weights)[: pace.start].sum() / weights[: pace.start].sum()
    model = time_series.HoltWinters(alpha=pace.alpha)
    later = flat[pace.start :][weights[pace.start :] > 1e-3 * weights.mean()]  # closed days say nothing of the level
    for value in (start, start, *later.tolist()):
        model.learn_one(value)
    ratio = (model.forecast(1)[0] + 0.1) / (mean + 0.1)
    return float(min(max(ratio, 1 / 3), 3.0) ** _LEVEL_TRUST)


def _doubts(flat: _Floats, weights: _Floats) -> tuple[list[float], list[float]]:
    """Return three made-up observations and their weights, one newest bucket's in all: a short history knows little.

    They lie about the mean, two standard deviations apart, for which half the mean is the first guess.
    """
    total = weights.sum()
    mean = (flat * weights).sum() / total
    variance = ((flat - mean) ** 2 * weights).sum()
    deviation = ((variance + _GUESS * (mean / 2) ** 2) / (total + _GUESS)) ** 0.5
    reach = min(mean, 2 * deviation)
    return [mean - reach, mean, mean + reach], [1 / 3] * 3


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def _closed(place: _Ints, size: int, roots: _Floats) -> _Floats:
    """Return the probability (size,) that nothing can be sold at each place of the cycle."""
    count, zeros = np.zeros(size), np.zeros(size)
    for n in range(len(place)):
        count[place[n]] += 1
        zeros[place[n]] += roots[n] == 0.0
    chance, all_zeros = np.zeros(size), 0.0
    for p in range(size):
        all_zeros += zeros[p]
    for p in range(size):
        if count[p] >= 2 and zeros[p] == count[p]:
            elsewhere = (all_zeros - zeros[p] + 0.5) / (len(place) - count[p] + 1)
            chance[p] = _PRIOR_CLOSED / (_PRIOR_CLOSED + (1 - _PRIOR_CLOSED) * elsewhere ** count[p])
    return chance


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def _profile(place: _Ints, size: int, roots: _Floats, weights: _Floats) -> _Floats:
    """Return the factors (size,) of a cycle, all 1 unless they would have forecast what they had not seen."""
    total, level = 0.0, 0.0
    for n in range(len(place)):
        total += weights[n]
        level += weights[n] * roots[n]
    level /= total
    evidence, profile = np.empty(size), np.empty(size)
    evidence[:] = _SEASON_PSEUDO * total / len(weights)
    profile[:] = evidence
    for n in range(len(place)):
        evidence[place[n]] += weights[n]
        profile[place[n]] += weights[n] * roots[n] / level
    for p in range(size):
        profile[p] = max(profile[p] / evidence[p], 0.2)
    flat_error, error = 0.0, 0.0
    for n in range(len(place)):
        own_share = min(weights[n] / evidence[place[n]], 0.9)
        flat_error += weights[n] * (roots[n] - level) ** 2
        error += weights[n] * ((roots[n] - level * profile[place[n]]) / (1 - own_share)) ** 2
    if error >= (1 - _SEASON_GAIN) * flat_error:
        profile[:] = 1.0
    return profile


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def _distributions(
    flat: _Floats,
    weights: _Floats,
    place: _Ints,
    place_ahead: _Ints,
    closed: _Floats,
    widening: _Floats,
    levels: _Floats,
    mean: _Floats,
    found: _Floats,
) -> None:
    """Write, per step, the mean (h,) in squares and the quantiles (h, Q) of `flat` (n,), which is sorted.

    Observations of the step's own place weigh more; `closed` (h,) mixes in a zero; `widening` (h,) stretches the
    quantiles from the median.
    """
    own, positions = np.empty(len(flat)), np.empty(len(flat))
    for step in range(len(place_ahead)):
        same, other = 0.0, 0.0
        for n in range(len(flat)):
            if place[n] == place_ahead[step]:
                same += weights[n]
            else:
                other += weights[n]
        boost = max(1.0, _SAME_PLACE * other / ((1 - _SAME_PLACE) * same)) if same > 1e-6 * other else 1.0
        total, squares, moment = 0.0, 0.0, 0.0
        for n in range(len(flat)):
            own[n] = weights[n] * boost if place[n] == place_ahead[step] else weights[n]
            total += own[n]
            squares += own[n] ** 2
            moment += own[n] * flat[n] ** 2
            positions[n] = total - 0.5 * own[n]
        # Half-way between mid-point and Weibull plotting positions: the tails of few observations lie beyond them.
        margin = 0.5 * squares / total
        for n in range(len(flat)):
            positions[n] = (positions[n] + 0.5 * margin) / (total + margin)
        mean[step] = (1 - closed[step]) * moment / total
        middle = _quantile(0.5, positions, flat)
        for q in range(len(levels)):
            open_level = levels[q] - closed[step]
            value = 0.0
            if open_level > 0:
                value = _quantile(open_level / (1 - closed[step]), positions, flat)
                value = max(middle + (value - middle) * widening[step], 0.0)
            found[step, q] = max(value, found[step, q - 1]) if q else value


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def _quantile(level: float, positions: _Floats, values: _Floats) -> float:
    """Return the value at `level` by linear interpolation; beyond the ends, the outermost value."""
    if level <= positions[0]:
        return float(values[0])
    for n in range(1, len(positions)):
        if level <= positions[n]:
            part = (level - positions[n - 1]) / (positions[n] - positions[n - 1])
            return float(values[n - 1] + part * (values[n] - values[n - 1]))
    return float(values[-1])
