"""The scorer's features: rows of users, products and categories in memory, events in, vectors and packed rows out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from features.columns import TIME_END, EventColumns, FeatureError, ints
from features.hashing import hash_texts
from features.kernel import apply_events, blocks_needed, logged_vector
from features.layout import (
    BLOCK,
    BLOCK_TILES,
    COUNT,
    KINDS,
    LEVELS,
    LOG,
    MONEY,
    NONE,
    PRODUCT_HASH,
    SUMS,
    TOTALS,
    USER_WORDS,
    WIDTH,
)
from features.logged import LoggedEvent, logged_events
from features.market import write_market
from features.packed import check, joined, split
from features.products import ProductTable
from features.rows import MAX_ROW, ROW_VERSION, pack_users, unpack_users
from features.sets import SCORE_FEATURES, memory_ms, schema_hash
from features.shop import Shop
from features.slots import SlotMap, grown, roomy

_HUGE = 1 << 53


class ScoreFeatures:
    """User, session, product and category features of one task; `shop` is by default in UTC, without holidays.

    Rows are loaded from packed bytes (None: a new one) before the first event that needs them; `apply` updates users
    and reads products and categories; `drain_users` gives back what changed. How events are cut into batches, and what
    is packed, evicted and loaded in between, changes no bit of any vector.

    >>> features = ScoreFeatures()
    >>> features.load_user("u1", None), features.load_product("p1", None)
    (None, None)
    >>> events = EventColumns()
    >>> events.append("u1", 0, 1_700_000_000_000, "p1", "s1")
    >>> events.append("u1", 2, 1_700_000_060_000, "p1", "s1")
    >>> vectors = features.apply(events)
    >>> column = features.names.index("session_events")
    >>> vectors.shape == (2, len(features.names)), vectors[:, column].tolist()
    (True, [1.0, 2.0])
    >>> sorted(features.drain_users()), features.dirty_users()
    (['u1'], 0)
    """

    names = SCORE_FEATURES
    memory_ms = memory_ms()

    def __init__(self, shop: Shop | None = None) -> None:
        shop = shop or Shop()
        self._calendar = shop.calendar
        self.schema_hash = schema_hash(shop=shop.digest)
        self._users = SlotMap(reserved=0)
        self._rows = np.empty((64, USER_WORDS), np.int64)
        self._extra = np.zeros(64, np.int64)
        self._tiles = np.empty((0, BLOCK_TILES, KINDS), np.int32)
        self._spend = np.empty((0, MONEY), np.int64)
        self._totals = np.empty((0, *TOTALS), np.int64)
        self._free = np.zeros(1, np.int64)
        self._scratch = (np.empty((3, LEVELS), np.int64), np.empty(SUMS, np.int64), np.empty((2, LOG), np.int32))
        self._products = ProductTable("product")
        self._categories = ProductTable("category")
        self._categories.slots.of[""] = 0
        self._read = np.zeros((2, 0), np.int64)
        """Slots of the products and categories that were read last."""
        self.session_ends: list[tuple[int, str, int]] = []

    # --- users ----------------------------------------------------------------------------------------------------

    def missing_users(self, ids: Iterable[str | None]) -> list[str]:
        """Return the users that are not in memory, each once, sorted."""
        return self._users.missing(ids)

    def load_user(self, user: str, packed: bytes | None) -> None:
        """Take one user into memory; see `load_users`."""
        self.load_users({user: packed})

    def load_users(self, rows: Mapping[str, bytes | None]) -> None:
        """Take users into memory from their packed rows, None being a new one.

        Raises FeatureError for bytes that are no packed row, and for a user whose changes were not drained yet.
        """
        check(rows, ROW_VERSION)
        known = [slot for user in rows if (slot := self._users.of.get(user)) is not None]
        for slot in known:
            if self._users.dirty[slot]:
                raise FeatureError(
                    f"user {self._users.keys[slot]!r}: changed since the last drain; drain before loading"
                )
        self._give_back(np.array(known, np.int64))
        slots = self._users.place(rows)
        if self._users.high > len(self._rows):
            self._rows = grown(self._rows, len(self._users.dirty))
            self._extra = np.zeros(len(self._users.dirty), np.int64)
        buffer, ends = joined(rows)
        self._reserve(len(rows))
        wrong = unpack_users(buffer, ends, slots, self._rows, self._tiles, self._spend, self._totals, self._free)
        if wrong >= 0:
            raise FeatureError(f"row of user {list(rows)[wrong]!r}: not a packed row; drop it and rebuild from the log")

    def dirty_users(self) -> int:
        """Return how many users changed since the last drain."""
        return int(np.count_nonzero(self._users.dirty[: self._users.high]))

    def drain_users(self) -> dict[str, bytes]:
        """Return the packed rows of the users that changed since the last drain."""
        slots = self._users.changed()
        self._users.dirty[slots] = False
        keys = [self._users.keys[slot] for slot in slots.tolist()]

        def pack(part: NDArray[np.int64], buffer: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
            pack_users(self._rows, self._tiles, self._spend, part, buffer, ends)

        return split(keys, slots, pack, MAX_ROW)

    # --- products -------------------------------------------------------------------------------------------------

    def missing_products(self, ids: Iterable[str | None]) -> list[str]:
        """Return the products that are not in memory, each once, sorted; None needs no row."""
        return self._products.slots.missing(ids)

    def load_product(self, product: str, packed: bytes | None) -> None:
        """Take one product into memory, or replace it; see `load_products`."""
        self.load_products({product: packed})

    def load_products(self, rows: Mapping[str, bytes | None]) -> None:
        """Take products into memory from their packed rows, replacing those that are there; None is a new one."""
        self._products.load(rows)

    def missing_categories(self, ids: Iterable[str | None]) -> list[str]:
        """Return the categories that are not in memory, each once, sorted; None and "" need no row."""
        return self._categories.slots.missing(ids)

    def load_categories(self, rows: Mapping[str, bytes | None]) -> None:
        """Take categories into memory from their packed rows, replacing those that are there; None is a new one."""
        self._categories.load(rows)

    # --- events ---------------------------------------------------------------------------------------------------

    def apply(self, events: EventColumns) -> NDArray[np.float64]:
        """Apply `events` in order; return their vectors (n, features), row i as of event i, itself included.

        `session_ends` then lists (i, user, end of the session before, ms) for each event i that opened a session.
        Raises FeatureError, before anything changed, for a user, product or category that was not loaded and for a
        value out of range.
        """
        count = len(events)
        out = np.empty((count, WIDTH), np.float64)
        self.session_ends = []
        self._read = np.zeros((2, count), np.int64)
        if count == 0:
            return out
        slots = self._slots(self._users, events.user, "user")
        products = self._slots(self._products.slots, events.product, "product")
        kept = self._slots(self._categories.slots, events.category, "category")
        kinds = ints("kind", events.kind, 0, KINDS - 1, count)
        times = ints("time", events.time, 0, TIME_END, count)
        values = ints("value_minor", events.value_minor, -_HUGE, _HUGE, count)
        prices = ints("price_minor", events.price_minor, -1, _HUGE, count)
        undos = ints("undo_time", events.undo_time, 0, TIME_END, count)
        sessions = hash_texts(events.session)
        if len(sessions) != count:
            raise FeatureError(f"column session: {len(sessions)} values for {count} events; give one for each")
        if len(kept) != count:
            raise FeatureError(f"column category: {len(kept)} values for {count} events; give one for each")
        self._reserve(blocks_needed(self._rows, slots, self._extra))
        ends = np.empty(count, np.int64)
        clocks = self._calendar.local(times)
        table = self._products
        write_market(events, prices, self._calendar.country, out)
        table.features(products, times, prices, out)
        self._categories.features(kept, times, prices, out)
        apply_events(
            self._rows,
            self._tiles,
            self._spend,
            self._totals,
            self._free,
            slots,
            kinds,
            times,
            sessions,
            table.rows[products, PRODUCT_HASH],
            self._categories.rows[kept, PRODUCT_HASH].astype(np.int32),
            values,
            prices,
            undos,
            clocks,
            self._calendar.days_to_holiday(clocks),
            out,
            ends,
            *self._scratch,
        )
        self._read = np.stack((products, kept))
        self._users.dirty[slots] = True
        self._users.touch(slots)
        table.slots.touch(products)
        self._categories.slots.touch(kept)
        opened = np.flatnonzero(ends != NONE)
        self.session_ends = [
            (i, events.user[i], end) for i, end in zip(opened.tolist(), ends[opened].tolist(), strict=True)
        ]
        return out

    def versions(self) -> tuple[list[tuple[int, int] | None], list[tuple[int, int] | None]]:
        """Return the versions of the product's and of the category's row behind each vector of the last `apply`.

        A version is (activity partition, offset) of the record that changed the row last; None: none did.
        """
        return self._products.versions(self._read[0]), self._categories.versions(self._read[1])

    def product_version(self, product: str) -> tuple[int, int] | None:
        """Return the version of a product's row in memory, None where there is none."""
        return self._products.version(product)

    def category_version(self, category: str) -> tuple[int, int] | None:
        """Return the version of a category's row in memory, None where there is none."""
        return self._categories.version(category)

    def log(self, user: str) -> list[LoggedEvent]:
        """Return the user's last events, sorted by stamp; see `features.sets.LOG_LENGTH`.

        Raises FeatureError for a user that was not loaded.
        """
        return logged_events(self._rows[self._slots(self._users, [user], "user")[0]])

    def logged_vector(self, user: str, entry: int) -> NDArray[np.float64]:
        """Return the vector (features,) as of an entry of the user's log; the columns of others are 0.

        Raises FeatureError for a user that was not loaded, and IndexError for an entry that is not in the log.
        """
        slot = self._slots(self._users, [user], "user")[0]
        at = range(int(self._rows[slot, COUNT]))[entry]
        out = np.zeros(WIDTH, np.float64)
        logged_vector(self._rows, self._tiles, self._spend, self._totals, slot, at, out, *self._scratch)
        return out

    # --- bounds ---------------------------------------------------------------------------------------------------

    def evict(self, max_users: int, max_products: int | None = None) -> int:
        """Forget clean users (and products, categories) beyond the bounds, longest untouched first; return how many.

        An eighth more than need be goes, so that it is rare.
        """
        slots = self._users.oldest_clean(max_users)
        self._give_back(slots)
        self._users.release(slots)
        if max_products is None:
            return len(slots)
        return len(slots) + sum(len(table.evict(max_products)) for table in (self._products, self._categories))

    def forget(self, users: Iterable[str]) -> None:
        """Forget expired users, changed or not."""
        slots = self._users.known(users)
        self._users.dirty[slots] = False
        self._give_back(slots)
        self._users.release(slots)

    @property
    def users(self) -> int:
        """How many users are in memory."""
        return len(self._users)

    @property
    def products(self) -> int:
        """How many products are in memory."""
        return len(self._products.slots) - 1

    @property
    def memory_bytes(self) -> int:
        """Bytes of the arrays in use for users, products and categories; their keys come on top."""
        blocks = len(self._tiles) - int(self._free[0])
        per_block = 4 * BLOCK_TILES * KINDS + 8 * MONEY + 8 * TOTALS[0] * TOTALS[1]
        read = self._products.memory_bytes + self._categories.memory_bytes
        return self._users.high * 8 * USER_WORDS + blocks * per_block + read

    def _slots(self, slots: SlotMap, keys: list[str] | list[str | None], name: str) -> NDArray[np.int64]:
        try:
            return np.fromiter(map(slots.of.__getitem__, keys), np.int64, len(keys))
        except KeyError as error:
            raise FeatureError(f"{name} {error.args[0]!r}: not in memory; load it before its first event") from None

    def _give_back(self, slots: NDArray[np.int64]) -> None:
        """Return the blocks of `slots` to the stack."""
        blocks = self._rows[slots, BLOCK]
        blocks = blocks[blocks != NONE]
        height = int(self._free[0])
        self._free[1 + height : 1 + height + len(blocks)] = blocks
        self._free[0] = height + len(blocks)
        self._rows[slots, BLOCK] = NONE

    def _reserve(self, blocks: int) -> None:
        """See that at least `blocks` are free."""
        have, height = len(self._tiles), int(self._free[0])
        if height >= blocks:
            return
        size = roomy(have, have + blocks)
        self._tiles = grown(self._tiles, size)
        self._spend = grown(self._spend, size)
        self._totals = grown(self._totals, size)
        self._free = grown(self._free, size + 1)
        self._free[1 + height : 1 + height + size - have] = np.arange(have, size)
        self._free[0] = height + size - have


def warm_up() -> None:
    """Compile every kernel, or load it from the cache on disk: a second here is a second less at the first event."""
    from features.products import ProductFeatures

    products = ProductFeatures()
    products.load("p", None)
    products.apply(["p"], [0], [1_700_000_000_000], [100], [7], version=(0, 0))
    features = ScoreFeatures()
    features.load_user("u", None)
    for product, packed in products.drain().items():
        features.load_product(product, packed)
    features.load_categories({"c": None})
    events = EventColumns()
    for i in range(40):
        events.append("u", i % KINDS, 1_700_000_000_000 + i, "p", None, value_minor=1, undo_time=i, category="c")
    features.apply(events)
    features.load_users(features.drain_users())
    features.logged_vector("u", -1)
