"""Training windows of a panel: which there are, how they are cut by time, and how batches of them are filled.

The buckets split by time alone: the last `horizon` are held out for the backtest against the seasonal forecast, the
`validation` buckets before them stop the training, and nothing from the cut on is a target before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from models.buckets import Floats, Ints, calendar, phase
from models.sequence import SequenceSpec
from models.windows import Panel, ahead_width, fill_window, past_width

_LEAST = {"H": 25, "D": 15, "W": 9}
_VALIDATION = {"H": 48, "D": 14, "W": 8}
_VALIDATION_ORIGINS = 4
_MIN_WINDOWS = 32


class NotEnoughHistory(ValueError):
    """Too few closed buckets or products to train on; the message says how many there are and are needed."""


@dataclass(frozen=True, slots=True)
class Split:
    """Columns of a panel: targets of training lie before `cut`, of validation before `held_out`, of backtest after."""

    cut: int
    held_out: int
    validation_origins: tuple[int, ...]

    @classmethod
    def of(cls, panel: Panel, horizon: int) -> Split:
        """Cut the panel by time; NotEnoughHistory where the parts would be too short."""
        least = _LEAST[panel.freq]
        held_out = panel.buckets - horizon
        validation = max(horizon, min(_VALIDATION[panel.freq], held_out // 4))
        cut = held_out - validation
        if cut < least:
            raise NotEnoughHistory(
                f"{panel.buckets} closed buckets ({panel.freq}) of {len(panel.products)} products; a horizon of "
                f"{horizon} needs at least {least + 2 * horizon}: train later, or shorten demand.horizon"
            )
        count = min(_VALIDATION_ORIGINS, validation - horizon + 1)
        return cls(cut, held_out, tuple(int(t) for t in np.linspace(cut, held_out - horizon, count)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs ``(n, context, …)`` and ``(n, horizon, …)``, scales ``(n,)`` and targets ``(n, horizon)`` in units."""

    past: NDArray[np.float32]
    ahead: NDArray[np.float32]
    scale: Floats
    target: Floats


class Samples:
    """Windows of one panel, addressed by series and origin (the column of the first bucket forecast)."""

    def __init__(self, panel: Panel, spec: SequenceSpec) -> None:
        self._spec = spec
        before, after = spec.context, spec.horizon
        index = np.arange(panel.first_index - before, panel.first_index + panel.buckets + after, dtype=np.int64)
        self._calendar = calendar(index, spec.freq, spec.timezone, yearly=spec.yearly)
        self._phase = phase(index, spec.freq, spec.timezone)

        def padded(values: Floats, fill: float, right: int = 0) -> Floats:
            width = [(0, 0), (before, right)] + [(0, 0)] * (values.ndim - 2)
            return np.ascontiguousarray(np.pad(values, width, constant_values=fill))

        self._quantity = padded(panel.quantity, np.nan, after)
        self._price = padded(panel.price, np.nan)
        self._views, self._carts = padded(panel.views, 0.0), padded(panel.carts, 0.0)
        self._covariates = padded(spec.scale_covariates(panel.covariates), 0.0, after)

    def eligible(self, first: int, last: int) -> tuple[Ints, Ints, Floats]:
        """Return series, origins and mean sales of all windows whose origin is in ``[first, last)``.

        A window counts where its product sold anything within the context: the same ones are forecast when serving.
        """
        context = self._spec.context
        known = np.isfinite(self._quantity)
        seen = np.cumsum(known, axis=1, dtype=np.float64)
        sold = np.cumsum(np.where(known, np.maximum(self._quantity, 0.0), 0.0), axis=1)
        origin = np.arange(first, last, dtype=np.int64)
        # In the padded arrays the context of origin t is the columns t to t + context - 1.
        ends, starts = origin + context - 1, origin - 1
        in_seen = seen[:, ends] - np.where(starts >= 0, seen[:, starts], 0.0)
        in_sold = sold[:, ends] - np.where(starts >= 0, sold[:, starts], 0.0)
        enough = in_sold > 0.0
        series, at = np.nonzero(enough)
        return series, origin[at], (in_sold / np.maximum(in_seen, 1.0))[enough]

    def batch(self, series: Ints, origin: Ints, until: int) -> Batch:
        """Fill the windows of these series and origins; targets in columns from `until` on are NaN (unknown)."""
        spec, n = self._spec, len(series)
        past = np.empty((n, spec.context, past_width(len(spec.covariates))))
        ahead = np.empty((n, spec.horizon, ahead_width(len(spec.covariates))))
        scale, target = np.empty(n), np.empty((n, spec.horizon))
        _fill(
            np.asarray(series, dtype=np.int64),
            np.asarray(origin, dtype=np.int64),
            until,
            self._quantity,
            self._price,
            self._views,
            self._carts,
            self._covariates,
            self._calendar,
            self._phase,
            spec.season,
            past,
            ahead,
            scale,
            target,
        )
        return Batch(past.astype(np.float32), ahead.astype(np.float32), scale, target)


def check_enough(windows: int, panel: Panel) -> None:
    """Raise NotEnoughHistory where there are too few windows to learn anything from."""
    if windows < _MIN_WINDOWS:
        raise NotEnoughHistory(
            f"{windows} training windows in {panel.buckets} closed buckets of {len(panel.products)} products, fewer "
            f"than {_MIN_WINDOWS}; train later"
        )


@nb.njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def _fill(
    series: Ints,
    origin: Ints,
    until: int,
    quantity: Floats,
    price: Floats,
    views: Floats,
    carts: Floats,
    covariates: Floats,
    days: Floats,
    places: Ints,
    season: int,
    past: Floats,
    ahead: Floats,
    scale: Floats,
    target: Floats,
) -> None:
    length, horizon = past.shape[1], ahead.shape[1]
    for n in range(len(series)):
        s, t = series[n], origin[n]
        scale[n] = fill_window(
            quantity[s, t : t + length],
            price[s, t : t + length],
            views[s, t : t + length],
            carts[s, t : t + length],
            covariates[s, t : t + length + horizon],
            days[t : t + length + horizon],
            places[t : t + length + horizon],
            season,
            past[n],
            ahead[n],
        )
        for h in range(horizon):
            target[n, h] = quantity[s, t + length + h] if t + h < until else np.nan
