"""A source through the score and demand stages, for the buckets that close: what the history topic would hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from schemas.codec import Catalog, Click, Order, Plan
from streams.backtest.feed import Event, Feed, count_dead_letters
from streams.backtest.ledger import Ledger
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.records import HISTORY, Record
from streams.settings import Settings
from streams.sources import Source
from streams.sources.shop import with_shop_of
from streams.topologies.calendar import Calendar
from streams.topologies.demand import DemandStage
from streams.topologies.facts import Facts
from streams.topologies.score import ScoreStage

Level = Literal["product", "category"]
_STAGES = ("score", "demand")
_CHUNK_EVENTS = 1_000


class Categories:
    """Puts categories in the place of products: what follows keeps its series by category.

    A product's category is the one that was named last, by a click, an order line or the catalog; what has none (yet)
    is left out and counted. Of the plan, what holds for the whole shop stays.

    >>> categories = Categories()
    >>> click = Click("e", "view", 0, product_id="mug", category_id="kitchen")
    >>> categories.put(click).product_id, categories.put(Click("f", "view", 1, product_id="pen"))
    ('kitchen', None)
    """

    def __init__(self) -> None:
        self.unknown: Counter[str] = Counter()
        self.known: dict[str, str] = {}

    def put(self, event: Event) -> Event | None:
        """Return the event with categories for products; None where nothing is left of it."""
        if isinstance(event, Click):
            return self._click(event)
        if isinstance(event, Order):
            return self._order(event)
        if isinstance(event, Catalog):
            if event.category_id is not None:
                self.known[event.product_id] = event.category_id
            return None  # prices are its products', not the category's
        return event if event.product_id is None else None

    def _click(self, click: Click) -> Click | None:
        if click.product_id is None:
            return click
        category = self.of(click.product_id, click.category_id)
        if category is None:
            self.unknown["clicks"] += 1
            return None
        return replace(click, product_id=category)

    def _order(self, order: Order) -> Order | None:
        named = [(line, self.of(line.product_id, line.category_id)) for line in order.lines]
        lines = tuple(replace(line, product_id=category) for line, category in named if category is not None)
        self.unknown["order_lines"] += len(order.lines) - len(lines)
        return replace(order, lines=lines) if lines else None

    def of(self, product: str, category: str | None) -> str | None:
        """Return a product's category, and remember it where it is named."""
        if category is not None:
            self.known[product] = category
            return category
        return self.known.get(product)


class ClosedBuckets:
    """Feeds a source's events and keeps what closes. `reach` closes all that ends up to a time, and not one more."""

    def __init__(self, source: Source, settings: Settings, freq: Literal["D", "W"], level: Level) -> None:
        demand = settings.demand.model_copy(update={"bucket": freq, "horizon": 1})
        settings = with_shop_of(settings, source).model_copy(update={"demand": demand})
        self.calendar = Calendar(freq, settings.shop.timezone)
        self.ledger = Ledger(self.calendar, gaps_missing=source.gaps == "missing")
        self.covariates: dict[str, None] = {}
        self.categories = Categories() if level == "category" else None
        self._lateness_ms = settings.time.allowed_lateness_s * 1_000
        self._driver = TopologyDriver(settings, [ScoreStage, quiet_demand_stage], retain=False)
        self._driver.tap(HISTORY, self._on_history)
        self._dead = count_dead_letters(self._driver)
        source.nothing_sold = self._on_nothing_sold
        self.feed = Feed(self._driver, _STAGES, _CHUNK_EVENTS)

    @property
    def facts(self) -> Facts:
        """What catalog and plan say, as far as they were fed."""
        stage = self._driver.stage("demand")
        assert isinstance(stage, DemandStage)
        return stage.facts

    def put(self, topic: str, key: bytes | None, event: Event) -> bool:
        """Feed an event; say whether it ended a chunk."""
        kept = event if self.categories is None else self.categories.put(event)
        if kept is None:
            return False
        if isinstance(kept, Plan):
            self.covariates.update(dict.fromkeys(kept.covariates))
        return self.feed.put(topic, key, kept)

    def reach(self, time: int) -> int:
        """Close every bucket that ends at or before `time` (UTC ms), with what was fed; return the ledger's position.

        All events before `time` must have been fed and none after it: what comes at `time` itself is not known yet.
        """
        self.feed.run([time + self._lateness_ms])
        return len(self.ledger)

    def day_end(self) -> int | None:
        """Return the end (UTC ms) of the shop's day of the last event, None before any.

        A file is taken to be whole up to there.
        """
        if self.feed.time is None:
            return None
        zone = ZoneInfo(self.calendar.timezone)
        day = datetime.fromtimestamp(self.feed.time / 1_000, UTC).astimezone(zone).date() + timedelta(days=1)
        return local_midnight(day.isoformat(), self.calendar.timezone)

    def counts(self) -> Mapping[str, Any]:
        """Return what became of the events."""
        score, demand = self._driver.counts("score"), self._driver.counts("demand")
        names = (
            "orders_purchased", "orders_repeated_status", "orders_cancelled", "cancellations_unmatched",
            "returns_matched", "returns_unmatched", "duplicates",
        )  # fmt: skip
        told: dict[str, Any] = {name: score.get(name, 0) for name in names}
        told |= {name: demand.get(name, 0) for name in ("activity_rows", "buckets_closed", "buckets_revised")}
        told["dead_letters"] = dict(sorted(self._dead.items()))
        if self.categories is not None:
            told["without_category"] = dict(self.categories.unknown)
        return {"events": self.feed.events, **told}

    def _on_nothing_sold(self, product: str, category: str | None, time: int) -> None:
        key = product if self.categories is None else self.categories.of(product, category)
        if key is not None:
            self.ledger.nothing_sold(key, time)

    def _on_history(self, record: Record) -> None:
        assert record.value is not None
        self.ledger.take(record.value)


def local_midnight(date: str, timezone: str) -> int:
    """Return the start (UTC ms) of a day, given as YYYY-MM-DD, in a time zone.

    >>> local_midnight("2011-06-01", "Europe/London")
    1306882800000
    """
    day = datetime.fromisoformat(date).replace(tzinfo=ZoneInfo(timezone))
    return int(day.timestamp()) * 1_000
