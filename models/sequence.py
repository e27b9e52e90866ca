"""The sequence forecaster: a small recurrent network that serves demand quantiles without torch.

One LSTM, shared by all products, reads a product's last buckets; a small head turns its state and what is known of
each step ahead into quantiles (direct multi-horizon, as MQ-RNN does). Training lives in `models.training`; here are
the description of a network (`SequenceSpec`) and its forward pass in numba, which computes each series alone and in
one fixed order, so that a forecast never depends on the batch it was asked in.

Wen et al. (2017), *A Multi-Horizon Quantile Recurrent Forecaster*, arXiv:1711.11053.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from models.buckets import CONTEXT, SEASON, Floats, Freq, Ints, calendar, phase
from models.seasonal import QUANTILES
from models.windows import ahead_width, fill_window, left_pad, past_width

SEQUENCE = "sequence"
"""Name of this model in cards, announcements and predictions."""

FORMAT = 1
"""Meaning of the inputs and tensors; a change of either raises it, and older versions are refused."""

Z_MAX = 20.0
"""Greatest forecast in the network's units, ``log1p(q / scale)``: an overflow must not become an infinite order."""


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """Everything about a network except its weights; plain data.

    `context` and `horizon` count buckets, `hidden` and `head` are widths of the LSTM and of the head's layer.
    Covariates enter as ``(value - shift) / spread``. `yearly` says that the calendar's yearly columns are used.
    """

    freq: Freq
    timezone: str
    horizon: int
    context: int
    hidden: int = 48
    head: int = 64
    yearly: bool = False
    quantiles: tuple[float, ...] = QUANTILES
    covariates: tuple[str, ...] = ()
    covariate_shift: tuple[float, ...] = ()
    covariate_spread: tuple[float, ...] = ()

    @classmethod
    def default(cls, freq: Freq, timezone: str, horizon: int) -> SequenceSpec:
        """Return the usual network for a frequency."""
        return cls(freq, timezone, horizon, CONTEXT[freq])

    @property
    def season(self) -> int:
        """Buckets in one season."""
        return SEASON[self.freq]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor, named as torch names them."""
        past, ahead = past_width(len(self.covariates)), ahead_width(len(self.covariates))
        return {
            "lstm.weight_ih_l0": (4 * self.hidden, past),
            "lstm.weight_hh_l0": (4 * self.hidden, self.hidden),
            "lstm.bias_ih_l0": (4 * self.hidden,),
            "lstm.bias_hh_l0": (4 * self.hidden,),
            "head.weight": (self.head, self.hidden + ahead),
            "head.bias": (self.head,),
            "out.weight": (len(self.quantiles) + 1, self.head),
            "out.bias": (len(self.quantiles) + 1,),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON data, with the format it belongs to."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SequenceSpec:
        """Read what `to_json` wrote; ValueError names an unknown format or a field that is missing or unknown."""
        values = dict(data)
        if (found := values.pop("format", None)) != FORMAT:
            raise ValueError(f"spec: format {found!r} is not {FORMAT}; train a new version with this release")
        try:
            for name in ("quantiles", "covariates", "covariate_shift", "covariate_spread"):
                values[name] = tuple(values.get(name, ()))
            spec = cls(**values)
        except TypeError as error:
            raise ValueError(f"spec: {error}; train a new version with this release") from error
        sizes = {"horizon": 1_000, "context": 10_000, "hidden": 4_096, "head": 4_096}
        for name, most in sizes.items():
            if type(size := getattr(spec, name)) is not int or not 1 <= size <= most:
                raise ValueError(f"spec: {name} {size!r:.40}; 1 to {most} expected")
        if not len(spec.covariates) == len(spec.covariate_shift) == len(spec.covariate_spread):
            raise ValueError("spec: covariates, their shifts and their spreads differ in number")
        return spec

    def schema_hash(self) -> str:
        """Return a short hash of what goes in and comes out: a forecaster serves only where it is the same.

        Widths and weights may change between versions; frequency, calendar, covariates and quantiles may not.
        """
        data = self.to_json()
        names = ("format", "freq", "timezone", "quantiles", "covariates")
        text = json.dumps({name: data[name] for name in names}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def scale_covariates(self, values: Floats) -> Floats:
        """Return covariates ``(…, names)`` in the network's units, at most 10 spreads from their centre."""
        scaled = (values - np.array(self.covariate_shift)) / np.array(self.covariate_spread)
        return np.asarray(np.clip(scaled, -10.0, 10.0))

    def with_covariates(self, names: Sequence[str], shift: Floats, spread: Floats) -> SequenceSpec:
        """Return the spec with these covariates and their scaling."""
        return replace(
            self,
            covariates=tuple(names),
            covariate_shift=tuple(float(v) for v in shift),
            covariate_spread=tuple(float(v) for v in spread),
        )


@dataclass(frozen=True, slots=True)
class History:
    """One product's consecutive closed buckets up to and with the latest, oldest first.

    `last_index` is the latest bucket's number (`models.buckets.bucket_index`). Only the last `context` entries count;
    unknown quantities and prices are NaN. `views`, `carts` and `price` may be left out. `covariates` is
    ``(buckets + horizon, names)`` in the spec's order, the last `horizon` rows being the plan ahead.
    """

    last_index: int
    quantity: Floats
    price: Floats | None = None
    views: Floats | None = None
    carts: Floats | None = None
    covariates: Floats | None = None


class SequenceForecaster:
    """A trained network, ready to forecast.

    >>> spec = SequenceSpec("D", "UTC", horizon=2, context=14, hidden=4, head=4)
    >>> zeros = {name: np.zeros(shape, np.float32) for name, shape in spec.shapes.items()}
    >>> mean, quantiles = SequenceForecaster.from_tensors(spec, zeros).forecast([History(20_000, np.ones(30))])
    >>> mean.shape, quantiles.shape, bool((np.diff(quantiles) >= 0).all())
    ((1, 2), (1, 2, 11), True)
    """

    def __init__(self, spec: SequenceSpec, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        for name, shape in spec.shapes.items():
            found = tensors[name].shape if name in tensors else None
            if found != shape:
                raise ValueError(
                    f"{name}: shape {found} is not {shape} as the spec says; is this another version's file?"
                )
            if tensors[name].dtype != np.float32 or not np.isfinite(tensors[name]).all():
                raise ValueError(f"{name}: holds NaN, infinity, or no 32-bit floats; train a new version")
        if extra := sorted(set(tensors) - set(spec.shapes)):
            raise ValueError(f"{', '.join(extra)}: no such tensor in the spec; is this another version's file?")
        self.spec = spec

        def wide(name: str) -> Floats:
            # Transposed, so that the kernel's inner loop runs over neighbours and each sum keeps one order.
            return np.ascontiguousarray(tensors[name].astype(np.float64).T)

        self._weights = (
            wide("lstm.weight_ih_l0"),
            wide("lstm.weight_hh_l0"),
            wide("lstm.bias_ih_l0") + wide("lstm.bias_hh_l0"),
            wide("head.weight"),
            wide("head.bias"),
            wide("out.weight"),
            wide("out.bias"),
        )

    @classmethod
    def from_tensors(cls, spec: SequenceSpec, tensors: Mapping[str, NDArray[np.float32]]) -> SequenceForecaster:
        """Return the forecaster of a spec and its weights; ValueError names a tensor that is missing or misshapen."""
        return cls(spec, tensors)

    def forecast(self, histories: Sequence[History]) -> tuple[Floats, Floats]:
        """Return mean ``(n, horizon)`` and quantiles ``(n, horizon, quantiles)`` in units, none below zero."""
        spec = self.spec
        mean = np.empty((len(histories), spec.horizon))
        quantiles = np.empty((len(histories), spec.horizon, len(spec.quantiles)))
        steps: dict[int, tuple[Floats, Ints]] = {}
        past = np.empty((spec.context, past_width(len(spec.covariates))))
        ahead = np.empty((spec.horizon, ahead_width(len(spec.covariates))))
        for n, history in enumerate(histories):
            if history.last_index not in steps:
                steps[history.last_index] = self._calendar(history.last_index)
            days, places = steps[history.last_index]
            scale = fill_window(
                left_pad(history.quantity, spec.context, np.nan),
                self._or(history.price, np.nan),
                self._or(history.views, 0.0),
                self._or(history.carts, 0.0),
                self._covariates(history.covariates),
                days,
                places,
                spec.season,
                past,
                ahead,
            )
            _forward(past, ahead, *self._weights, scale, mean[n], quantiles[n])
        return mean, quantiles

    def _calendar(self, last_index: int) -> tuple[Floats, Ints]:
        spec = self.spec
        index = np.arange(last_index - spec.context + 1, last_index + spec.horizon + 1, dtype=np.int64)
        days = calendar(index, spec.freq, spec.timezone, yearly=spec.yearly)
        return days, phase(index, spec.freq, spec.timezone)

    def _or(self, values: Floats | None, fill: float) -> Floats:
        return left_pad(np.empty(0) if values is None else values, self.spec.context, fill)

    def _covariates(self, values: Floats | None) -> Floats:
        names, steps = len(self.spec.covariates), self.spec.context + self.spec.horizon
        if not names or values is None:
            return np.zeros((steps, names))  # in the network's units: the usual value
        if values.shape[1] != names:
            raise ValueError(f"covariates: {values.shape[1]} columns, not {names} ({', '.join(self.spec.covariates)})")
        return left_pad(self.spec.scale_covariates(values), steps, 0.0)


@nb.njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def _forward(
    past: Floats,
    ahead: Floats,
    w_in: Floats,
    w_state: Floats,
    b_gates: Floats,
    w_head: Floats,
    b_head: Floats,
    w_out: Floats,
    b_out: Floats,
    scale: float,
    mean: Floats,
    quantiles: Floats,
) -> None:
    """Forward pass of one series. No BLAS: its sums change with the batch, and batches move after a crash."""
    hidden = w_state.shape[0]
    state, cell = np.zeros(hidden), np.zeros(hidden)
    gates = np.empty(4 * hidden)
    for t in range(past.shape[0]):
        gates[:] = b_gates
        _accumulate(gates, past[t], w_in, 0)
        _accumulate(gates, state, w_state, 0)
        for j in range(hidden):
            keep = cell[j] / (1.0 + np.exp(-gates[hidden + j]))
            cell[j] = keep + np.tanh(gates[2 * hidden + j]) / (1.0 + np.exp(-gates[j]))
            state[j] = np.tanh(cell[j]) / (1.0 + np.exp(-gates[3 * hidden + j]))

    common, layer, out = b_head.copy(), np.empty(len(b_head)), np.empty(len(b_out))
    _accumulate(common, state, w_head, 0)
    for h in range(ahead.shape[0]):
        layer[:] = common
        _accumulate(layer, ahead[h], w_head, hidden)
        for j in range(len(layer)):
            layer[j] = max(layer[j], 0.0)
        out[:] = b_out
        _accumulate(out, layer, w_out, 0)
        z = out[0]
        for q in range(quantiles.shape[1]):
            if q > 0:
                z += _softplus(out[q])  # each quantile adds to the one below: they cannot cross
            quantiles[h, q] = scale * np.expm1(min(max(z, 0.0), Z_MAX))
        mean[h] = scale * _softplus(out[quantiles.shape[1]])


@nb.njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def _accumulate(into: Floats, values: Floats, weights: Floats, offset: int) -> None:
    """Add ``values @ weights[offset:]`` to `into`, input by input."""
    for k in range(len(values)):
        value = values[k]
        row = weights[offset + k]
        for j in range(len(into)):
            into[j] += value * row[j]


@nb.njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def _softplus(x: float) -> float:
    return float(max(x, 0.0) + np.log1p(np.exp(-abs(x))))
