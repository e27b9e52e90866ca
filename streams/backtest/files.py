"""What a backtest leaves behind: CSV, JSON and text files that stand whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from streams.errors import ConfigurationError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make_folder(path: Path) -> Path:
    """Return `path`, made if it is not there. Raises ConfigurationError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {path}: {error.strerror}; give a folder that can be written") from error
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file that takes its name only once it is complete."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@contextmanager
def csv_file(path: Path, header: Sequence[str]) -> Iterator[CsvRows]:
    """Open a CSV file with a header."""
    with whole_file(path) as file:
        rows = CsvRows(file)
        rows.write(header)
        yield rows


class CsvRows:
    """Rows of a CSV file; floats are written so that they are read back to the bit."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")

    def write(self, row: Sequence[str | int | float | None]) -> None:
        """Write one row; None is an empty field."""
        self._writer.writerow(row)


def write_json(path: Path, data: Any) -> None:
    """Write JSON, indented."""
    with whole_file(path) as file:
        json.dump(data, file, indent=2, allow_nan=False)
        file.write("\n")


def stamp(time_ms: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds.

    >>> stamp(1_396_321_200_001)
    '2014-04-01T03:00:00.001Z'
    """
    return (_EPOCH + timedelta(milliseconds=time_ms)).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1_000:03d}Z"
