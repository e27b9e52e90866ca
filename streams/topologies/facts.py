"""Catalog and plan as tables by valid-from: what was true of a product at a time, whenever it was said."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.codec import Catalog, Plan

Floats = NDArray[np.float64]

T = TypeVar("T")


class ValidFrom(Generic[T]):
    """Values by key, each from a time on until the key's next one.

    >>> prices = ValidFrom[int]()
    >>> prices.put("p", 100, "event-1", 5)
    >>> prices.at("p", 99), prices.at("p", 100)
    (None, 5)
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[tuple[int, str, T]]] = {}

    def put(self, key: str, since: int, event_id: str, value: T) -> None:
        """Enter a value; the same event entered again changes nothing."""
        entries = self._entries.setdefault(key, [])
        place = bisect_left(entries, (since, event_id), key=_time_and_id)
        if place == len(entries) or _time_and_id(entries[place]) != (since, event_id):
            entries.insert(place, (since, event_id, value))

    def values(self) -> Iterator[T]:
        """Return all values, of whatever key and time."""
        return (value for entries in self._entries.values() for _, _, value in entries)

    def at(self, key: str, time: int) -> T | None:
        """Return the value of `key` at `time` (ms)."""
        entries = self._entries.get(key, [])
        index = bisect_right(entries, time, key=lambda entry: entry[0])
        return entries[index - 1][2] if index else None


def _time_and_id(entry: tuple[int, str, Any]) -> tuple[int, str]:
    return entry[:2]


class Facts:
    """What a shop says of its products: prices, and what it has planned."""

    def __init__(self) -> None:
        self._catalog: ValidFrom[Catalog] = ValidFrom()
        self._plan: ValidFrom[Plan] = ValidFrom()

    def learn(self, fact: Catalog | Plan) -> None:
        """Enter a catalog or plan entry."""
        if isinstance(fact, Catalog):
            self._catalog.put(fact.product_id, fact.time, fact.event_id, fact)
        else:
            self._plan.put(fact.product_id or "", fact.time, fact.event_id, fact)

    def price(self, product_id: str, time: int) -> int | None:
        """Return the unit price in minor units at `time`: the plan's, else the catalog's."""
        planned = self._plan.at(product_id, time)
        if planned is not None and planned.unit_price is not None:
            return planned.unit_price
        listed = self._catalog.at(product_id, time)
        return listed.unit_price if listed is not None else None

    def covariates(self, product_id: str, time: int) -> dict[str, float]:
        """Return what is planned for `time`: the shop's own entries, overridden by the product's."""
        shop, product = self._plan.at("", time), self._plan.at(product_id, time)
        found: dict[str, float] = dict(shop.covariates) if shop is not None else {}
        if product is not None:
            found.update(product.covariates)
        return found

    def covariate_names(self) -> tuple[str, ...]:
        """Return the names of all that was ever planned, sorted."""
        return tuple(sorted({name for plan in self._plan.values() for name in plan.covariates}))

    def planned(self, product_id: str, starts: Sequence[int], names: Sequence[str]) -> Floats:
        """Return what is planned in the buckets that begin at `starts` (UTC ms), as ``(buckets, names)``.

        What nobody planned is 0. Training, backtest and serving all ask here.
        """
        rows = [self.covariates(product_id, start) for start in starts]
        return np.array([[row.get(name, 0.0) for name in names] for row in rows]).reshape(len(starts), len(names))
