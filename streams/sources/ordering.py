"""Rows in event-time order: those of a file that is sorted as they come, of any other through an external sort.

Ties keep the file's order. A row whose time cannot be read stands where it was: at the time of the row before it.
"""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from streams.errors import SourceError
from streams.sources.fields import Row
from streams.sources.files import TableFile
from streams.sources.values import BadValue

TimedRow = tuple[int, int, Row, BadValue | None]
"""Time (UTC ms), row number, cells, and why the row cannot be read."""

CHUNK_ROWS = 200_000
"""Rows sorted in memory at once."""
_BLOCK_ROWS = 500
_OPEN_FILES = 64
_LENGTH = struct.Struct("<I")


def in_time_order(
    file: TableFile, time_of: Callable[[Row], int], is_sorted: bool, *, chunk_rows: int = CHUNK_ROWS
) -> Iterator[TimedRow]:
    """Yield the rows of `file` by (time, row number).

    A file that is not sorted is, with the disk space of its rows and the memory of `chunk_rows` of them. Raises
    SourceError where time goes back although the file is said to be sorted.
    """
    return _trusted(file, time_of) if is_sorted else _sorted_externally(timed(file, time_of), chunk_rows)


def timed(file: TableFile, time_of: Callable[[Row], int]) -> Iterator[TimedRow]:
    """Yield the rows of `file` as they come, with their times."""
    last = 0
    for number, row, bad in file.rows():
        if bad is None:
            try:
                last = time_of(row)
            except BadValue as error:
                bad = error
        yield last, number, row, bad


def looks_sorted(file: TableFile, time_of: Callable[[Row], int]) -> bool:
    """Say whether the rows of `file` are in time order; one pass, up to the first that is not.

    Raises SourceError where no row of the file can be read.
    """
    last = readable = number = 0
    first_problem: BadValue | None = None
    for time, number, _, bad in timed(file, time_of):  # noqa: B007  # the count is used below
        if time < last:
            return False
        last = time
        if bad is None:
            readable += 1
        elif first_problem is None:
            first_problem = bad
    if number and not readable:
        raise SourceError(f"{file.path}: [{file.table}] none of {number} rows can be read; the first: {first_problem}")
    return True


def _trusted(file: TableFile, time_of: Callable[[Row], int]) -> Iterator[TimedRow]:
    # The hot path: `timed` and the check in one loop.
    last = 0
    for number, row, bad in file.rows():
        time = last
        if bad is None:
            try:
                time = time_of(row)
            except BadValue as error:
                bad = error
        if time < last:
            raise SourceError(
                f"{file.path}: [{file.table}] row {number} goes back in time, from {last} to {time} (ms UTC); "
                "say sorted = false"
            )
        last = time
        yield time, number, row, bad


def _sorted_externally(rows: Iterator[TimedRow], chunk_rows: int) -> Iterator[TimedRow]:
    # Row numbers are unique, so a comparison never gets as far as the cells.
    chunk = sorted(islice(rows, chunk_rows))
    if len(chunk) < chunk_rows:
        yield from chunk
        return
    with tempfile.TemporaryDirectory(prefix="tidecast-sort-") as folder:
        runs: list[Path] = []
        made = 0
        while chunk:
            runs.append(_write(Path(folder) / f"{made}.run", chunk))
            made += 1
            if len(runs) == _OPEN_FILES:
                merged = _write(Path(folder) / f"{made}.run", heapq.merge(*map(_read, runs)))
                made += 1
                for run in runs:
                    run.unlink()
                runs = [merged]
            chunk = sorted(islice(rows, chunk_rows))
        yield from heapq.merge(*map(_read, runs))


def _write(path: Path, rows: Iterable[TimedRow]) -> Path:
    encode = msgspec.msgpack.Encoder().encode
    pending = iter(rows)
    with path.open("wb") as file:
        while block := [_packed(row) for row in islice(pending, _BLOCK_ROWS)]:
            data = encode(block)
            file.write(_LENGTH.pack(len(data)) + data)
    return path


_Packed = tuple[int, int, Row, tuple[str, str, str] | None]


def _packed(row: TimedRow) -> _Packed:
    time, number, cells, bad = row
    if bad is None:
        return time, number, cells, None
    # Cells that are not UTF-8 would not survive the trip; their row is a dead letter anyway.
    safe = [cell.encode("utf-8", "backslashreplace").decode() for cell in cells]
    return time, number, safe, (bad.reason, bad.field, bad.detail)


def _read(path: Path) -> Iterator[TimedRow]:
    decode = msgspec.msgpack.Decoder(list[_Packed]).decode
    with path.open("rb") as file:
        while data := _block(file):
            for time, number, cells, bad in decode(data):
                yield time, number, cells, None if bad is None else BadValue(*bad)  # type: ignore[arg-type]


def _block(file: BinaryIO) -> bytes:
    head = file.read(_LENGTH.size)
    return file.read(_LENGTH.unpack(head)[0]) if head else b""
