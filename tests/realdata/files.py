"""The real files by the plainest reading, with none of the project's readers: what a brute-force check starts from."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from features.columns import Event
from features.hashing import visitors
from schemas.internal import ActivityRow, EventKind

_WITHIN_MS = 60_000
"""Lines of a YOOCHOOSE session at most this far from the first of an order belong to it."""


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a gzipped CSV file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def yoochoose_clicks(data: Path) -> list[Event]:
    """Return the clicks in the file's order; row n (from 1) is the event ``yoochoose:clicks:n``."""
    return [
        Event(
            row["session_id"],
            EventKind.VIEW,
            _ms(row["timestamp"]),
            row["item_id"],
            row["session_id"],
            category=None if row["category"] == "0" else row["category"],
        )
        for row in rows(data / "yoochoose_clicks.csv.gz")
    ]


def yoochoose_lines(data: Path) -> list[Event]:
    """Return the lines bought in the file's order, each stamped with the first line of its order."""
    first: dict[str, int] = {}
    lines = []
    for row in rows(data / "yoochoose_buys.csv.gz"):
        session, time = row["session_id"], _ms(row["timestamp"])
        if time - first.get(session, -_WITHIN_MS - 1) > _WITHIN_MS:
            first[session] = time
        quantity, price = int(row["quantity"]) or 1, int(row["price"]) or -1
        value = max(price, 0) * quantity
        lines.append(
            Event(
                session, EventKind.PURCHASE, first[session], row["item_id"], session, quantity, value, price_minor=price
            )
        )
    return lines


def merged(clicks: Iterable[Event], lines: Iterable[Event]) -> list[Event]:
    """Return both in the order in which they are applied: by time, clicks first, then as in the file."""
    return sorted([*clicks, *lines], key=lambda event: (event.time, event.kind))


def by_user(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Return each user's events, in order."""
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event.user].append(event)
    return dict(found)


def by_product(events: Iterable[Event]) -> dict[str, list[ActivityRow]]:
    """Return what happened to each product, in order."""
    found: dict[str, list[ActivityRow]] = defaultdict(list)
    for event in events:
        assert event.product is not None
        row = ActivityRow(
            event.product,
            None,
            event.kind,
            event.time,
            event.quantity,
            event.value_minor,
            event.price_minor,
            True,
            visitor=visitors([event.user])[0] if event.kind == EventKind.VIEW else 0,
        )
        found[event.product].append(row)
    return dict(found)


def _ms(text: str) -> int:
    at = datetime.fromisoformat(text)
    assert at.tzinfo is not None
    return round(at.timestamp() * 1_000)
