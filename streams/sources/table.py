"""What all tables share: the accounts of every row, the filters, and the rows that cannot become events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from schemas.codec import Catalog, Click, Order, Plan
from schemas.wire import MAX_QUANTITY
from streams.sources.description import FilterSpec, SourceSpec, TableSpec
from streams.sources.fields import Index, Row, keeps
from streams.sources.ordering import TimedRow
from streams.sources.values import BadValue

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

    def as_dict(self) -> dict[str, Any]:
        """Return the accounts as plain data."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in data.items()}

    def unsettled(self) -> int:
        """Rows read of which is not known yet where they go; 0 once all events are read."""
        parts = (self.filtered, self.unreadable, self.sent_rows)
        return sum(self.rows.values()) - sum(sum(part.values()) for part in parts) - self.unchanged

    def balanced(self) -> bool:
        """Say whether every row is accounted for; so it is once all events are read."""
        return self.unsettled() == 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot become an event; `data` is the row as JSON."""

    table: str
    row: int
    reason: str
    field: str
    detail: str
    data: bytes

    @property
    def label(self) -> str:
        """Its name in the accounts."""
        return f"{self.table}.{self.field}.{self.reason}"


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
        lost = Unreadable(self._name, number, bad.reason, bad.field, bad.detail, encode(row))
        return (time, self.topic, None, lost, 1)

    def _rounded(self) -> None:
        self._accounts.rounded += 1


def positive(quantity: int) -> int:
    """Return a quantity that an event can carry. Raises BadValue."""
    if not 1 <= quantity <= MAX_QUANTITY:
        raise BadValue("invalid", "quantity", f"{quantity} is not within 1 to {MAX_QUANTITY}")
    return quantity


def not_negative(name: str, value: int | None) -> int | None:
    """Return `value` unless it is below 0. Raises BadValue."""
    if value is not None and value < 0:
        raise BadValue("invalid", name, f"{value} is below 0")
    return value
