"""A source: all its tables as one stream of events in event-time order, in constant memory.

The order is (time, table, row) with the tables as catalog, clicks, orders, for a fact holds from its own time on. Plan
entries come before all else, since they are known ahead. Nothing here knows Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from schemas.codec import Catalog, Click, Order, Plan
from streams.errors import SourceError
from streams.sources.description import PlanSpec, SourceSpec, TableSpec, load_description
from streams.sources.fields import time_field
from streams.sources.files import TableFile
from streams.sources.ordering import CHUNK_ROWS, in_time_order
from streams.sources.tables import Accounts, Item, Unreadable, make_table
from streams.sources.values import BadValue

__all__ = ["Accounts", "Source", "SourceEvent", "Unreadable", "open_source"]


class SourceEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a source: where it goes, its event time (UTC ms), how many rows it stands for.

    `position` counts the items of the whole source from 1; `Source.items(skip=position)` goes on after it. `value` is
    an Unreadable only where `Source.items` was asked; `topic` is then the one the row was meant for.
    """

    topic: str
    key: bytes | None
    time_ms: int
    value: Click | Order | Catalog | Plan | Unreadable
    rows: int
    position: int


class Source:
    """A source whose files were found and whose columns exist."""

    def __init__(self, path: Path, spec: SourceSpec, *, chunk_rows: int = CHUNK_ROWS) -> None:
        self._path = path
        self._spec = spec
        self._chunk_rows = chunk_rows
        self._files = [(table, self._file(table)) for table in spec.tables()]
        self.accounts = Accounts()
        # Constants that cannot be are an error of the description, so they are found now.
        for table, file in self._files:
            self._table(table, file, Accounts())

    @property
    def name(self) -> str:
        """The source's name, the first part of every event id."""
        return self._spec.name

    @property
    def currency(self) -> str | None:
        """The currency (ISO 4217) of all its prices."""
        return self._spec.currency

    @property
    def timezone(self) -> str:
        """The shop's own IANA time zone."""
        return self._spec.timezone

    @property
    def gaps(self) -> Literal["zero", "missing"]:
        """What a period without an order line says: nothing sold, or nothing known."""
        return self._spec.orders.gaps if self._spec.orders is not None else "zero"

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables it has."""
        return tuple(table.name for table in self._spec.tables())

    def bytes_on_disk(self) -> int:
        """Size of all its files."""
        return sum(file.path.stat().st_size for _, file in self._files)

    def events(self, skip: int = 0, *, start_ms: int | None = None, end_ms: int | None = None) -> Iterator[SourceEvent]:
        """Yield the events in order; rows that cannot become one are counted in `accounts` only.

        `skip` leaves out that many items of the same stream (a position). From `start_ms` on: earlier clicks and
        orders are counted as filtered, facts of the catalog still hold. Up to before `end_ms`: reading stops there, so
        what comes is a prefix of the whole. Each call starts over, with new `accounts`.
        """
        for event in self.items(skip, start_ms=start_ms, end_ms=end_ms):
            if event.value.__class__ is not Unreadable:
                yield event

    def items(self, skip: int = 0, *, start_ms: int | None = None, end_ms: int | None = None) -> Iterator[SourceEvent]:
        """Yield as `events` does, and the unreadable rows in their places."""
        accounts = self.accounts = Accounts()
        position = 0
        for item in self._merged(accounts, end_ms):
            time, topic, key, value, rows = item
            if value.__class__ is not Unreadable:
                if start_ms is not None and time < start_ms and topic in _CUT:
                    accounts.filtered["before_from"] = accounts.filtered.get("before_from", 0) + rows
                    continue
                accounts.sent[topic] = accounts.sent.get(topic, 0) + 1
                accounts.sent_rows[topic] = accounts.sent_rows.get(topic, 0) + rows
                if topic in _CUT:
                    accounts.last_time = time
                    if accounts.first_time is None:
                        accounts.first_time = time
            position += 1
            if position > skip:
                yield SourceEvent(topic, key, time, value, rows, position)

    def _merged(self, accounts: Accounts, end_ms: int | None) -> Iterator[Item]:
        plan = [pair for pair in self._files if isinstance(pair[0], PlanSpec)]
        for spec, file in plan:
            yield from self._stream(spec, file, accounts)
        streams = [self._stream(spec, file, accounts) for spec, file in self._files if (spec, file) not in plan]
        for item in _merge(streams):
            if end_ms is not None and item.time >= end_ms:
                return
            yield item

    def _stream(self, spec: TableSpec, file: TableFile, accounts: Accounts) -> Iterator[Item]:
        time_of = time_field(spec.time, file.index, self._spec.timezone)
        rows = in_time_order(file, time_of, spec.sorted, chunk_rows=self._chunk_rows)
        return self._table(spec, file, accounts).items(rows, file.encode)

    def _file(self, spec: TableSpec) -> TableFile:
        columns = spec.columns() | {rule.column for rule in self._spec.filter if rule.table == spec.name}
        return TableFile(self._path.parent / spec.path, columns, spec.name)

    def _table(self, spec: TableSpec, file: TableFile, accounts: Accounts):  # type: ignore[no-untyped-def]
        try:
            return make_table(spec, self._spec, file.index, accounts)
        except BadValue as error:
            raise SourceError(f"{self._path}: {spec.name}.{error}") from None


_CUT = frozenset({"clickstream", "orders"})


def open_source(path: str | Path, *, chunk_rows: int = CHUNK_ROWS) -> Source:
    """Open a SOURCE.toml: read the description, find its files and their columns. Raises SourceError.

    `chunk_rows` bounds the rows held in memory where a file must be sorted.
    """
    return Source(Path(path), load_description(Path(path)), chunk_rows=chunk_rows)


def _merge(streams: list[Iterator[Item]]) -> Iterator[Item]:
    """Merge by time; at equal times the earlier stream goes first."""
    heads: list[tuple[int, int, Item, Iterator[Item]]] = []
    for rank, stream in enumerate(streams):
        item = next(stream, None)
        if item is not None:
            heads.append((item.time, rank, item, stream))
    while heads:
        heads.sort(key=_order)
        _, rank, item, stream = heads.pop(0)
        # Most of the time one stream goes on for a while: until the next one's head.
        bound = heads[0][:2] if heads else (1 << 62, 0)
        after: Item | None = item
        while after is not None and (after.time < bound[0] or (after.time == bound[0] and rank < bound[1])):
            yield after
            after = next(stream, None)
        if after is not None:
            heads.append((after.time, rank, after, stream))


def _order(head: tuple[int, int, Item, Iterator[Item]]) -> tuple[int, int]:
    return head[:2]
