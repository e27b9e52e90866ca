"""Rows of the orders table are lines; lines become orders.

A line with a negative quantity under "cancelled" or "returned" is goods coming back: it makes an order event
"returned" with the quantity positive. Under any other status it is a correction of the shop's stock, no sale, and is
counted as filtered.

Where ``gaps = "missing"``, a quantity of 0 says that nothing was sold, which is more than no line would say: no event,
but whoever reads the source may hear of it (`Source.nothing_sold`).

Lines of one order id that lie apart are orders of their own: the later ones get ``<id>#<row>`` as theirs, for a second
purchase under a known id would be taken for the first one, told again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from schemas.codec import Order, OrderLine
from schemas.wire import MAX_INT, MAX_LINES, MAX_TEXT, TIME_END
from streams.records import ORDERS
from streams.sources.description import ORDER_STATUSES, OrdersSpec, SourceSpec
from streams.sources.fields import Index, Row, money_field, required, text_field, whole_field
from streams.sources.ordering import TimedRow
from streams.sources.table import Accounts, Item, Table, not_negative, positive
from streams.sources.values import BadValue

# Longer than any reader keeps a customer's orders; it bounds the memory here.
_REMEMBERED_MS = 35 * 86_400_000

NothingSold = Callable[[str, str | None, int], None]
"""Is told a product, its category where the line names one, and the time (UTC ms)."""


@dataclass(slots=True)
class _Draft:
    """An order whose lines are still coming."""

    time: int
    event_id: str
    order_id: str
    name: tuple[str, str | None, str]
    session: str | None
    country: str | None
    channel: str | None
    lines: list[OrderLine]


@dataclass(slots=True)
class _Waiting:
    """An item that waits for its turn behind a draft."""

    time: int
    item: Item


class Orders(Table):
    """A row is a line; an order has its first line's time and id, and is held until none of its lines can follow."""

    topic = ORDERS

    def __init__(self, spec: OrdersSpec, source: SourceSpec, index: Index, accounts: Accounts) -> None:
        super().__init__(spec, source, index, accounts)
        self._within = spec.within_ms
        self._drafts: deque[_Draft | _Waiting] = deque()
        self._open: dict[tuple[str, str | None, str], _Draft] = {}
        self._placed: dict[tuple[str, str | None, str], int] = {}
        self._order = required("order", text_field("order", spec.order, index))
        self._product = required("product", text_field("product", spec.product, index))
        self._status = required("status", text_field("status", spec.status, index))
        self._user = text_field("user", spec.user, index)
        self._session = text_field("session", spec.session, index)
        self._category = text_field("category", spec.category, index)
        self._quantity = whole_field("quantity", spec.quantity, index)
        self._no_quantity = spec.quantity is None
        self._tells_zeros = spec.gaps == "missing"
        self.nothing_sold: NothingSold | None = None
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
                drafts.append(_Waiting(time, self._refuse(time, number, row, error, encode)))
        yield from self._release(TIME_END)

    def _add(self, time: int, number: int, row: Row) -> None:
        status = self._status(row)
        if status not in ORDER_STATUSES:
            raise BadValue("invalid", "status", f"{status[:40]!r} is no status of an order; map it")
        quantity = 1 if self._no_quantity else self._quantity(row)
        if quantity is None:
            raise BadValue("invalid", "quantity", "has no value; give it a default")
        if quantity < 0:
            if status not in ("cancelled", "returned"):
                self._count_filtered("orders.quantity.stock_correction")
                return
            quantity, status = -quantity, "returned"
        if quantity == 0 and self._tells_zeros:
            self._count_filtered("orders.quantity.nothing_sold")
            if self.nothing_sold is not None:
                self.nothing_sold(self._product(row), self._category(row), time)
            return
        positive(quantity)
        price = not_negative("price", self._price(row))
        amount = self._amount(row)
        if amount is not None:
            # The total of what comes back is written with either sign.
            amount = abs(amount) if status == "returned" else not_negative("amount", amount)
        if price is not None and price * quantity > MAX_INT:
            raise BadValue("invalid", "price", f"{price} minor units × {quantity} is more than 2^53")
        line = OrderLine(self._product(row), self._category(row), quantity, price, amount)
        order, user = self._order(row), self._user(row)
        session, country, channel = self._session(row), self._country(row), self._channel(row)
        name = (order, user, status)
        draft = self._open.get(name)
        if draft is None or len(draft.lines) == MAX_LINES:
            event_id = f"{self._prefix}{number}"
            apart = "" if self._is_first(name, time) else f"#{number}"
            known_as = order[: MAX_TEXT - len(apart)] + apart
            draft = _Draft(time, event_id, known_as, name, session, country, channel, [])
            self._open[name] = draft
            self._drafts.append(draft)
        draft.lines.append(line)

    def _release(self, before: int) -> Iterator[Item]:
        drafts = self._drafts
        while drafts and drafts[0].time < before:
            draft = drafts.popleft()
            yield draft.item if isinstance(draft, _Waiting) else self._finish(draft)

    def _finish(self, draft: _Draft) -> Item:
        order, user, status = draft.name
        if self._open.get(draft.name) is draft:
            del self._open[draft.name]
        event = Order(
            draft.event_id, draft.order_id, status, draft.time,  # type: ignore[arg-type]
            tuple(draft.lines), user, draft.session,
            self._source.currency, draft.country, draft.channel,
        )  # fmt: skip
        return (draft.time, ORDERS, (user or order).encode(), event, len(draft.lines))

    def _is_first(self, name: tuple[str, str | None, str], time: int) -> bool:
        if name[2] not in ("placed", "paid"):
            return True
        placed = self._placed
        while placed and next(iter(placed.values())) < time - _REMEMBERED_MS:
            del placed[next(iter(placed))]
        first = placed.pop(name, None) is None
        placed[name] = time
        return first
