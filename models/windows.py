"""Windows over bucketed demand: what the sequence model sees, defined once for training and for serving.

`Panel` holds the closed buckets of all products as arrays; `fill_window` turns one product's last buckets into the
network's inputs. Training calls it for many origins, serving for the latest, so the two cannot drift apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numba as nb
import numpy as np
from numpy.typing import NDArray

from models.buckets import CALENDAR_COLUMNS, Floats, Freq, Ints, bucket_index

PAST_COLUMNS = 7
"""Columns of a past step before its calendar: seen, quantity, sold, season, price, views, carts."""

AHEAD_COLUMNS = 9
"""Columns of a step ahead before its calendar: season, last season, step, level, recent, latest, scale, idle, age."""


class BucketRow(Protocol):
    """A closed bucket, as `tidecast.history` carries it."""

    @property
    def product_id(self) -> str:
        """Product."""

    @property
    def bucket_start(self) -> int:
        """Start, UTC ms."""

    @property
    def quantity(self) -> int:
        """Units sold, net of cancellations."""

    @property
    def views(self) -> int:
        """Views."""

    @property
    def carts(self) -> int:
        """Additions to carts."""

    @property
    def price(self) -> int | None:
        """Unit price in minor units, where known."""

    @property
    def covariates(self) -> dict[str, float]:
        """What was planned ahead for this bucket."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Demand of all products over the same consecutive buckets; arrays are ``(products, buckets)`` float64.

    `quantity` is NaN before a product's first bucket and where it is unknown; `price` is NaN where unknown;
    `covariates` is ``(products, buckets, names)``.
    """

    freq: Freq
    timezone: str
    products: tuple[str, ...]
    first_index: int
    quantity: Floats
    price: Floats
    views: Floats
    carts: Floats
    covariates: Floats
    covariate_names: tuple[str, ...] = ()

    @classmethod
    def from_rows(
        cls, rows: Iterable[BucketRow], freq: Freq, timezone: str, covariate_names: Sequence[str] | None = None
    ) -> Panel:
        """Lay out closed buckets as arrays; one row per product and bucket, in any order.

        A bucket without a row after a product's first one sold nothing: series at rest publish no rows.
        """
        ordered = sorted(rows, key=lambda row: (row.product_id, row.bucket_start))
        names = tuple(sorted({name for row in ordered for name in row.covariates}))
        if covariate_names is not None:
            names = tuple(covariate_names)
        products = tuple(dict.fromkeys(row.product_id for row in ordered))
        place = {product: i for i, product in enumerate(products)}
        index = bucket_index((row.bucket_start for row in ordered), freq, timezone)
        first = int(index.min()) if len(index) else 0
        shape = (len(products), int(index.max()) - first + 1 if len(index) else 0)
        quantity, price = np.full(shape, np.nan), np.full(shape, np.nan)
        views, carts, covariates = np.zeros(shape), np.zeros(shape), np.zeros((*shape, len(names)))
        series = np.array([place[row.product_id] for row in ordered], dtype=np.int64)
        column = index - first
        for s, c in zip(*_first_of_each(series, column), strict=True):
            quantity[s, c:] = 0.0
        quantity[series, column] = [row.quantity for row in ordered]
        price[series, column] = [np.nan if row.price is None else row.price for row in ordered]
        views[series, column] = [row.views for row in ordered]
        carts[series, column] = [row.carts for row in ordered]
        for k, name in enumerate(names):
            covariates[series, column, k] = [row.covariates.get(name, 0.0) for row in ordered]
        return cls(freq, timezone, products, first, quantity, price, views, carts, covariates, names)

    @property
    def buckets(self) -> int:
        """How many buckets there are."""
        return int(self.quantity.shape[1])

    def index(self, extra: int = 0) -> Ints:
        """Return the numbers of all buckets, and of `extra` more after them."""
        return np.arange(self.first_index, self.first_index + self.buckets + extra, dtype=np.int64)

    def before(self, column: int) -> Panel:
        """Return the panel cut before bucket `column`: nothing later can be seen through it."""
        return Panel(
            self.freq,
            self.timezone,
            self.products,
            self.first_index,
            self.quantity[:, :column],
            self.price[:, :column],
            self.views[:, :column],
            self.carts[:, :column],
            self.covariates[:, :column],
            self.covariate_names,
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything in the panel: equal panels train equal models."""
        digest = hashlib.sha256(repr((self.freq, self.timezone, self.products, self.first_index)).encode())
        digest.update(repr((self.quantity.shape, self.covariate_names)).encode())
        for values in (self.quantity, self.price, self.views, self.carts, self.covariates):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def _first_of_each(series: Ints, column: Ints) -> tuple[Ints, Ints]:
    """Rows come sorted by series and time: the first row of each series is its first bucket."""
    which, at = np.unique(series, return_index=True)
    return which, column[at]


def past_width(covariates: int) -> int:
    """Inputs per past step."""
    return PAST_COLUMNS + CALENDAR_COLUMNS + covariates


def ahead_width(covariates: int) -> int:
    """Inputs per step ahead, beside the network's own state."""
    return AHEAD_COLUMNS + CALENDAR_COLUMNS + covariates


@nb.njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def fill_window(
    quantity: Floats,
    price: Floats,
    views: Floats,
    carts: Floats,
    covariates: Floats,
    calendar: Floats,
    phase: Ints,
    season: int,
    past: Floats,
    ahead: Floats,
) -> float:
    """Write the inputs of one window into `past` and `ahead`, and return its scale (units per bucket).

    `quantity`, `price`, `views`, `carts` are the last L buckets, oldest first, NaN where unknown; `covariates`
    (scaled), `calendar` and `phase` cover these and the H buckets ahead. `past` is ``(L, past_width)``, `ahead` is
    ``(H, ahead_width)``. Quantities enter as ``log1p(q / scale)``, the scale being the series' own mean plus one half:
    rare sellers would otherwise blow their noise up. Loops run in one fixed order: equal windows give equal bytes.
    """
    length, horizon = quantity.shape[0], ahead.shape[0]
    seen, total, sold, price_sum, prices, view_sum, cart_sum = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for t in range(length):
        if not np.isnan(quantity[t]):
            seen += 1.0
            total += max(quantity[t], 0.0)
            sold += 1.0 if quantity[t] > 0.0 else 0.0
            view_sum += views[t]
            cart_sum += carts[t]
        if price[t] > 0.0:
            price_sum += np.log(price[t])
            prices += 1.0
    scale = total / max(seen, 1.0) + 0.5
    view_scale, cart_scale = view_sum / max(seen, 1.0) + 0.5, cart_sum / max(seen, 1.0) + 0.5
    usual_price = price_sum / max(prices, 1.0)

    # The series' own profile over its season, in the network's units; a phase never seen takes the mean of all.
    places = int(phase.max()) + 1
    profile, counts, latest = np.zeros(places), np.zeros(places), np.zeros(places)
    level, levels = 0.0, 0.0
    for t in range(length):
        if not np.isnan(quantity[t]):
            value = np.log1p(max(quantity[t], 0.0) / scale)
            profile[phase[t]] += value
            counts[phase[t]] += 1.0
            latest[phase[t]] = value
            level += value
            levels += 1.0
    level /= max(levels, 1.0)
    for p in range(places):
        if counts[p] > 0.0:
            profile[p] /= counts[p]
        else:
            profile[p] = level
            latest[p] = level

    relative = 0.0
    for t in range(length):
        row = past[t]
        row[:] = 0.0
        if price[t] > 0.0:
            relative = np.log(price[t]) - usual_price
        if not np.isnan(quantity[t]):
            row[0] = 1.0
            row[1] = np.log1p(max(quantity[t], 0.0) / scale)
            row[2] = 1.0 if quantity[t] > 0.0 else 0.0
            row[3] = profile[phase[t]]
            row[4] = min(max(relative, -2.0), 2.0)
            row[5] = np.log1p(max(views[t], 0.0) / view_scale)
            row[6] = np.log1p(max(carts[t], 0.0) / cart_scale)
        for k in range(calendar.shape[1]):
            row[7 + k] = calendar[t, k]
        for k in range(covariates.shape[1]):
            row[7 + calendar.shape[1] + k] = covariates[t, k]

    recent = _mean_level(quantity, season, scale)
    long = _mean_level(quantity, 4 * season, scale)
    for h in range(horizon):
        row = ahead[h]
        p = phase[length + h]
        row[0] = profile[p]
        row[1] = latest[p]
        row[2] = (h + 1.0) / horizon
        row[3] = level
        row[4] = recent
        row[5] = long
        row[6] = np.log(scale)
        row[7] = 1.0 - sold / max(seen, 1.0)
        row[8] = seen / length
        for k in range(calendar.shape[1]):
            row[9 + k] = calendar[length + h, k]
        for k in range(covariates.shape[1]):
            row[9 + calendar.shape[1] + k] = covariates[length + h, k]
    return scale


@nb.njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def _mean_level(quantity: Floats, last: int, scale: float) -> float:
    """Mean of the `last` buckets in the network's units; 0 where none of them is known."""
    total, seen = 0.0, 0.0
    for t in range(max(quantity.shape[0] - last, 0), quantity.shape[0]):
        if not np.isnan(quantity[t]):
            total += max(quantity[t], 0.0)
            seen += 1.0
    return float(np.log1p(total / max(seen, 1.0) / scale))


def left_pad(values: NDArray[np.float64], length: int, fill: float) -> Floats:
    """Return the last `length` entries of `values` along its first axis, with `fill` before them where it is shorter.

    >>> left_pad(np.array([1.0, 2.0]), 3, np.nan)
    array([nan,  1.,  2.])
    """
    values = np.asarray(values, dtype=np.float64)[-length:]
    out = np.full((length, *values.shape[1:]), fill)
    out[length - len(values) :] = values
    return out
