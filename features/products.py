"""Products' and categories' rows in memory: read by the scorer, written by the demand stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from features.columns import TIME_END, FeatureError, Ints, ints
from features.hashing import hash_texts
from features.layout import (
    KINDS,
    LANES,
    NONE,
    PRODUCT_LEVELS,
    PRODUCT_NEWEST,
    PRODUCT_OFFSET,
    PRODUCT_PARTITION,
    PRODUCT_TILES,
    PRODUCT_WORDS,
    SHOWN,
)
from features.packed import check, joined, split
from features.product_kernel import KEPT, apply_activity, product_features
from features.product_rows import MAX_PRODUCT_ROW, PRODUCT_ROW_VERSION, pack_products, unpack_products
from features.sets import PRODUCT_WINDOWS, SCORE_FEATURES, Activity, memory_ms, schema_hash
from features.slots import SlotMap, grown

_HUGE = 1 << 53
_VISITOR_MAX = (1 << 32) - 1


class ProductTable:
    """Slot arrays of products, or of categories; slot 0 is the one without history, that of events without one."""

    def __init__(self, entity: Activity = "product") -> None:
        self.entity = entity
        self.slots = SlotMap(reserved=1)
        self.slots.of[None] = 0
        self.rows = np.zeros((64, PRODUCT_WORDS), np.int64)
        self.rows[0, PRODUCT_NEWEST] = NONE
        self.tiles = np.zeros((64, PRODUCT_TILES, LANES), np.int32)
        self._scratch = (np.empty((PRODUCT_LEVELS, LANES), np.int64), np.empty((len(PRODUCT_WINDOWS), LANES), np.int64))
        self.kept_at = np.full(64, NONE, np.int64)
        self.kept = np.zeros((64, KEPT), np.float64)

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        """Take rows in from their packed form, replacing those that are there; None is a new one.

        Raises FeatureError for bytes that are no packed row.
        """
        if not rows:
            return
        check(rows, PRODUCT_ROW_VERSION)
        slots = self.slots.place(rows)
        if self.slots.high > len(self.rows):
            size = len(self.slots.dirty)
            self.rows, self.tiles = grown(self.rows, size), grown(self.tiles, size)
            self.kept_at, self.kept = grown(self.kept_at, size), grown(self.kept, size)
        self.kept_at[slots] = NONE
        buffer, ends = joined(rows)
        wrong = unpack_products(buffer, ends, slots, hash_texts(list(rows)), self.rows, self.tiles)
        if wrong >= 0:
            raise FeatureError(f"row of {self.entity} {list(rows)[wrong]!r}: not a packed row; rebuild it from the log")

    def features(
        self, slots: NDArray[np.int64], times: NDArray[np.int64], prices: NDArray[np.int64], out: NDArray[np.float64]
    ) -> None:
        """Write the columns of this entity of the vectors `out` (n, features) of events on those in `slots` (n,)."""
        kept, shown = (self.kept_at, self.kept), SHOWN[self.entity]
        product_features(self.rows, self.tiles, *kept, slots, times, prices, shown, out, *self._scratch)

    def version(self, key: str) -> tuple[int, int] | None:
        """Return (activity partition, offset) of the last record in a row, or None."""
        slot = self.slots.of.get(key)
        return None if slot is None else self.versions(np.array([slot]))[0]

    def versions(self, slots: NDArray[np.int64]) -> list[tuple[int, int] | None]:
        """Return of each of `slots` (activity partition, offset) of the last record in its row, or None."""
        said = np.flatnonzero(self.rows[slots, PRODUCT_NEWEST] != NONE)
        found: list[tuple[int, int] | None] = [None] * len(slots)
        pairs = self.rows[slots[said], PRODUCT_PARTITION : PRODUCT_OFFSET + 1].tolist()
        for place, (partition, offset) in zip(said.tolist(), pairs, strict=True):
            found[place] = partition, offset
        return found

    def evict(self, keep: int) -> list[str]:
        """Forget clean rows beyond `keep`, longest untouched first; return whose they were."""
        slots = self.slots.oldest_clean(keep + 1)
        gone = [self.slots.keys[slot] for slot in slots.tolist()]
        self.slots.release(slots)
        return [key for key in gone if key is not None]

    @property
    def memory_bytes(self) -> int:
        """Bytes of the arrays in use."""
        arrays = (self.rows, self.tiles, self.kept_at, self.kept)
        return self.slots.high * sum(array.nbytes // len(array) for array in arrays)


class ProductFeatures:
    """The demand stage's side of what products and categories show: activity in, packed rows out, in any order.

    >>> products = ProductFeatures()
    >>> products.missing(["p1", "p1"])
    ['p1']
    >>> products.load("p1", None)
    >>> products.apply(["p1"], [0], [1_700_000_000_000], [999], [7], version=(3, 41))
    >>> list(products.drain()), products.version("p1")
    (['p1'], (3, 41))
    """

    schema_hash = schema_hash()
    memory_ms = memory_ms()

    def __init__(self, entity: Activity = "product") -> None:
        self._table = ProductTable(entity)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the products that are not in memory, each once, sorted."""
        return self._table.slots.missing(ids)

    def load(self, product: str, packed: bytes | None) -> None:
        """Take one product into memory from its packed row, None being a new one; see `load_all`."""
        self.load_all({product: packed})

    def load_all(self, rows: Mapping[str, bytes | None]) -> None:
        """Take products into memory from their packed rows, None being a new one.

        Raises FeatureError for bytes that are no packed row, and for a product whose changes were not drained yet.
        """
        slots = self._table.slots
        for product in rows:
            slot = slots.of.get(product)
            if slot is not None and slots.dirty[slot]:
                raise FeatureError(
                    f"{self._table.entity} {product!r}: changed since the last drain; drain before loading"
                )
        self._table.load(rows)

    def apply(
        self,
        products: Sequence[str],
        kinds: Ints,
        times: Ints,
        price: Ints,
        visitor: Ints,
        version: tuple[int, int],
    ) -> None:
        """Apply the activity rows of the record at `version`, (activity partition, offset).

        `visitor` are the hashes of known users, see `features.hashing.visitors`, 0 where unknown; views count them.
        A return or cancellation takes one purchase from the tile of its own time. Raises FeatureError, before anything
        changed, for a product that was not loaded.
        """
        count = len(products)
        if count == 0:
            return
        table = self._table
        try:
            slots = np.fromiter(map(table.slots.of.__getitem__, products), np.int64, count)
        except KeyError as error:
            raise FeatureError(f"{table.entity} {error.args[0]!r}: not in memory; load it first") from None
        codes = ints("kind", kinds, 0, KINDS - 1, count)
        stamps = ints("time", times, 0, TIME_END, count)
        prices = ints("price", price, -1, _HUGE, count)
        people = ints("visitor", visitor, 0, _VISITOR_MAX, count)
        apply_activity(table.rows, table.tiles, slots, codes, stamps, prices, people, version[0], version[1])
        table.slots.dirty[slots] = True
        table.slots.touch(slots)

    def version(self, product: str) -> tuple[int, int] | None:
        """Return (activity partition, offset) of the last record applied to the product, or None."""
        return self._table.version(product)

    def vector(self, product: str, time: int) -> NDArray[np.float64]:
        """Return a vector (features,) whose columns of this entity are as of `time` (ms), the others 0."""
        out: NDArray[np.float64] = np.zeros((1, len(SCORE_FEATURES)), np.float64)
        slot = np.array([self._table.slots.of[product]], np.int64)
        self._table.kept_at[slot] = NONE
        self._table.features(slot, np.array([time], np.int64), np.array([NONE], np.int64), out)
        return out.reshape(-1)

    def dirty(self) -> int:
        """Return how many products changed since the last drain."""
        return int(np.count_nonzero(self._table.slots.dirty[: self._table.slots.high]))

    def drain(self) -> dict[str, bytes]:
        """Return the packed rows of the products that changed since the last drain."""
        slots = self._table.slots.changed()
        self._table.slots.dirty[slots] = False
        keys = [self._table.slots.keys[slot] for slot in slots.tolist()]

        def pack(part: NDArray[np.int64], buffer: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
            pack_products(self._table.rows, self._table.tiles, part, buffer, ends)

        return split(keys, slots, pack, MAX_PRODUCT_ROW)

    def evict(self, max_products: int) -> int:
        """Forget clean products beyond the bound, longest untouched first; return how many."""
        return len(self._table.evict(max_products))

    def forget(self, products: Iterable[str]) -> None:
        """Forget expired products, changed or not."""
        slots = self._table.slots.known(products)
        self._table.slots.dirty[slots] = False
        self._table.slots.release(slots)

    def __len__(self) -> int:
        return len(self._table.slots) - 1

    @property
    def memory_bytes(self) -> int:
        """Bytes of the arrays that hold products."""
        return self._table.memory_bytes
