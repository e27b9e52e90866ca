"""Rows of the clicks, catalog and plan tables become events, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from schemas.codec import Catalog, Click, Plan
from schemas.wire import MAX_COVARIATES, MAX_INT
from streams.records import CATALOG, CLICKSTREAM, PLAN
from streams.sources.description import (
    CLICK_TYPES,
    CatalogSpec,
    ClicksSpec,
    OrdersSpec,
    PlanSpec,
    SourceSpec,
    TableSpec,
)
from streams.sources.fields import Index, Row, covariate, free_text, money_field, required, text_field, whole_field
from streams.sources.ordering import TimedRow
from streams.sources.orders import Orders
from streams.sources.table import Accounts, Item, Table, not_negative, positive
from streams.sources.values import BadValue, check_text


class _OneByOne(Table):
    """A table whose rows are events, each by itself."""

    def items(self, rows: Iterable[TimedRow], encode: Callable[[Row], bytes]) -> Iterator[Item]:
        """Yield an item for each row that is neither filtered nor joined to another."""
        counts, name, take = self._accounts.rows, self._name, self._take
        counts[name] += 0
        for time, number, row, bad in rows:
            counts[name] += 1
            try:
                if bad is not None:
                    raise bad
                if self._filters and self._dropped(row):
                    continue
                item = take(time, number, row)
            except BadValue as error:
                item = self._refuse(time, number, row, error, encode)
            if item is not None:
                yield item

    def _take(self, time: int, number: int, row: Row) -> Item | None:
        raise NotImplementedError


class Clicks(_OneByOne):
    """A row is a click."""

    topic = CLICKSTREAM

    def __init__(self, spec: ClicksSpec, source: SourceSpec, index: Index, accounts: Accounts) -> None:
        super().__init__(spec, source, index, accounts)
        self._type = required("type", text_field("type", spec.type, index))
        self._user = text_field("user", spec.user, index)
        self._session = text_field("session", spec.session, index)
        self._product = text_field("product", spec.product, index)
        self._category = text_field("category", spec.category, index)
        self._quantity = whole_field("quantity", spec.quantity, index)
        self._price = money_field("price", spec.price, index, source.currency, self._rounded)
        self._query = free_text("query", spec.query, index)
        self._country = text_field("country", spec.country, index)
        self._channel = text_field("channel", spec.channel, index)

    def _take(self, time: int, number: int, row: Row) -> Item | None:
        kind = self._type(row)
        if kind not in CLICK_TYPES:
            raise BadValue("invalid", "type", f"{kind[:40]!r} is none of {', '.join(sorted(CLICK_TYPES))}; map it")
        product = self._product(row)
        if product is None and kind != "search":
            raise BadValue("invalid", "product", "has no value; only a search may lack it")
        quantity = self._quantity(row)
        quantity = 1 if quantity is None else positive(quantity)
        price = not_negative("price", self._price(row))
        if price is not None and price * quantity > MAX_INT:
            raise BadValue("invalid", "price", f"{price} minor units × {quantity} is more than 2^53")
        user, session = self._user(row), self._session(row)
        event_id = f"{self._prefix}{number}"
        event = Click(
            event_id, kind, time, user, session, product, self._category(row),  # type: ignore[arg-type]
            quantity, price, None if price is None else self._source.currency,
            self._query(row), self._country(row), self._channel(row),
        )  # fmt: skip
        # Without a name to go by: by its id, so that a repeated replay meets the same partition.
        return time, CLICKSTREAM, (user or session or event_id).encode(), event, 1


class CatalogRows(_OneByOne):
    """A row counts where it tells something new of its product; what it leaves open stays as it was."""

    topic = CATALOG

    def __init__(self, spec: CatalogSpec, source: SourceSpec, index: Index, accounts: Accounts) -> None:
        super().__init__(spec, source, index, accounts)
        self._known: dict[str, tuple[Any, ...]] = {}
        self._product = required("product", text_field("product", spec.product, index))
        self._read: tuple[Callable[[Row], Any], ...] = (
            free_text("name", spec.product_name, index),
            text_field("category", spec.category, index),
            money_field("price", spec.price, index, source.currency, self._rounded),
            whole_field("stock", spec.stock, index),
        )

    def _take(self, time: int, number: int, row: Row) -> Item | None:
        product = self._product(row)
        before = self._known.get(product)
        facts = tuple(read(row) for read in self._read)
        if before is not None:
            facts = tuple(old if new is None else new for new, old in zip(facts, before, strict=True))
            if facts == before:
                self._accounts.unchanged += 1
                return None
        name, category, price, stock = facts
        not_negative("price", price)
        not_negative("stock", stock)
        self._known[product] = facts
        currency = None if price is None else self._source.currency
        event = Catalog(f"{self._prefix}{number}", product, time, name, category, price, currency, stock)
        return time, CATALOG, product.encode(), event, 1


class PlanRows(_OneByOne):
    """A row is a plan entry."""

    topic = PLAN

    def __init__(self, spec: PlanSpec, source: SourceSpec, index: Index, accounts: Accounts) -> None:
        super().__init__(spec, source, index, accounts)
        product = text_field("product", spec.product, index)
        self._product = product if spec.product is None else required("product", product)
        self._price = money_field("price", spec.price, index, source.currency, self._rounded)
        self._covariates = [(check_text("covariates", name), covariate(name, index)) for name in spec.covariates]
        if len(self._covariates) > MAX_COVARIATES:
            raise BadValue("invalid", "covariates", f"{len(self._covariates)} are more than {MAX_COVARIATES}")

    def _take(self, time: int, number: int, row: Row) -> Item | None:
        product = self._product(row)
        values = ((name, read(row)) for name, read in self._covariates)
        known = {name: value for name, value in values if value is not None}
        price = not_negative("price", self._price(row))
        currency = None if price is None else self._source.currency
        event = Plan(f"{self._prefix}{number}", time, product, price, known, currency)
        return time, PLAN, None if product is None else product.encode(), event, 1


def make_table(spec: TableSpec, source: SourceSpec, index: Index, accounts: Accounts) -> Table:
    """Return the table that reads `spec`. Raises BadValue where a constant of it cannot be."""
    if isinstance(spec, ClicksSpec):
        return Clicks(spec, source, index, accounts)
    if isinstance(spec, OrdersSpec):
        return Orders(spec, source, index, accounts)
    if isinstance(spec, CatalogSpec):
        return CatalogRows(spec, source, index, accounts)
    assert isinstance(spec, PlanSpec)
    return PlanRows(spec, source, index, accounts)
