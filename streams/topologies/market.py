"""Catalog and plan as the score stage shows them: each product's market as of a click, and how far both were read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

from schemas.codec import DecodeError
from schemas.currency import Exchange
from streams.records import CATALOG, Record
from streams.topologies.facts import Facts, Market, decode_fact

Values = tuple[int, int, int, float]

UNKNOWN: Values = (-1, -1, -1, 0.0)
"""What is said of a product of which nothing is known."""
_MOST_KEPT = 100_000


class MarketTable:
    """Takes the records of catalog and plan; `read` are the next offsets of both.

    Prices come out in the currency of `exchange`, as `Facts` has them.

    >>> from streams.records import Input
    >>> table = MarketTable()
    >>> entry = b'{"event_id": "c", "product_id": "mug", "time": 100, "unit_price": 999}'
    >>> table.take(Record(Input(CATALOG, 0), 6, b"mug", entry, 100))
    >>> table.of("mug", 99), table.of("mug", 100), table.read
    ((-1, -1, -1, 0.0), (999, -1, -1, 0.0), (7, 0))
    """

    def __init__(self, exchange: Exchange | None = None) -> None:
        self.read = (0, 0)
        self._facts = Facts(exchange)
        self._known: dict[str, Market] = {}
        self._told = False

    def take(self, record: Record) -> None:
        """Take a record of either; what cannot be read is nobody's here, for the demand stage buries it."""
        end = record.offset + 1
        self.read = (end, self.read[1]) if record.input.topic == CATALOG else (self.read[0], end)
        try:
            self._facts.learn(decode_fact(record))
        except DecodeError:
            return
        self._told = True
        self._known.clear()

    def of(self, product: str, time: int) -> Values:
        """Return list price, planned price, stock and promotion of a product at `time` (ms), as events bring them."""
        if not self._told:
            return UNKNOWN
        known = self._known.get(product)
        if known is None or not known.since <= time < known.until:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            known = self._known[product] = self._facts.market(product, time)
        return known.values

    def columns(self, products: Sequence[str | None], times: Sequence[int]) -> Sequence[Iterable[int | float]]:
        """Return `of` for many, by columns; of None, as of what is not told of, nothing is known."""
        if not self._told:
            return [repeat(value, len(products)) for value in UNKNOWN]
        pairs = zip(products, times, strict=True)
        return list(
            zip(*(UNKNOWN if product is None else self.of(product, time) for product, time in pairs), strict=True)
        )
