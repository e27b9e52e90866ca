"""A source: all its tables as one stream of events in event-time order, in constant memory.

The order is (time, table, row) with the tables as catalog, clicks, orders, for a fact holds from its own time on. Plan
entries come before all else, since they are known ahead. Nothing here knows Kafka.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from schemas.codec import Catalog, Click, Order, Plan
from streams.errors import SourceError
from streams.sources.description import FieldSpec, PlanSpec, SourceSpec, TableSpec
from streams.sources.fields import time_field
from streams.sources.files import TableFile
from streams.sources.loading import load_description
from streams.sources.ordering import CHUNK_ROWS, in_time_order, looks_sorted
from streams.sources.orders import NothingSold, Orders
from streams.sources.table import Accounts, Item, Table, Unreadable
from streams.sources.tables import make_table
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
        self._looked: dict[tuple[Path, FieldSpec], bool] = {}
        self.accounts = Accounts()
        self.nothing_sold: NothingSold | None = None
        """Hears of lines that say that nothing was sold, where ``gaps = "missing"``; set it before reading."""
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
    def names_timezone(self) -> bool:
        """Whether the description says so, or leaves it open."""
        return "timezone" in self._spec.model_fields_set

    @property
    def gaps(self) -> Literal["zero", "missing"]:
        """What a period without an order line says: nothing sold, or nothing known."""
        return self._spec.orders.gaps if self._spec.orders is not None else "zero"

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables it has."""
        return tuple(table.name for table in self._spec.tables())

    def progress(self) -> float:
        """How much of the files was read, from 0 to 1, by their bytes."""
        total = sum(file.size for _, file in self._files)
        return sum(file.bytes_read() for _, file in self._files) / total if total else 1.0

    def fingerprint(self) -> str:
        """What changes when the description or a file does: positions hold only while it is equal."""
        files = [f"{file.path.resolve()}:{file.size}:{file.path.stat().st_mtime_ns}" for _, file in self._files]
        return hashlib.sha256("\n".join([self._spec.model_dump_json(), *files]).encode()).hexdigest()

    def events(self, skip: int = 0, *, start_ms: int | None = None, end_ms: int | None = None) -> Iterator[SourceEvent]:
        """Yield the events in order; rows that cannot become one are counted in `accounts` only.

        `skip` leaves out that many items of the same stream (a position). From `start_ms` on: earlier clicks and
        orders are counted as filtered, facts of the catalog still hold. Up to before `end_ms`: reading stops there, so
        what comes is a prefix of the whole. Each call starts over, with new `accounts`.
        """
        return self._numbered(skip, start_ms, end_ms, unreadable=False)

    def items(self, skip: int = 0, *, start_ms: int | None = None, end_ms: int | None = None) -> Iterator[SourceEvent]:
        """Yield as `events` does, and the unreadable rows in their places."""
        return self._numbered(skip, start_ms, end_ms, unreadable=True)

    def _numbered(self, skip: int, start_ms: int | None, end_ms: int | None, unreadable: bool) -> Iterator[SourceEvent]:
        accounts = self.accounts = Accounts()
        sent, sent_rows = accounts.sent, accounts.sent_rows
        position = 0
        for time, topic, key, value, rows in self._merged(accounts, end_ms):
            if isinstance(value, Unreadable):
                accounts.unreadable[value.label] += 1
                position += 1
                if unreadable and position > skip:
                    yield SourceEvent(topic, key, time, value, rows, position)
                continue
            if topic in _CUT:
                if start_ms is not None and time < start_ms:
                    accounts.filtered["before_from"] += rows
                    continue
                accounts.last_time = time
                if accounts.first_time is None:
                    accounts.first_time = time
            sent[topic] += 1
            sent_rows[topic] += rows
            position += 1
            if position > skip:
                yield SourceEvent(topic, key, time, value, rows, position)

    def _merged(self, accounts: Accounts, end_ms: int | None) -> Iterator[Item]:
        plan = [pair for pair in self._files if isinstance(pair[0], PlanSpec)]
        for spec, file in plan:
            yield from self._stream(spec, file, accounts)
        streams = [self._stream(spec, file, accounts) for spec, file in self._files if (spec, file) not in plan]
        for item in _merge(streams):
            if end_ms is not None and item[0] >= end_ms:
                # Whatever else was read already belongs to the time after the cut.
                accounts.filtered["after_to"] = accounts.unsettled()
                return
            yield item

    def _stream(self, spec: TableSpec, file: TableFile, accounts: Accounts) -> Iterator[Item]:
        time_of = time_field(spec.time, file.index, self._spec.timezone)
        if spec.sorted is not None:
            is_sorted = spec.sorted
        else:
            # Looked at once, also where two tables share a file.
            name = (file.path, spec.time)
            if name not in self._looked:
                self._looked[name] = looks_sorted(file, time_of)
            is_sorted = self._looked[name]
        rows = in_time_order(file, time_of, is_sorted, chunk_rows=self._chunk_rows)
        table = self._table(spec, file, accounts)
        if isinstance(table, Orders):
            table.nothing_sold = self.nothing_sold
        return table.items(rows, file.encode)

    def _file(self, spec: TableSpec) -> TableFile:
        columns = spec.columns() | {rule.column for rule in self._spec.filter if rule.table == spec.name}
        return TableFile(self._path.parent / spec.path, columns, spec.name)

    def _table(self, spec: TableSpec, file: TableFile, accounts: Accounts) -> Table:
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
            heads.append((item[0], rank, item, stream))
    while heads:
        heads.sort(key=_order)
        _, rank, item, stream = heads.pop(0)
        yield item
        # Most of the time one stream goes on for a while: until the next one's head.
        until, other = heads[0][:2] if heads else (1 << 62, 0)
        for after in stream:
            if after[0] > until or (after[0] == until and rank > other):
                heads.append((after[0], rank, after, stream))
                break
            yield after


def _order(head: tuple[int, int, Item, Iterator[Item]]) -> tuple[int, int]:
    return head[:2]
