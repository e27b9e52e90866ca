"""Purchase predictions joined with purchases: each is judged once, when its outcome can no longer change.

A prediction came true if its user bought within the horizon after it, ``as_of < time <= as_of + horizon``, by an order
not cancelled when the allowed lateness after the horizon is over. That is when it is judged, positives too: judging
those as they happen would make the figures of the last hour too good.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from streams.control.facts import Bought, Cancelled

# Predictions may come this many times (horizon + lateness) after the watermark has passed them.
_MEMORY = 3


class Judged(NamedTuple):
    """A prediction and its outcome."""

    model: str
    version: str
    as_of: int
    probability: float
    positive: bool


class _Pending(NamedTuple):
    due: int
    sequence: int
    user: str
    as_of: int
    until: int
    probability: float
    model: str
    version: str


@dataclass(slots=True)
class _Purchase:
    time: int
    cancelled_at: int | None = None


@dataclass(slots=True)
class Skipped:
    """Predictions that were not judged, by reason."""

    outcome_unknown: int = 0
    no_room: int = 0


@dataclass(slots=True)
class PurchaseJoin:
    """Feed it purchases and predictions in any order, then `advance`. Holds at most `limit` of each.

    `forgotten` is the event time before which purchases may be missing; predictions as of before it are skipped.
    """

    lateness_ms: int
    limit: int
    forgotten: int = -1
    skipped: Skipped = field(default_factory=Skipped)
    _heap: list[_Pending] = field(default_factory=list)
    _sequence: int = 0
    _span: int = 0
    _purchases: dict[str, list[_Purchase]] = field(default_factory=dict)
    _ages: list[tuple[int, str]] = field(default_factory=list)
    _orders: dict[tuple[str, str], _Purchase] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """Predictions that wait for their outcome."""
        return len(self._heap)

    def predict(
        self, user: str, as_of: int, horizon_ms: int, probability: float, model: str = "", version: str = ""
    ) -> None:
        """Take a prediction; with no room, the one that is due last goes unjudged."""
        self._span = max(self._span, horizon_ms + self.lateness_ms)
        until = as_of + horizon_ms
        self._sequence += 1
        due = until + self.lateness_ms
        heappush(self._heap, _Pending(due, self._sequence, user, as_of, until, probability, model, version))
        if len(self._heap) > self.limit:
            self.thin(self.limit // 2)

    def thin(self, keep: int) -> None:
        """Drop those due last, beyond `keep`: they were added last, and the sample should shrink by now."""
        self.skipped.no_room += max(0, len(self._heap) - keep)
        self._heap = sorted(self._heap)[:keep]

    def bought(self, fact: Bought) -> None:
        """Take a purchase; of an order the first status counts."""
        if fact.order_id is not None:
            known = self._orders.get((fact.user, fact.order_id))
            if known is not None:
                known.time = min(known.time, fact.time)
                return
        purchase = _Purchase(fact.time)
        self._purchases.setdefault(fact.user, []).append(purchase)
        heappush(self._ages, (fact.time, fact.user))
        if fact.order_id is not None:
            self._orders[fact.user, fact.order_id] = purchase
            if len(self._orders) > self.limit:
                del self._orders[next(iter(self._orders))]
        if len(self._ages) > self.limit:
            self._forget(sorted(self._ages)[self.limit // 4][0] + 1)

    def cancelled(self, fact: Cancelled) -> None:
        """Take a cancellation of an order known."""
        purchase = self._orders.get((fact.user, fact.order_id))
        if purchase is not None:
            at = fact.time if purchase.cancelled_at is None else min(purchase.cancelled_at, fact.time)
            purchase.cancelled_at = at

    def advance(self, watermark: int) -> list[Judged]:
        """Judge what is due by `watermark` (event time, ms): everything stamped before it has been fed."""
        judged = []
        while self._heap and self._heap[0].due < watermark:
            one = heappop(self._heap)
            if one.as_of < self.forgotten:
                self.skipped.outcome_unknown += 1
                continue
            judged.append(Judged(one.model, one.version, one.as_of, one.probability, self._happened(one)))
        if self._span:
            self._forget(watermark - _MEMORY * self._span)
        return judged

    def _happened(self, one: _Pending) -> bool:
        return any(
            one.as_of < purchase.time <= one.until
            and (purchase.cancelled_at is None or purchase.cancelled_at > one.due)
            for purchase in self._purchases.get(one.user, ())
        )

    def _forget(self, before: int) -> None:
        self.forgotten = max(self.forgotten, before)
        while self._ages and self._ages[0][0] < before:
            _, user = heappop(self._ages)
            kept = [purchase for purchase in self._purchases.get(user, ()) if purchase.time >= before]
            if kept:
                self._purchases[user] = kept
            else:
                self._purchases.pop(user, None)
