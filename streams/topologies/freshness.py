"""When rows of another stage's store were read: a view of them may lag, by a bounded time."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection


class Freshness:
    """The ids whose rows were read, and those of them read lately.

    >>> view = Freshness()
    >>> view.note(["a", "b"], 1_000)
    >>> view.note(["b"], 2_000)
    >>> sorted(view.wanting({"a", "b", "c"}, 1_000)), sorted(view.wanting({"a", "b", "c"}, None))
    (['a', 'c'], ['c'])
    """

    def __init__(self) -> None:
        self._read: dict[str, int] = {}
        self._fresh: set[str] = set()
        self._order: deque[tuple[int, list[str]]] = deque()

    def note(self, ids: Collection[str], now_ms: int) -> None:
        """Note that the rows of `ids` were read just now."""
        if not ids:
            return
        if self._order and now_ms < self._order[-1][0]:
            # The clock was set back: nobody can tell how old the others are.
            self._fresh.clear()
            self._order.clear()
        self._read.update(dict.fromkeys(ids, now_ms))
        self._fresh.update(ids)
        self._order.append((now_ms, list(ids)))

    def wanting(self, ids: set[str], stale_before: int | None) -> set[str]:
        """Return those of `ids` that were never read, or not since `stale_before` (ms; None: whenever will do)."""
        if stale_before is None:
            return ids.difference(self._read)
        while self._order and self._order[0][0] <= stale_before:
            at, old = self._order.popleft()
            self._fresh.difference_update([id_ for id_ in old if self._read.get(id_) == at])
        return ids - self._fresh

    def trim(self, most: int) -> None:
        """Forget all where more than `most` are known."""
        if len(self._read) > most:
            self._read.clear()
            self._fresh.clear()
            self._order.clear()
