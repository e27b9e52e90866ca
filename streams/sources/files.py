"""Rows of a file, streamed: CSV, JSON lines (both also gzipped) and Parquet, all as cells of text.

A row that cannot be read is a value too, so that it is counted and the next one is read. Only a file that is missing,
damaged or without a column that is needed raises SourceError.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from decimal import Decimal
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from streams.errors import SourceError
from streams.sources.fields import Row
from streams.sources.values import BadValue

RawRow = tuple[int, Row, BadValue | None]
"""Row number from 1, cells, and why the row cannot be read."""

_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_UNDECODED = re.compile("[\udc80-\udcff]")
_LONGEST_CELL = 1_000_000
_MOST_LINES = 250
_BLANKS = re.compile(r'"[ \t]+(,|\r?\n|$)')


class TableFile:
    """One file of a table.

    `index` says where each column stands in the rows that `rows` yields; `columns` are those that must exist.
    """

    def __init__(self, path: Path, columns: Iterable[str], table: str) -> None:
        self.path = path
        self.table = table
        if not path.name.endswith(_SUFFIXES):
            raise SourceError(f"{path}: [{table}] cannot be read; a file is one of {', '.join(_SUFFIXES)}")
        if not path.is_file():
            raise SourceError(f"{path}: [{table}] there is no such file; paths are relative to the TOML file")
        self.size = path.stat().st_size
        self._raw: BinaryIO | None = None
        wanted = sorted(columns)
        with self._explained():
            if ".csv" in path.suffixes[-2:]:
                self._kind = "csv"
                self.header = self._csv_header(wanted)
            elif path.suffix == ".parquet":
                self._kind = "parquet"
                self.header = self._parquet_header(wanted)
            else:
                self._kind = "jsonl"
                self.header = self._jsonl_header(wanted)
        self.index = {name: position for position, name in enumerate(self.header)}

    def rows(self) -> Iterator[RawRow]:
        """Yield every row; a new pass over the file each time."""
        read = {"csv": self._csv_rows, "jsonl": self._jsonl_rows, "parquet": self._parquet_rows}[self._kind]
        return read()

    def bytes_read(self) -> int:
        """How far the last pass over the file has come, in bytes of the file."""
        if self._raw is None:
            return 0
        return self.size if self._raw.closed else self._raw.tell()

    def encode(self, row: Row) -> bytes:
        """Return a row as one JSON object, whatever it holds, for a dead letter."""
        cells = row if len(row) <= len(self.header) else [*row[: len(self.header) - 1], "".join(row)]
        return json.dumps(dict(zip(self.header, cells, strict=False))).encode()

    @contextmanager
    def _open(self) -> Iterator[TextIOWrapper]:
        with self._explained(), ExitStack() as stack:
            self._raw = raw = stack.enter_context(self.path.open("rb"))
            data: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if self.path.suffix == ".gz" else raw
            yield stack.enter_context(TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline=""))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SourceError(f"{self.path}: [{self.table}] cannot be read ({reason}); is it whole?") from error

    def _missing(self, wanted: list[str], present: list[str]) -> None:
        absent = [name for name in wanted if name not in present]
        if absent:
            raise SourceError(
                f"{self.path}: [{self.table}] has no column {', '.join(map(repr, absent))}; its columns are "
                + (", ".join(map(repr, present[:50])) or "none (the file is empty)")
            )
        twice = [name for name in wanted if present.count(name) > 1]
        if twice:
            raise SourceError(f"{self.path}: [{self.table}] has column {twice[0]!r} more than once; rename one")

    def _csv_header(self, wanted: list[str]) -> list[str]:
        with self._open() as text:
            try:
                header: Row = next(_csv_reader(text), [])
            except csv.Error as error:
                raise SourceError(
                    f"{self.path}: [{self.table}] its first row is no CSV ({error}); is a quote open in it?"
                ) from error
        self._missing(wanted, header)
        return header

    def _csv_rows(self) -> Iterator[RawRow]:
        width = len(self.header)
        join = "".join
        number = 0
        with self._open() as text:
            for row, problem in _csv_records(text, width):
                if not row and problem is None:
                    continue
                number += 1
                bad = None
                if problem is not None:
                    bad = BadValue("undecodable", "row", f"is no CSV: {problem}")
                elif not join(row).isascii() and _UNDECODED.search(join(row)):
                    bad = BadValue("undecodable", "row", "is not UTF-8")
                elif len(row) != width:
                    bad = BadValue("invalid", "row", f"has {len(row)} fields where the header has {width}")
                yield number, row, bad

    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
        # The text of a number stays as it is: 0.1 is a tenth.
        decode = msgspec.json.Decoder(float_hook=_float_text).decode
        number = 0
        with self._open() as text:
            for line in text:
                if line.isspace():
                    continue
                number += 1
                try:
                    value = decode(line)
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    yield number, None, f"is no JSON: {error}"
                    continue
                yield (number, value, "") if isinstance(value, dict) else (number, None, "is no JSON object")

    def _jsonl_header(self, wanted: list[str]) -> list[str]:
        waiting = set(wanted)
        seen: dict[str, None] = {}
        for _, value, _ in self._objects():
            if value is not None:
                waiting.difference_update(value)
                seen.update(dict.fromkeys(value))
            if not waiting:
                break
        self._missing(wanted, list(seen))
        return wanted

    def _jsonl_rows(self) -> Iterator[RawRow]:
        names = self.header
        for number, value, problem in self._objects():
            if value is None:
                yield number, [], BadValue("undecodable", "row", problem)
                continue
            row, bad = _cells(map(value.get, names))
            yield number, row, bad

    def _parquet_header(self, wanted: list[str]) -> list[str]:
        with _pyarrow(self.path).ParquetFile(self.path) as file:
            present = list(file.schema_arrow.names)
        self._missing(wanted, present)
        return wanted

    def _parquet_rows(self) -> Iterator[RawRow]:
        numbers = iter(range(1, 1 << 62))
        with self._explained(), _pyarrow(self.path).ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=10_000, columns=self.header):
                columns = [_values(_plain_times(batch.column(name))) for name in self.header]
                for values in zip(*columns, strict=True):
                    row, bad = _cells(values)
                    yield next(numbers), row, bad


def _csv_reader(lines: Iterable[str]) -> Any:
    csv.field_size_limit(_LONGEST_CELL)
    return csv.reader(lines, strict=True)


def _csv_records(text: Iterator[str], width: int) -> Iterator[tuple[Row, csv.Error | None]]:
    """Yield the records behind the header, and why one cannot be read.

    A quote astray may take any number of lines into its cell. Lines that are rows by themselves are read as such.
    """
    held: list[str] = []
    again: deque[str] = deque()
    take = held.append

    def lines() -> Iterator[str]:
        while again:
            take(again.popleft())
            yield held[-1]
        for line in text:
            take(line)
            if len(held) > _MOST_LINES:
                raise csv.Error(f"a row of more than {_MOST_LINES} lines")
            yield line

    reader = _csv_reader(lines())
    next(reader, None)
    while True:
        held.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rows, rest = _astray(held, width)
            for row in rows:
                yield row, None if len(row) == width else error
            again.extendleft(reversed(rest))
            reader = _csv_reader(lines())
        else:
            yield row, None


def _astray(lines: list[str], width: int) -> tuple[list[Row], list[str]]:
    """Return the rows in lines that are no CSV as they stand, and those of the lines to be read again.

    >>> _astray(['3,"gift\\n', "4,cup\\n", '5,"wrap\\n'], 2)
    ([['3', 'gift'], ['4', 'cup'], ['5', 'wrap']], [])
    >>> _astray(['3,"a gift\\n', 'with care" ,1\\n'], 3)
    ([['3', 'a gift\\nwith care', '1']], [])
    """
    alone = [_alone(line) for line in lines if line.strip("\r\n")]
    if all(len(row) == width for row in alone):
        return alone, []
    try:
        # Blanks behind a closing quote are a common slip.
        whole = list(csv.reader(_BLANKS.sub(r'"\1', "".join(lines)).splitlines(keepends=True), strict=True))
    except csv.Error:
        whole = []
    if len(whole) == 1 and len(whole[0]) == width:
        return whole, []
    return [alone[0] if len(alone[0]) == width else []], lines[1:]


def _alone(line: str) -> Row:
    """Return the cells of a line by itself, in which a quote astray is a character like others."""
    try:
        return next(csv.reader([line.rstrip("\r\n")]), [])
    except csv.Error:
        return []


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise SourceError(
            f"{path}: reading .parquet needs an extra: pip install -e '.[parquet]' (in Tidecast's folder)"
        ) from None
    return _Explained(parquet, path)


class _Explained:
    """pyarrow's ParquetFile, with its errors about damaged files as SourceError."""

    def __init__(self, parquet: Any, path: Path) -> None:
        self._parquet = parquet
        self._path = path

    @contextmanager
    def ParquetFile(self, path: Path) -> Iterator[Any]:  # pyarrow's own name
        import pyarrow

        try:
            with self._parquet.ParquetFile(path) as file:
                yield file
        except pyarrow.ArrowException as error:
            raise SourceError(f"{path}: cannot be read ({error}); is it whole?") from error


def _plain_times(column: Any) -> Any:
    import pyarrow

    # Python's times end at microseconds; nanoseconds would need pandas.
    if pyarrow.types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(pyarrow.timestamp("us", tz=column.type.tz), safe=False)
    return column


class _Beyond:
    """Stands for a value that Python has none for: a time after its last year, or in a zone that does not exist."""


def _values(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, KeyError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, KeyError):
        return _Beyond()


def _cells(values: Iterable[Any]) -> tuple[Row, BadValue | None]:
    row: Row = []
    bad = None
    for value in values:
        if value.__class__ is str:
            row.append(value)
        elif value is None:
            row.append("")
        else:
            text = _cell(value)
            if text is None:
                found = "what cannot be read" if isinstance(value, _Beyond) else f"a {type(value).__name__}"
                bad = BadValue("invalid", "row", f"holds {found} where one value is needed")
            row.append(text or "")
    return row, bad


def _cell(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "" if value != value else _float_text(repr(value))
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None


def _float_text(text: str) -> str:
    # A column of whole numbers with a gap in it is exported as floats: 17850.0 names what 17850 names.
    return text[:-2] if text.endswith(".0") else text
