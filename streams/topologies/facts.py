"""Catalog and plan as tables by valid-from: what was true of a product at a time, whenever it was said."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.sets import PROMOTION
from schemas.codec import Catalog, DecodeError, Plan, decode_catalog, decode_plan
from schemas.currency import Exchange
from streams.records import CATALOG, Record

Floats = NDArray[np.float64]

T = TypeVar("T")


class ValidFrom(Generic[T]):
    """Values by key, each from a time on until the key's next one.

    >>> prices = ValidFrom[int]()
    >>> prices.put("p", 100, "event-1", 5)
    >>> prices.at("p", 99), prices.at("p", 100)
    (None, 5)
    """

    FOREVER = 1 << 62

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
        return self.span(key, time)[0]

    def span(self, key: str, time: int) -> tuple[T | None, int, int]:
        """Return the value of `key` at `time` (ms), and the times [since, until) all of which it holds for.

        >>> prices = ValidFrom[int]()
        >>> prices.put("p", 100, "event-1", 5)
        >>> prices.span("p", 99) == (None, 0, 100), prices.span("p", 100) == (5, 100, ValidFrom.FOREVER)
        (True, True)
        """
        entries = self._entries.get(key)
        if entries is None:
            return None, 0, self.FOREVER
        newest, _, value = entries[-1]
        if newest <= time:
            return value, newest, self.FOREVER
        index = bisect_right(entries, time, key=_time_of)
        until = entries[index][0] if index < len(entries) else self.FOREVER
        return (entries[index - 1][2], entries[index - 1][0], until) if index else (None, 0, until)


def decode_fact(record: Record) -> Catalog | Plan:
    """Return the entry in a record of catalog or plan. Raises DecodeError."""
    if record.value is None:
        raise DecodeError("undecodable", "the record has no value")
    return decode_catalog(record.value) if record.input.topic == CATALOG else decode_plan(record.value)


def _known(value: int | None) -> int:
    return -1 if value is None else value


def _time_of(entry: tuple[int, str, Any]) -> int:
    return entry[0]


def _time_and_id(entry: tuple[int, str, Any]) -> tuple[int, str]:
    return entry[:2]


class Market(NamedTuple):
    """What catalog and plan say of a product, for all times [since, until) (UTC ms).

    `values` are `list_minor`, `plan_minor`, `stock` and `promotion` of `features.columns.EventColumns`.
    """

    since: int
    until: int
    values: tuple[int, int, int, float]


class Facts:
    """What a shop says of its products: prices, in the currency of `exchange`, and what it has planned."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        self._exchange = exchange or Exchange()
        self._catalog: ValidFrom[Catalog] = ValidFrom()
        self._plan: ValidFrom[Plan] = ValidFrom()

    def learn(self, fact: Catalog | Plan) -> None:
        """Enter a catalog or plan entry."""
        if isinstance(fact, Catalog):
            self._catalog.put(fact.product_id, fact.time, fact.event_id, self._exchange.convert(fact))
        else:
            self._plan.put(fact.product_id or "", fact.time, fact.event_id, self._exchange.convert(fact))

    def price(self, product_id: str, time: int) -> int | None:
        """Return the unit price in minor units at `time`: the plan's, else the catalog's."""
        planned = self._plan.at(product_id, time)
        if planned is not None and planned.unit_price is not None:
            return planned.unit_price
        listed = self._catalog.at(product_id, time)
        return listed.unit_price if listed is not None else None

    def market(self, product_id: str, time: int) -> Market:
        """Return the product's market at `time`.

        >>> facts = Facts()
        >>> facts.learn(Catalog("c", "mug", 100, unit_price=1_000, stock=3))
        >>> facts.learn(Plan("q", 200, covariates={"promotion": 1.0}))
        >>> facts.market("mug", 150)
        Market(since=100, until=200, values=(1000, -1, 3, 0.0))
        """
        listed, *listing = self._catalog.span(product_id, time)
        planned, *planning = self._plan.span(product_id, time)
        shop, *shopping = self._plan.span("", time)
        promotion = shop.covariates.get(PROMOTION, 0.0) if shop is not None else 0.0
        if planned is not None:
            promotion = planned.covariates.get(PROMOTION, promotion)
        return Market(
            max(listing[0], planning[0], shopping[0]),
            min(listing[1], planning[1], shopping[1]),
            (
                _known(listed.unit_price if listed is not None else None),
                _known(planned.unit_price if planned is not None else None),
                _known(listed.stock if listed is not None else None),
                promotion,
            ),
        )

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
