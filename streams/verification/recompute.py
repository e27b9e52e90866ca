"""Two ways to compute vectors again from raw events: a fresh pass of the engine, and the brute-force oracle.

Products and categories come apart from users: a vector names the versions of their rows that it used, and rows of all
versions are met in the order of activity, which is not that of the clicks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from features.columns import Event, EventColumns
from features.engine import ScoreFeatures
from features.oracle import UserOracle
from features.oracle_products import ActivityLike, activity_values
from features.products import ProductFeatures, ProductTable
from features.sets import MEMORY_MS, SCORE_FEATURES, SCORE_SET, Activity
from features.shop import Shop
from schemas.internal import ActivityBatch, ActivityRow
from streams.store import last_touched

Floats = NDArray[np.float64]

COLUMNS: dict[Activity, NDArray[np.int64]] = {
    entity: np.array([place for place, feature in enumerate(SCORE_SET) if feature.entity == entity])
    for entity in get_args(Activity)
}
"""Which columns of a vector come from the product's row, and which from the category's."""
_IN_MEMORY = 50_000
_DAY_MS = 86_400_000


class Users(Protocol):
    """The users of one task. Vectors that come out show every product and category without history."""

    def apply(self, events: Sequence[Event], wanted: Sequence[int]) -> Floats:
        """Apply events in order; return the vectors (wanted, features) of those whose places are `wanted`."""
        ...

    def settle(self, watermark: int) -> None:
        """Hear of the task's watermark (UTC ms) now and then: who was silent for the longest memory is forgotten."""
        ...


class Rows(Protocol):
    """The rows of the products of one activity partition, or of its categories."""

    def apply(self, batch: ActivityBatch, wanted: Container[str], version: tuple[int, int]) -> None:
        """Apply what the record at `version`, (activity partition, offset), says of those `wanted`."""
        ...

    def values(self, ids: Sequence[str], times: Sequence[int], prices: Sequence[int]) -> Floats:
        """Return their columns (n, columns) of events at `times` (UTC ms), `prices` in minor units (-1: none)."""
        ...


class EngineUsers:
    """Users as the engine computes them, new ones in the beginning."""

    def __init__(self, shop: Shop) -> None:
        self._features = ScoreFeatures(shop)
        self._rows: dict[str, bytes] = {}
        self._tidy_at = _IN_MEMORY

    def apply(self, events: Sequence[Event], wanted: Sequence[int]) -> Floats:
        """Apply events in order; return the vectors (wanted, features)."""
        features = self._features
        missing = features.missing_users(event.user for event in events)
        features.load_users({user: self._rows.get(user) for user in missing})
        features.load_products(dict.fromkeys(features.missing_products(event.product for event in events)))
        features.load_categories(dict.fromkeys(features.missing_categories(event.category for event in events)))
        columns = EventColumns()
        columns.extend([getattr(event, name) for event in events] for name in Event.__slots__)
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


class EngineRows:
    """Rows as the engine computes them: packed by their owner, unpacked by their reader."""

    def __init__(self, entity: Activity) -> None:
        self._entity: Activity = entity
        self._features = ProductFeatures(entity)
        self._rows: dict[str, bytes] = {}
        self._table = ProductTable(entity)
        self._read: set[str] = set()

    def apply(self, batch: ActivityBatch, wanted: Container[str], version: tuple[int, int]) -> None:
        """Apply a record."""
        rows = [
            (id_, row.kind, row.time, row.price, row.visitor if isinstance(row, ActivityRow) else 0)
            for id_, row in _told(self._entity, batch)
            if id_ in wanted
        ]
        if not rows:
            return
        features = self._features
        ids, kinds, times, prices, visitors = zip(*rows, strict=True)
        features.load_all({id_: self._rows.get(id_) for id_ in features.missing(ids)})
        features.apply(ids, kinds, times, prices, visitors, version)
        self._read.difference_update(ids)
        if features.dirty() > _IN_MEMORY:
            self._pack()

    def values(self, ids: Sequence[str], times: Sequence[int], prices: Sequence[int]) -> Floats:
        """Return their columns (n, columns)."""
        self._pack()
        table = self._table
        table.load({id_: self._rows.get(id_) for id_ in ids if id_ not in self._read})
        self._read.update(ids)
        slots = np.array([table.slots.of[id_] for id_ in ids], np.int64)
        out: Floats = np.zeros((len(slots), len(SCORE_FEATURES)))
        table.features(slots, np.array(times, np.int64), np.array(prices, np.int64), out)
        if len(table.slots) > _IN_MEMORY:
            self._read.difference_update(table.evict(_IN_MEMORY))
        return out[:, COLUMNS[self._entity]]

    def _pack(self) -> None:
        self._rows.update(self._features.drain())
        self._features.evict(_IN_MEMORY)


class OracleUsers:
    """Users by brute force: all their events are kept, and looked at for each vector."""

    def __init__(self, shop: Shop) -> None:
        calendar = shop.calendar
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


class OracleRows:
    """Products or categories by brute force."""

    def __init__(self, entity: Activity) -> None:
        self._entity: Activity = entity
        self._rows: dict[str, list[ActivityLike]] = defaultdict(list)
        self._names = [SCORE_FEATURES[place] for place in COLUMNS[entity]]

    def apply(self, batch: ActivityBatch, wanted: Container[str], version: tuple[int, int]) -> None:
        """Keep the rows of a record."""
        for id_, row in _told(self._entity, batch):
            if id_ in wanted:
                self._rows[id_].append(row)

    def values(self, ids: Sequence[str], times: Sequence[int], prices: Sequence[int]) -> Floats:
        """Return their columns (n, columns)."""
        found = [
            activity_values(self._entity, self._rows.get(id_, ()), time, price)
            for id_, time, price in zip(ids, times, prices, strict=True)
        ]
        return np.array([[values[name] for name in self._names] for values in found], np.float64)


def _told(entity: Activity, batch: ActivityBatch) -> Iterator[tuple[str, ActivityLike]]:
    """Yield the rows of a record that are about products, or about categories, each with its id."""
    if entity == "product":
        return ((row.product_id, row) for row in batch.rows)
    return ((row.category_id, row) for row in batch.categories)
