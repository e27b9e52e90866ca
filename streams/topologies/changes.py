"""Changes of buckets that were closed when they were said: cancellations and redriven records, in their own order.

An upstream task that is ahead says them early. They wait here until the watermark passes the time they were said at,
so that what they revise is the same however far the upstream tasks are apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

import msgspec

from schemas.internal import ActivityRow
from streams.runtime.checkpoint import Rows

PREFIX = "w:"
_Order = tuple[int, str, int, int, int, int, int]


def _order(row: ActivityRow) -> _Order:
    return row.at, row.product_id, row.time, row.kind, row.quantity, row.value_minor, row.price


class WaitingChanges:
    """Rows by the time they were said at (`at`), stored in a few shards.

    >>> waiting = WaitingChanges()
    >>> waiting.add(3, ActivityRow("p", None, 7, 10, -1, -5, -1, True, at=90))
    >>> waiting.due(90), waiting.due(91), list(waiting.drain())
    (False, True, ['w:3'])
    >>> waiting.pop()[1].product_id, waiting.drain()
    ('p', {'w:3': None})
    """

    def __init__(self) -> None:
        self._rows: list[tuple[_Order, int, int, ActivityRow]] = []
        """A heap; among equals, what came first is first."""
        self._added = 0
        self._dirty: set[int] = set()

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        """Take back what was stored."""
        for key, row in rows.items():
            if row is not None and key.startswith(PREFIX):
                for one in _decode(row):
                    self._push(int(key[len(PREFIX) :]), one)

    def add(self, shard: int, row: ActivityRow) -> None:
        """Let a row wait."""
        self._push(shard, row)
        self._dirty.add(shard)

    def _push(self, shard: int, row: ActivityRow) -> None:
        heappush(self._rows, (_order(row), self._added, shard, row))
        self._added += 1

    def next_at(self) -> int | None:
        """When the first of them was said."""
        return self._rows[0][3].at if self._rows else None

    def due(self, watermark: int) -> bool:
        """Say whether the first of them is before `watermark`: nothing older can still come."""
        return bool(self._rows) and self._rows[0][3].at < watermark

    def pop(self) -> tuple[int, ActivityRow]:
        """Take the first: its shard and itself."""
        _, _, shard, row = heappop(self._rows)
        self._dirty.add(shard)
        return shard, row

    def products(self) -> Iterable[str]:
        """Return the products that changes wait for."""
        return (row.product_id for _, _, _, row in self._rows)

    def drain(self) -> Rows:
        """Return the shards that changed since the last drain."""
        held: dict[int, list[ActivityRow]] = {shard: [] for shard in sorted(self._dirty)}
        if held:
            for _, _, shard, row in sorted(self._rows):
                if shard in held:
                    held[shard].append(row)
        self._dirty.clear()
        return {f"{PREFIX}{shard}": _encode(rows) if rows else None for shard, rows in held.items()}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[ActivityRow]).decode
