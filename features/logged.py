"""The events in a user's log, for people who ask: what the words of a row say of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.layout import AMOUNT, COUNT, FINEST_MS, KEY, KIND_MASK, META, TIME, UNDO_MASK
from schemas.internal import EventKind


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event of a user's log.

    `time` is its stamp (UTC ms), `session` the key of its session. `value_minor` is the money of a purchase, or what a
    return or cancellation takes back (minor units); `undo_time` the beginning (UTC ms) of the five minutes in which the
    purchase that it takes back was made, 0 for none. `price_minor` is the price that a view showed, -1 for none.
    """

    time: int
    kind: EventKind
    session: int
    value_minor: int
    undo_time: int
    price_minor: int


def logged_events(row: NDArray[np.int64]) -> list[LoggedEvent]:
    """Return the events in the log of a user's `row` (USER_WORDS,), sorted by stamp."""
    return [_event(row, at) for at in range(int(row[COUNT]))]


def _event(row: NDArray[np.int64], at: int) -> LoggedEvent:
    time, key, amount, meta = (int(row[field + at]) for field in (TIME, KEY, AMOUNT, META))
    undo = amount & UNDO_MASK
    undo_time = (time // FINEST_MS + 1 - undo) * FINEST_MS if undo else 0
    kind, money = EventKind(meta & KIND_MASK), amount >> 16
    value, price = (money, -1) if kind >= EventKind.PURCHASE else (0, money - 1)
    return LoggedEvent(time, kind, key, value, undo_time, price)
