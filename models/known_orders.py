"""The orders and cancellations that a label can still hang on, by user and by order id."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from operator import attrgetter

from models.label_memory import Key, Known


class KnownOrders:
    """What is known of orders, each kept for `memory_ms` of event time after it became known.

    An order that is told again (placed, then paid) within `repeat_ms` counts once, and one that was cancelled before
    never counts. Only the last word on an order decides: so a restart, which forgets all older ones, decides alike.
    """

    def __init__(self, memory_ms: int, repeat_ms: int) -> None:
        self.unmatched_cancellations = 0
        self._memory_ms = memory_ms
        self._repeat_ms = repeat_ms
        self._orders: dict[Key | None, Known] = {}
        self._heard: dict[Key | None, Known] = {}
        self._live_of: dict[str, list[Known]] = {}
        self._expiring: deque[Known] = deque()

    def order(self, order: Known) -> bool:
        """Take an order; say whether it counts."""
        self._expiring.append(order)
        if order.key is not None:
            earlier, self._heard[order.key] = self._heard.get(order.key), order
            if earlier is not None and order.known_at - earlier.known_at <= self._repeat_ms:
                return False
            self._orders[order.key] = order
        order.live = True
        insort(self._live_of.setdefault(order.user, []), order, key=_time_and_place)
        return True

    def cancel(self, cancel: Known) -> Known | None:
        """Take a cancellation; return the order that counts no longer, if there is one."""
        self._expiring.append(cancel)
        self._heard[cancel.key] = cancel
        order = self._orders.get(cancel.key)
        if order is None:
            self.unmatched_cancellations += 1
        elif order.live:
            self._end(order)
            return order
        return None

    def first(self, user: str, after: int, until: int) -> Known | None:
        """Return a user's first order that counts with ``after < time <= until`` (UTC ms)."""
        orders = self._live_of.get(user, [])
        place = bisect_right(orders, after, key=_time)
        return orders[place] if place < len(orders) and orders[place].time <= until else None

    def next_expiry(self) -> int | None:
        """Return when (UTC ms) the oldest is forgotten."""
        return self._expiring[0].known_at + self._memory_ms if self._expiring else None

    def expire(self) -> None:
        """Forget the oldest."""
        known = self._expiring.popleft()
        known.message.needed -= 1
        for memory in (self._orders, self._heard):
            if known.key is not None and memory.get(known.key) is known:
                del memory[known.key]
        if known.live:
            self._end(known)

    def _end(self, order: Known) -> None:
        order.live = False
        orders = self._live_of[order.user]
        del orders[bisect_left(orders, _time_and_place(order), key=_time_and_place)]
        if not orders:
            del self._live_of[order.user]


_time = attrgetter("time")
_time_and_place = attrgetter("time", "place")
