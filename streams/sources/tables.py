"""Rows of each table become events. One class a table; each yields items in the order of their times.

An order's status: a line with a negative quantity under "cancelled" or "returned" is goods coming back, so it makes an
order event "returned" with the quantity positive; under any other status it is a correction of the shop's stock, no
sale, and is counted as filtered.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from schemas.codec import Catalog, Click, Order, OrderLine, Plan
from schemas.wire import MAX_COVARIATES, MAX_INT, MAX_LINES, MAX_QUANTITY, TIME_END
from streams.records import CATALOG, CLICKSTREAM, ORDERS, PLAN
from streams.sources.description import (
    CatalogSpec,
    ClicksSpec,
    FilterSpec,
    OrdersSpec,
    PlanSpec,
    SourceSpec,
    TableSpec,
)
from streams.sources.fields import (
    Index,
    Row,
    covariate,
    free_text,
    keeps,
    money_field,
    required,
    text_field,
    whole_field,
)
from streams.sources.ordering import TimedRow
from streams.sources.values import BadValue, check_text

Event = Click | Order | Catalog | Plan


@dataclass
class Accounts:
    """Where every row went: `rows` read = rows sent + `filtered` + `unreadable` + `unchanged`.

    `rows` by table; `filtered` and `unreadable` by table, column or field, and rule or reason; `unchanged` are rows of
    the catalog that tell nothing new; `sent_rows` and `sent` (events) by topic. Beside them, `rounded` counts amounts
    finer than a minor unit.
    """

    rows: Counter[str] = field(default_factory=Counter)
    filtered: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    sent_rows: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    unchanged: int = 0
    rounded: int = 0
    first_time: int | None = None
    last_time: int | None = None

    def balanced(self) -> bool:
        """Say whether every row is accounted for; so it is once all events are read."""
        parts = (self.filtered, self.unreadable, self.sent_rows)
        return sum(self.rows.values()) == sum(sum(part.values()) for part in parts) + self.unchanged


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot become an event; `data` is the row as JSON."""

    table: str
    row: int
    reason: str
    detail: str
    data: bytes


Item = tuple[int, str, bytes | None, Event | Unreadable, int]
"""What a table yields: time, topic, key, the event (or the row that cannot become one), how many rows it stands for."""


class Table:
    """Turns timed rows into items; the parent of the four tables."""

    topic = ""

    def __init__(self, spec: TableSpec, source: SourceSpec, index: Index, accounts: Accounts) -> None:
        self._prefix = f"{source.name}:{spec.name}:"
        self._name = spec.name
        self._accounts = accounts
        self._source = source
        rules: list[FilterSpec] = [rule for rule in source.filter if rule.table == spec.name]
        self._filters = [(rule.label, keeps(rule, index)) for rule in rules]

    def items(self, rows: Iterable[TimedRow], encode: Callable[[Row], bytes]) -> Iterator[Item]:
        """Yield the table's items in the order of their times."""
        raise NotImplementedError

    def _dropped(self, row: Row) -> bool:
        for label, kept in self._filters:
            if not kept(row):
                self._count_filtered(label)
                return True
        return False

    def _count_filtered(self, label: str) -> None:
        self._accounts.filtered[label] += 1

    def _refuse(self, time: int, number: int, row: Row, bad: BadValue, encode: Callable[[Row], bytes]) -> Item:
        label = f"{self._name}.{bad.field}.{bad.reason}"
        self._accounts.unreadable[label] += 1
        lost = Unreadable(self._name, number, bad.reason, f"{bad.field}: {bad.detail}", encode(row))
        return (time, self.topic, None, lost, 1)

    def _rounded(self) -> None:
        self._accounts.rounded += 1


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
        if kind not in _TYPES:
            raise BadValue("invalid", "type", f"{kind[:40]!r} is none of {', '.join(sorted(_TYPES))}; map it")
        product = self._product(row)
        if product is None and kind != "search":
            raise BadValue("invalid", "product", "has no value; only a search may lack it")
        quantity = self._quantity(row)
        quantity = 1 if quantity is None else _positive(quantity)
        price = _not_negative("price", self._price(row))
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


_TYPES = frozenset({"view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase"})
_STATUSES = frozenset({"placed", "paid", "cancelled", "returned"})


class _Draft:
    """An order whose lines are still coming, or an item that waits for its turn behind one."""

    __slots__ = ("event_id", "item", "lines", "order", "row", "session", "status", "time", "user")

    def __init__(self, time: int, item: Item | None = None) -> None:
        self.time = time
        self.item = item
        self.lines: list[OrderLine] = []


class Orders(Table):
    """A row is a line; an order has its first line's time and id, and is held until none of its lines can follow."""

    topic = ORDERS

    def __init__(self, spec: OrdersSpec, source: SourceSpec, index: Index, accounts: Accounts) -> None:
        super().__init__(spec, source, index, accounts)
        self._within = spec.within_ms
        self._drafts: deque[_Draft] = deque()
        self._open: dict[tuple[str, str | None, str], _Draft] = {}
        self._order = required("order", text_field("order", spec.order, index))
        self._product = required("product", text_field("product", spec.product, index))
        self._status = required("status", text_field("status", spec.status, index))
        self._user = text_field("user", spec.user, index)
        self._session = text_field("session", spec.session, index)
        self._category = text_field("category", spec.category, index)
        self._quantity = whole_field("quantity", spec.quantity, index)
        self._no_quantity = spec.quantity is None
        self._price = money_field("price", spec.price, index, source.currency, self._rounded)
        self._amount = money_field("amount", spec.amount, index, source.currency, self._rounded)
        self._country = text_field("country", spec.country, index)
        self._channel = text_field("channel", spec.channel, index)

    def items(self, rows: Iterable[TimedRow], encode: Callable[[Row], bytes]) -> Iterator[Item]:
        """Yield an item for each order, and for each row that cannot become part of one."""
        counts, name, drafts = self._accounts.rows, self._name, self._drafts
        counts[name] += 0
        for time, number, row, bad in rows:
            if drafts and drafts[0].time < time - self._within:
                yield from self._release(time - self._within)
            counts[name] += 1
            try:
                if bad is not None:
                    raise bad
                if not self._dropped(row):
                    self._add(time, number, row)
            except BadValue as error:
                drafts.append(_Draft(time, self._refuse(time, number, row, error, encode)))
        yield from self._release(TIME_END)

    def _add(self, time: int, number: int, row: Row) -> None:
        status = self._status(row)
        if status not in _STATUSES:
            raise BadValue("invalid", "status", f"{status[:40]!r} is none of {', '.join(sorted(_STATUSES))}; map it")
        quantity = 1 if self._no_quantity else self._quantity(row)
        if quantity is None:
            raise BadValue("invalid", "quantity", "has no value; give it a default")
        if quantity < 0:
            if status not in ("cancelled", "returned"):
                self._count_filtered("orders.quantity.stock_correction")
                return
            quantity, status = -quantity, "returned"
        _positive(quantity)
        price = _not_negative("price", self._price(row))
        amount = self._amount(row)
        if amount is not None:
            # The total of what comes back is written with either sign.
            amount = abs(amount) if status == "returned" else _not_negative("amount", amount)
        if price is not None and price * quantity > MAX_INT:
            raise BadValue("invalid", "price", f"{price} minor units × {quantity} is more than 2^53")
        line = OrderLine(self._product(row), self._category(row), quantity, price, amount)
        order, user = self._order(row), self._user(row)
        session, country, channel = self._session(row), self._country(row), self._channel(row)
        name = (order, user, status)
        draft = self._open.get(name)
        if draft is None or len(draft.lines) == MAX_LINES:
            draft = self._open[name] = _Draft(time)
            draft.event_id = f"{self._prefix}{number}"
            draft.order, draft.user, draft.status, draft.session = name[0], name[1], name[2], session
            draft.row = (country, channel)
            self._drafts.append(draft)
        draft.lines.append(line)

    def _release(self, before: int) -> Iterator[Item]:
        drafts = self._drafts
        while drafts and drafts[0].time < before:
            draft = drafts.popleft()
            yield draft.item if draft.item is not None else self._finish(draft)

    def _finish(self, draft: _Draft) -> Item:
        name = (draft.order, draft.user, draft.status)
        if self._open.get(name) is draft:
            del self._open[name]
        country, channel = draft.row
        event = Order(
            draft.event_id, draft.order, draft.status, draft.time, tuple(draft.lines), draft.user, draft.session,
            self._source.currency, country, channel,
        )  # fmt: skip
        return (draft.time, ORDERS, (draft.user or draft.order).encode(), event, len(draft.lines))


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
        _not_negative("price", price)
        _not_negative("stock", stock)
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
        event = Plan(f"{self._prefix}{number}", time, product, _not_negative("price", self._price(row)), known)
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


def _positive(quantity: int) -> int:
    if not 1 <= quantity <= MAX_QUANTITY:
        raise BadValue("invalid", "quantity", f"{quantity} is not within 1 to {MAX_QUANTITY}")
    return quantity


def _not_negative(name: str, value: int | None) -> int | None:
    if value is not None and value < 0:
        raise BadValue("invalid", name, f"{value} is below 0")
    return value
