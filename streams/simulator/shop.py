"""The shop: its whole stream of events in time order, as values or as the bytes that reach the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from schemas.codec import Catalog, Click, Order, OrderLine, Plan
from streams.records import CATALOG, CLICKSTREAM, ORDERS, PLAN
from streams.simulator.assortment import Assortment
from streams.simulator.behaviour import SEARCH
from streams.simulator.config import ShopConfig
from streams.simulator.faults import Faults, Sent
from streams.simulator.truth import Truth
from streams.simulator.visits import CATALOG_TABLE, CLICKS_TABLE, EVENT, Events, Visits, population
from streams.sources.reader import SourceEvent

_BLOCK_SESSIONS = 20_000
_CLICK_TYPES = ("view", "view", "search", "wishlist", "add_to_cart", "remove_from_cart")
_STATUSES = ("placed", "cancelled", "returned")
_COUNTRIES = ("DE", "FR", "GB", "NL", "PL")


class Shop:
    """A simulated shop. The same config makes the same events; `truth` holds what is true of those made so far."""

    def __init__(self, config: ShopConfig) -> None:
        self.config = config
        self.assortment = Assortment(config)
        self.truth = Truth(config, self.assortment, *population(config))
        self.faults: Counter[str] = Counter()

    def events(self) -> Iterator[Sent]:
        """Yield the records as they reach the log: with duplicates, late, damaged and all.

        `faults` counts what was done to them.
        """
        faults = Faults(self.config.faults, [self.config.seed, 4])
        self.faults = faults.counts
        return faults.apply(self.clean())

    def clean(self) -> Iterator[SourceEvent]:
        """Yield the events as they happened, in time order; the plan, known ahead, comes first.

        They are what `tidecast simulate --out` writes: a source made of those files yields the same.
        """
        self.truth._forget()
        position = 0
        config, assortment = self.config, self.assortment
        for position, fact in enumerate(assortment.plan(), 1):
            plan = Plan(
                f"{config.name}:plan:{position}", fact.time_ms, f"p{fact.product}", fact.price,
                {"promotion": float(fact.promotion)}, config.currency,
            )  # fmt: skip
            yield SourceEvent(PLAN, plan.product_id.encode(), plan.time, plan, 1, position)  # type: ignore[union-attr]
        numbers = [0, 0, 0]
        for block in self._blocks():
            self.truth._add(block["truth"][block["table"] == CLICKS_TABLE])
            for event in self._values(block, numbers):
                position += 1
                yield SourceEvent(*event, 1, position)

    def _blocks(self) -> Iterator[Events]:
        """Yield all events but the plan's, in time order, some hours at once."""
        config = self.config
        visits = Visits(config, self.assortment, self.truth)
        waiting = _catalog(self.assortment)
        hours = 24 if config.users * config.sessions_per_user_day <= _BLOCK_SESSIONS else 1
        for day in range(config.days):
            for hour in range(0, 24, hours):
                waiting = np.concatenate([waiting, visits.block(day, hour, hours)])
                until = min((config.first_day + day) * 86_400_000 + (hour + hours) * 3_600_000, config.end_ms)
                ripe = waiting["time"] < until
                block, waiting = waiting[ripe], waiting[~ripe]
                yield block[np.lexsort((block["table"], block["time"]))]
                if until == config.end_ms:
                    return

    def _values(self, block: Events, numbers: list[int]) -> Iterator[tuple[str, bytes, int, Catalog | Click | Order]]:
        name, currency = self.config.name, self.config.currency
        categories = [f"c{category}" for category in self.assortment.category]
        nouns = [self.assortment.noun(int(category)) for category in self.assortment.category]
        for time, table, kind, user, session, product, quantity, price, order, stock, _ in block.tolist():
            numbers[table] += 1
            product_id, category = f"p{product}", categories[product]
            if table == CATALOG_TABLE:
                event_id = f"{name}:catalog:{numbers[table]}"
                title = self.assortment.names[product]
                entry = Catalog(event_id, product_id, time, title, category, price, currency, stock)
                yield CATALOG, product_id.encode(), time, entry
                continue
            user_id = None if user < 0 else f"u{user}"
            session_id = f"s{session}"
            country = _COUNTRIES[(session if user < 0 else user) % 5]
            channel = "app" if session % 3 == 0 else "web"
            if table == CLICKS_TABLE:
                searched = kind == SEARCH
                click = Click(
                    f"{name}:clicks:{numbers[table]}", _CLICK_TYPES[kind], time, user_id, session_id,  # type: ignore[arg-type]
                    None if searched else product_id, category, 1,
                    None if searched else price, None if searched else currency,
                    nouns[product] if searched else None, country, channel,
                )  # fmt: skip
                yield CLICKSTREAM, (user_id or session_id).encode(), time, click
                continue
            order_id = f"o{order}"
            line = OrderLine(product_id, category, quantity, price)
            placed = Order(
                f"{name}:orders:{numbers[table]}", order_id, _STATUSES[kind], time, (line,), user_id, session_id,  # type: ignore[arg-type]
                currency, country, channel,
            )  # fmt: skip
            yield ORDERS, (user_id or order_id).encode(), time, placed


def _catalog(assortment: Assortment) -> Events:
    facts = assortment.catalog()
    entries = np.zeros(len(facts), EVENT)
    entries["table"] = CATALOG_TABLE
    for column in ("product", "price", "stock"):
        entries[column] = [getattr(fact, column) for fact in facts]
    entries["time"] = [fact.time_ms for fact in facts]
    return entries
