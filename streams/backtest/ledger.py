"""Closed buckets as the history topic told them, in its order: what was known at any point of it stays knowable."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.windows import Panel
from schemas.outputs import decode_history
from streams.topologies.calendar import Calendar
from streams.topologies.facts import Facts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Ledger:
    """Rows of the history topic in columns, 48 bytes a row; a later row of the same key and bucket is a revision.

    `gaps_missing`: a bucket in which nothing sold is unknown, not zero, unless `nothing_sold` says so. Buckets go by
    their calendar's numbers.
    """

    def __init__(self, calendar: Calendar, *, gaps_missing: bool = False) -> None:
        self.calendar = calendar
        self._gaps_missing = gaps_missing
        self._places: dict[str, int] = {}
        self._keys: list[str] = []
        self._zeros = {name: array("q") for name in ("key", "number")}
        self._columns = {name: array("q") for name in ("key", "number", "quantity", "views", "carts", "price")}

    def __len__(self) -> int:
        """Rows so far: a position, up to which everything was known at that time."""
        return len(self._columns["key"])

    def take(self, value: bytes) -> None:
        """Take a record of the history topic."""
        bucket = decode_history(value)
        columns = self._columns
        columns["key"].append(self._place(bucket.product_id))
        columns["number"].append(self.calendar.number(bucket.bucket_start))
        columns["quantity"].append(bucket.quantity)
        columns["views"].append(bucket.views)
        columns["carts"].append(bucket.carts)
        columns["price"].append(-1 if bucket.price is None else bucket.price)

    def nothing_sold(self, key: str, time: int) -> None:
        """Take word that in the bucket of `time` (UTC ms) a sale was possible: without one it is zero, not unknown."""
        self._zeros["key"].append(self._place(key))
        self._zeros["number"].append(self.calendar.number(time))

    def totals(self, position: int) -> dict[str, int]:
        """Return the quantity sold of each key, as known at `position`."""
        rows = self._rows(position)
        if not len(rows["key"]):
            return {}
        # Of each key and bucket the last row counts.
        cells = (rows["key"] << 32) + rows["number"]
        _, last = np.unique(cells[::-1], return_index=True)
        at = len(cells) - 1 - last
        sums = np.bincount(rows["key"][at], weights=rows["quantity"][at], minlength=len(self._keys))
        known = np.unique(rows["key"])
        return {self._keys[place]: int(sums[place]) for place in known.tolist()}

    def quantities(self, keys: Sequence[str], first: int, until: int, position: int | None = None) -> Floats:
        """Return what sold of each key in the buckets ``[first, until)``, as ``(keys, buckets)``; NaN where unknown.

        A bucket without a row is zero from the key's first one on (unless gaps are missing), and NaN before it.
        """
        return self._filled(keys, first, until, position, ("quantity",))["quantity"]

    def panel(
        self, keys: Sequence[str] | None, until: int, position: int, facts: Facts, covariates: Sequence[str]
    ) -> Panel:
        """Return the buckets before number `until` of `keys` (None: of all), as known at `position`.

        `covariates` names the planned values to take from `facts`.
        """
        rows = self._rows(position)
        if keys is None:
            keys = [self._keys[place] for place in np.unique(rows["key"]).tolist()]
        keys = sorted(keys)
        places = [self._places[key] for key in keys if key in self._places]
        mine = np.isin(rows["key"], places) & (rows["number"] < until)
        first = int(rows["number"][mine].min()) if mine.any() else until
        found = self._filled(keys, first, until, position, ("quantity", "price", "views", "carts"))
        planned = np.zeros((len(keys), until - first, len(covariates)))
        if covariates:
            starts = [self.calendar.start(number) for number in range(first, until)]
            for k, key in enumerate(keys):
                planned[k] = facts.planned(key, starts, covariates)
        return Panel(
            self.calendar.freq,
            self.calendar.timezone,
            tuple(keys),
            first,
            found["quantity"],
            found["price"],
            found["views"],
            found["carts"],
            planned,
            tuple(covariates),
        )

    def _filled(
        self, keys: Sequence[str], first: int, until: int, position: int | None, names: Sequence[str]
    ) -> dict[str, Floats]:
        rows = self._rows(len(self) if position is None else position)
        wanted = np.full(len(self._keys) + 1, -1, dtype=np.int64)
        for index, key in enumerate(keys):
            if key in self._places:
                wanted[self._places[key]] = index
        at = wanted[rows["key"]]
        born = np.full(len(keys), np.iinfo(np.int64).max)
        np.minimum.at(born, at[at >= 0], rows["number"][at >= 0])
        inside = (at >= 0) & (rows["number"] >= first) & (rows["number"] < until)
        series, bucket = at[inside], rows["number"][inside] - first
        shape = (len(keys), max(until - first, 0))
        found = {}
        for name in names:
            values = np.full(shape, np.nan if name == "price" else 0.0)
            # In the order of the log, so that a revision stands over what it revises.
            values[series, bucket] = rows[name][inside]
            found[name] = values
        if "price" in found:
            found["price"][found["price"] < 0] = np.nan
        if "quantity" in found:
            quantity = found["quantity"]
            quantity[np.arange(first, first + shape[1])[None, :] < born[:, None]] = np.nan
            if self._gaps_missing:
                zeros = {name: np.array(column, dtype=np.int64) for name, column in self._zeros.items()}
                row, column = wanted[zeros["key"]], zeros["number"] - first
                told = (row >= 0) & (column >= 0) & (column < shape[1])
                known = quantity > 0
                known[row[told], column[told]] = True
                quantity[~known] = np.nan
        return found

    def _place(self, key: str) -> int:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._keys)
            self._keys.append(key)
        return place

    def _rows(self, position: int) -> dict[str, Ints]:
        return {name: np.array(column[:position], dtype=np.int64) for name, column in self._columns.items()}
