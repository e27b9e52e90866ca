"""Reading a training table back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq

from features.sets import SCORE_SET, Activity
from streams.backfill.run import Request, backfill_source, backfill_topics
from streams.logs import Topics
from streams.settings import Settings
from streams.sources import open_source

Row = dict[str, Any]
FEATURES = [feature.name for feature in SCORE_SET]
OWN = [place for place, feature in enumerate(SCORE_SET) if feature.entity not in get_args(Activity)]
"""The columns that no other task's rows show: how far these lag is no matter of the log."""


def rows_of(out: Path) -> list[Row]:
    """Return the rows of all parts, in order."""
    return [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def vector_of(row: Row) -> bytes:
    """Return a row's vector as an example holds it."""
    return np.array([row[name] for name in FEATURES], "<f8").tobytes()


def of_source(
    path: Path, out: Path, settings: Settings | None = None, **options: Any
) -> tuple[dict[str, Any], list[Row]]:
    """Backfill from files; return the card and the rows."""
    card = backfill_source(open_source(path), settings or Settings(), Request(out, **options))
    return card, rows_of(out)


def of_topics(topics: Topics, settings: Settings, out: Path, **options: Any) -> tuple[dict[str, Any], list[Row]]:
    """Backfill from topics; return the card and the rows."""
    card = backfill_topics(topics, settings, Request(out, **options))
    return card, rows_of(out)
