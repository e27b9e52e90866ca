"""Two ways to compute vectors again from raw events: a fresh pass of the engine, and the brute-force oracle.

Products come apart from users: a vector names the version of the product row that it used, and rows of all versions
are met in the order of activity, which is not that of the clicks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.calendar import ShopCalendar
from features.columns import Event, EventColumns
from features.engine import ScoreFeatures
from features.oracle import UserOracle
from features.oracle_products import product_values
from features.products import ProductFeatures, ProductTable
from features.sets import MEMORY_MS, SCORE_FEATURES, SCORE_SET
from schemas.internal import ActivityRow
from streams.store import last_touched

Floats = NDArray[np.float64]

PRODUCT_COLUMNS = np.array([place for place, feature in enumerate(SCORE_SET) if feature.entity == "product"])
"""Which columns of a vector come from the product's row."""
_IN_MEMORY = 50_000
_DAY_MS = 86_400_000


class Users(Protocol):
    """The users of one task. Vectors that come out show every product without history."""

    def apply(self, events: Sequence[Event], wanted: Sequence[int]) -> Floats:
        """Apply events in order; return the vectors (wanted, features) of those whose places are `wanted`."""
        ...

    def settle(self, watermark: int) -> None:
        """Hear of the task's watermark (UTC ms) now and then: who was silent for the longest memory is forgotten."""
        ...


class Products(Protocol):
    """The products of one activity partition."""

    def apply(self, rows: Sequence[ActivityRow], version: tuple[int, int]) -> None:
        """Apply the rows of the record at `version`, (activity partition, offset)."""
        ...

    def values(self, products: Sequence[str], times: Sequence[int], prices: Sequence[int]) -> Floats:
        """Return the product columns (n, columns) of events at `times` (UTC ms), `prices` in minor units (-1: none)."""
        ...


class EngineUsers:
    """Users as the engine computes them, new ones in the beginning."""

    def __init__(self, calendar: ShopCalendar) -> None:
        self._features = ScoreFeatures(calendar)
        self._rows: dict[str, bytes] = {}
        self._tidy_at = _IN_MEMORY

    def apply(self, events: Sequence[Event], wanted: Sequence[int]) -> Floats:
        """Apply events in order; return the vectors (wanted, features)."""
        features = self._features
        missing = features.missing_users(event.user for event in events)
        features.load_users({user: self._rows.get(user) for user in missing})
        features.load_products(dict.fromkeys(features.missing_products(event.product for event in events)))
        columns = EventColumns.of([tuple(getattr(event, name) for name in Event.__slots__) for event in events])
        return features.apply(columns)[list(wanted)]

    def settle(self, watermark: int) -> None:
        """Pack what changed, keep the latest at hand, and forget whom nothing can move any more."""
        self._rows.update(self._features.drain_users())
        self._features.evict(_IN_MEMORY, _IN_MEMORY)
        if len(self._rows) > self._tidy_at:
            old = [user for user, row in self._rows.items() if last_touched(row) < watermark - MEMORY_MS - _DAY_MS]
            for user in old:
                del self._rows[user]
            self._features.forget(old)
            self._tidy_at = max(_IN_MEMORY, 2 * len(self._rows))


class EngineProducts:
    """Products as the engine computes them: rows packed by their owner, unpacked by their reader."""

    def __init__(self) -> None:
        self._features = ProductFeatures()
        self._rows: dict[str, bytes] = {}
        self._table = ProductTable()
        self._read: set[str] = set()

    def apply(self, rows: Sequence[ActivityRow], version: tuple[int, int]) -> None:
        """Apply the rows of a record."""
        features = self._features
        missing = features.missing(row.product_id for row in rows)
        features.load_all({product: self._rows.get(product) for product in missing})
        columns = zip(*((r.product_id, r.kind, r.time, r.quantity, r.value_minor, r.price) for r in rows), strict=True)
        products, kinds, times, quantities, values, prices = map(list, columns)
        features.apply(products, kinds, times, quantities, values, prices, version)
        self._read.difference_update(products)
        if features.dirty() > _IN_MEMORY:
            self._pack()

    def values(self, products: Sequence[str], times: Sequence[int], prices: Sequence[int]) -> Floats:
        """Return the product columns (n, columns)."""
        self._pack()
        table = self._table
        table.load({product: self._rows.get(product) for product in products if product not in self._read})
        self._read.update(products)
        slots = np.array([table.slots.of[product] for product in products], np.int64)
        out: Floats = np.zeros((len(slots), len(SCORE_FEATURES)))
        table.features(slots, np.array(times, np.int64), np.array(prices, np.int64), out)
        if len(table.slots) > _IN_MEMORY:
            self._read.difference_update(table.evict(_IN_MEMORY))
        return out[:, PRODUCT_COLUMNS]

    def _pack(self) -> None:
        self._rows.update(self._features.drain())
        self._features.evict(_IN_MEMORY)


class OracleUsers:
    """Users by brute force: all their events are kept, and looked at for each vector."""

    def __init__(self, calendar: ShopCalendar) -> None:
        self._users = defaultdict[str, UserOracle](lambda: UserOracle(calendar.timezone, calendar.country))

    def apply(self, events: Sequence[Event], wanted: Sequence[int]) -> Floats:
        """Apply events in order; return the vectors (wanted, features)."""
        asked = set(wanted)
        found = []
        for place, event in enumerate(events):
            user = self._users[event.user]
            if place in asked:
                found.append(user.vector(event, ()))
            else:
                user.skip(event)
        return np.array(found, np.float64).reshape(len(wanted), len(SCORE_FEATURES))

    def settle(self, watermark: int) -> None:
        """Forget nothing."""


class OracleProducts:
    """Products by brute force."""

    def __init__(self) -> None:
        self._rows: dict[str, list[ActivityRow]] = defaultdict(list)

    def apply(self, rows: Sequence[ActivityRow], version: tuple[int, int]) -> None:
        """Keep the rows of a record."""
        for row in rows:
            self._rows[row.product_id].append(row)

    def values(self, products: Sequence[str], times: Sequence[int], prices: Sequence[int]) -> Floats:
        """Return the product columns (n, columns)."""
        names = [SCORE_FEATURES[place] for place in PRODUCT_COLUMNS]
        found = [
            product_values(self._rows.get(product, ()), time, price)
            for product, time, price in zip(products, times, prices, strict=True)
        ]
        return np.array([[values[name] for name in names] for values in found], np.float64)
