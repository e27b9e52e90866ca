"""A training table as Parquet files: a bounded number of rows each, written in bounded groups, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from features.sets import SCORE_SET
from schemas.internal import Example
from streams.backtest.files import make_folder
from streams.errors import ConfigurationError

ROWS_PER_FILE = 1_000_000
ROWS_PER_GROUP = 50_000


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """An example with its session, and its label: None while its horizon is not over. `known_at` is in UTC ms."""

    example: Example
    session_id: str | None
    label: bool | None
    known_at: int | None


class TrainingTable:
    """Writes ``part-00000.parquet`` and so on into a folder. Use as a context.

    Columns: prediction_id, user_id, session_id, as_of, every feature by its name, product_version_partition and
    product_version_offset (null where the product had no row), the same of the category, label_<horizon>s, known_at.
    Raises ConfigurationError where pyarrow is missing, or the folder holds a table already.
    """

    def __init__(
        self, out: Path, horizon_s: int, *, rows_per_file: int = ROWS_PER_FILE, rows_per_group: int = ROWS_PER_GROUP
    ) -> None:
        self._arrow, self._parquet = _pyarrow()
        self._out = make_folder(out)
        there = sorted(path.name for path in out.glob("part-*.parquet"))
        if there:
            raise ConfigurationError(f"--out {out}: holds {there[0]} already; give a new folder, or empty this one")
        self.schema = self._schema(horizon_s)
        self.rows = 0
        self.files: list[str] = []
        self._per_file = rows_per_file
        self._per_group = min(rows_per_group, rows_per_file)
        self._held: list[TrainingRow] = []
        self._writer: Any = None
        self._in_file = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            self._close()
        elif self._writer is not None:
            self._writer.close()
            self._fresh().unlink(missing_ok=True)

    def add(self, row: TrainingRow) -> None:
        """Write a row, sooner or later."""
        self._held.append(row)
        self.rows += 1
        if len(self._held) >= min(self._per_group, self._per_file - self._in_file):
            self._flush()
            if self._in_file >= self._per_file:
                self._close()

    def _flush(self) -> None:
        if not self._held and (self._writer is not None or self.files):
            return
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._fresh(), self.schema)
        if self._held:
            columns = _columns(self._held)
            arrays = [self._arrow.array(c, type=f.type) for c, f in zip(columns, self.schema, strict=True)]
            self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self.schema))
        self._in_file += len(self._held)
        self._held = []

    def _close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        name = f"part-{len(self.files):05d}.parquet"
        self._fresh().replace(self._out / name)
        self.files.append(name)
        self._in_file = 0

    def _fresh(self) -> Path:
        return self._out / f"part-{len(self.files):05d}.parquet.new"

    def _schema(self, horizon_s: int) -> Any:
        arrow = self._arrow
        time, text = arrow.timestamp("ms", tz="UTC"), arrow.string()
        numbers = {"int": arrow.int64(), "float": arrow.float64()}
        return arrow.schema(
            [
                arrow.field("prediction_id", text, nullable=False),
                arrow.field("user_id", text, nullable=False),
                arrow.field("session_id", text),
                arrow.field("as_of", time, nullable=False),
                *(arrow.field(feature.name, numbers[feature.dtype], nullable=False) for feature in SCORE_SET),
                *(
                    arrow.field(f"{entity}_version_{part}", type_)
                    for entity in ("product", "category")
                    for part, type_ in (("partition", arrow.int32()), ("offset", arrow.int64()))
                ),
                arrow.field(f"label_{horizon_s}s", arrow.bool_()),
                arrow.field("known_at", time),
            ]
        )


def _columns(rows: Sequence[TrainingRow]) -> list[Any]:
    """Return the rows as columns, in the order of the schema."""
    vectors = np.frombuffer(b"".join(row.example.vector for row in rows), "<f8").reshape(len(rows), len(SCORE_SET))
    features = [
        vectors[:, place].astype(np.int64) if feature.dtype == "int" else np.ascontiguousarray(vectors[:, place])
        for place, feature in enumerate(SCORE_SET)
    ]
    products = [row.example.product_version or (None, None) for row in rows]
    categories = [row.example.category_version or (None, None) for row in rows]
    return [
        [row.example.id for row in rows],
        [row.example.user for row in rows],
        [row.session_id for row in rows],
        [row.example.as_of for row in rows],
        *features,
        *map(list, zip(*products, strict=True)),
        *map(list, zip(*categories, strict=True)),
        [row.label for row in rows],
        [row.known_at for row in rows],
    ]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError(
            "backfill writes Parquet files, which needs pyarrow: pip install -e '.[parquet]' (in Tidecast's folder)"
        ) from None
    return pyarrow, pyarrow.parquet
