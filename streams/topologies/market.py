"""Catalog and plan as the score stage shows them: each product's market as of a click, and how far both were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.slots import grown, roomy
from schemas.codec import Catalog, DecodeError
from schemas.currency import Exchange
from streams.records import CATALOG, Record
from streams.topologies.facts import Facts, Market, ValidFrom, decode_fact

Values = tuple[int, int, int, float]

UNKNOWN: Values = (-1, -1, -1, 0.0)
"""What is said of a product of which nothing is known."""
_UNSEEN = 1
_MOST_KEPT = 100_000


class MarketTable:
    """Takes the records of catalog and plan; `read` are the next offsets of both.

    Prices come out in the currency of `exchange`, as `Facts` has them.

    >>> from streams.records import Input
    >>> table = MarketTable()
    >>> entry = b'{"event_id": "c", "product_id": "mug", "time": 100, "unit_price": 999}'
    >>> table.take(Record(Input(CATALOG, 0), 6, b"mug", entry, 100))
    >>> listed, planned, stock, promotion = table.columns(["mug", "mug", None], np.array([99, 100, 100]))
    >>> listed.tolist(), planned.tolist(), table.read
    ([-1, 999, -1], [-1, -1, -1], (7, 0))
    """

    _slots: dict[str | None, int]
    _since: NDArray[np.int64]
    _until: NDArray[np.int64]
    _values: NDArray[np.int64]
    _promotions: NDArray[np.float64]

    def __init__(self, exchange: Exchange | None = None) -> None:
        self.read = (0, 0)
        self._facts = Facts(exchange)
        self._told = False
        self._forget()

    def take(self, record: Record) -> None:
        """Take a record of either; what cannot be read is nobody's here, for the demand stage buries it."""
        end = record.offset + 1
        self.read = (end, self.read[1]) if record.input.topic == CATALOG else (self.read[0], end)
        try:
            fact = decode_fact(record)
        except DecodeError:
            return
        self._facts.learn(fact)
        self._told = True
        if isinstance(fact, Catalog) or fact.product_id is not None:
            self._until[self._slots.get(fact.product_id, _UNSEEN)] = 0
        else:
            self._until[_UNSEEN:] = 0

    def columns(self, products: Sequence[str | None], times: NDArray[np.int64]) -> tuple[NDArray[Any], ...] | None:
        """Return list and planned prices, stock and promotion, as events bring them, of n products at `times` (n,), ms.

        Each is (n,). None where nothing is known of any product.
        """
        if not self._told:
            return None
        slots = np.fromiter(map(self._slots.get, products, repeat(_UNSEEN)), np.int64, len(products))
        fresh = (self._since[slots] <= times) & (times < self._until[slots])
        values, promotions = self._values[slots], self._promotions[slots]
        stale = np.flatnonzero(~fresh)
        if len(stale):
            told = self._look([products[place] for place in stale.tolist()], times[stale].tolist())
            values[stale], promotions[stale] = told[:, :3], told[:, 3]
        return values[:, 0], values[:, 1], values[:, 2], promotions

    def _look(self, products: Sequence[str | None], times: Sequence[int]) -> NDArray[np.float64]:
        """Look products up, and keep for how long what is found will hold; return the values (n, 4)."""
        seen: dict[str, Market] = {}
        told: list[Values] = []
        for product, time in zip(products, times, strict=True):
            assert product is not None  # slot 0 always holds
            known = seen.get(product)
            if known is None or not known.since <= time < known.until:
                known = seen[product] = self._facts.market(product, time)
            told.append(known.values)
        self._keep(seen)
        return np.array(told, np.float64)

    def _keep(self, seen: Mapping[str, Market]) -> None:
        if len(self._slots) + len(seen) > _MOST_KEPT:
            self._forget()
        slots = [self._slots.setdefault(product, len(self._slots) + 1) for product in seen]
        if len(self._slots) >= len(self._since):
            size = roomy(len(self._since), len(self._slots) + 1)
            self._since, self._until = grown(self._since, size), grown(self._until, size)
            self._values, self._promotions = grown(self._values, size), grown(self._promotions, size)
        self._since[slots], self._until[slots] = zip(*((one.since, one.until) for one in seen.values()), strict=True)
        found = np.array([one.values for one in seen.values()], np.float64)
        self._values[slots], self._promotions[slots] = found[:, :3], found[:, 3]

    def _forget(self) -> None:
        # Slot 0 is that of events without a product; the next one, of products that were not looked up, never holds.
        self._slots = {None: 0}
        self._since, self._until = np.zeros(64, np.int64), np.zeros(64, np.int64)
        self._values, self._promotions = np.zeros((64, 3), np.int64), np.zeros(64)
        self._until[0] = ValidFrom.FOREVER
        self._values[0], self._promotions[0] = UNKNOWN[:3], UNKNOWN[3]
