"""The oracle: every feature by brute force from raw events, in plain Python, for tests and verification.

It says in the simplest words what the kernels must compute, and shares none of their arrays: it keeps lists of events,
looks at all of them for each feature, and feeds those that count to the declared aggregate of `features.algebra`.
"""

from __future__ import annotations

import math
from bisect import insort
from calendar import isleap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo

import holidays

from features.algebra import Decayed, Distinct, Latest, Ratio, Span, Total, result
from features.columns import Event
from features.oracle_products import product_values
from features.sets import (
    DISTINCT_LIMIT,
    HOLIDAY_LIMIT,
    LOG_LENGTH,
    MEMORY_MS,
    MINUTE,
    SCORE_SET,
    SECOND,
    SESSION_GAP_MS,
    SESSION_PERIOD_MS,
    VALUE_LIMIT,
    Feature,
    Window,
)
from schemas.internal import ActivityRow, EventKind

KINDS = {kind.name.lower(): int(kind) for kind in EventKind}
FINEST_MS = 5 * MINUTE
UNDO_TILES = 0xFFFF
"""A purchase longer ago than this many tiles of five minutes is in no window: nothing to undo."""
Key = tuple[str | int, ...]


@dataclass(order=True, slots=True)
class _Entry:
    time: int
    arrival: int
    event: Event = field(compare=False)
    key: Key = field(default=(), compare=False)


@dataclass(slots=True)
class _Memory:
    """What is known of a user: the events that left the log, in the order in which they did, and the log."""

    flushed: list[_Entry] = field(default_factory=list)
    log: list[_Entry] = field(default_factory=list)
    newest: int = -1
    session: list[_Entry] = field(default_factory=list)
    """The events that left the log and belong to the session of the latest of them."""

    def add(self, arrival: int, event: Event) -> _Entry:
        """Insert an event by its stamp and tell which session each event of the log belongs to."""
        entry = _Entry(event.time, arrival, event)
        insort(self.log, entry)
        before = self.newest, self.session[0].key if self.session else ()
        for known in self.log:
            period = known.time // SESSION_PERIOD_MS
            if known.event.session:
                known.key = (known.event.session, period)
            else:
                near = before[0] >= 0 and abs(known.time - before[0]) <= SESSION_GAP_MS
                joins = near and before[0] // SESSION_PERIOD_MS == period
                known.key = before[1] if joins else ("", known.time)
            if known.time >= self.newest:
                before = known.time, known.key
        return entry

    def settle(self) -> None:
        """Let the oldest event leave the log if there are too many."""
        if len(self.log) <= LOG_LENGTH:
            return
        entry = self.log.pop(0)
        self.flushed.append(entry)
        if self.session and entry.key == self.session[0].key:
            self.session.append(entry)
        elif entry.time >= self.newest:
            self.session = [entry]
        self.newest = max(self.newest, entry.time)


class UserOracle:
    """One user, fed event by event in the order of application."""

    def __init__(self, timezone: str = "UTC", country: str | None = None) -> None:
        self._memory = _Memory()
        self._arrival = 0
        self._shop = timezone, country

    def skip(self, event: Event) -> _Entry:
        """Apply `event`, whose features are not asked for."""
        self._arrival += 1
        self._memory.settle()
        return self._memory.add(self._arrival, event)

    def apply(self, event: Event) -> dict[str, float]:
        """Apply `event` and return the user's and the session's features as of it, by name."""
        entry = self.skip(event)
        return {
            feature.name: _user_value(feature, self._memory, entry)
            for feature in SCORE_SET
            if feature.entity in ("user", "session")
        }

    def vector(self, event: Event, activity: Sequence[ActivityRow]) -> list[float]:
        """Apply `event` and return its vector; `activity` are the rows of its product, up to the version read."""
        values = self.apply(event) | product_values(activity, event.time, event.price_minor)
        values |= {
            feature.name: _context_value(feature, event, *self._shop)
            for feature in SCORE_SET
            if feature.entity == "context"
        }
        return [values[feature.name] for feature in SCORE_SET]


def oracle_vector(history: Iterable[Event], activity: Sequence[ActivityRow], event: Event) -> list[float]:
    """Return the vector of `event`, in the order of SCORE_FEATURES.

    `history` holds the user's events applied before it, in the order of their application; `activity` the rows of the
    event's product up to the version that was read.

    >>> first, second = Event("u", 0, 1_700_000_000_000, "p"), Event("u", 2, 1_700_000_001_000, "p")
    >>> vector = oracle_vector([first], [], second)
    >>> from features.sets import SCORE_FEATURES
    >>> vector[SCORE_FEATURES.index("session_events")], vector[SCORE_FEATURES.index("user_carts_1h")]
    (2.0, 1.0)
    """
    user = UserOracle()
    for known in history:
        user.skip(known)
    return user.vector(event, activity)


def oracle_user_summary(history: Iterable[Event]) -> dict[str, float]:
    """Return the user's and the session's features as of the latest stamp of `history`, by name.

    That is what a packed row says of itself: compare with `features.summary.user_summary`.
    """
    memory = _Memory()
    for arrival, event in enumerate(history):
        memory.add(arrival, event)
        memory.settle()
    features = [feature for feature in SCORE_SET if feature.entity in ("user", "session")]
    return {feature.name: _user_value(feature, memory, memory.log[-1]) for feature in features}


@dataclass(frozen=True, slots=True)
class _Move:
    """What an event does to the counts: to which kind, by how much, what money it moves, and at which stamp."""

    kind: int
    count: int
    value: int
    time: int


def _moves(event: Event) -> list[_Move]:
    value = min(max(event.value_minor, -VALUE_LIMIT), VALUE_LIMIT)
    moves = [_Move(event.kind, 1, value if event.kind == EventKind.PURCHASE else 0, event.time)]
    if event.kind in (EventKind.RETURN, EventKind.CANCEL) and event.undo_time > 0:
        undone = min(event.undo_time, event.time) // FINEST_MS
        if event.time // FINEST_MS - undone < UNDO_TILES:
            moves.append(_Move(EventKind.PURCHASE, -1, -abs(value), undone * FINEST_MS))
    return moves


def _in_window(window: Window, memory: _Memory, entry: _Entry) -> list[_Move]:
    """Return what counts in a user's window as of `entry`.

    Of the log, whatever is not stamped later. Of what left it, the tiles up to that of the event (its own tile whole),
    as far as their ring, which ends at the newest that left, still holds them.
    """
    now = entry.time // window.tile_ms
    newest = memory.newest // window.tile_ms
    moves = [move for known in memory.log if known <= entry for move in _moves(known.event)]
    moves = [move for move in moves if move.time // window.tile_ms > now - window.tiles]
    for move in (move for known in memory.flushed for move in _moves(known.event)):
        if max(now, newest) - window.tiles < move.time // window.tile_ms <= now:
            moves.append(move)
    return moves


def _user_value(feature: Feature, memory: _Memory, entry: _Entry) -> float:
    """Return a user's or a session's feature as of `entry`, which is in the log."""
    now = entry.time
    codes = {KINDS[kind] for kind in feature.kinds if kind in KINDS} or set(KINDS.values())
    if feature.aggregate == "since":
        before = [*memory.flushed, *(known for known in memory.log if known < entry)]
        return result(Latest(now, MEMORY_MS), [(1, known.time) for known in before if known.event.kind in codes])
    if feature.entity == "session":
        earlier = [*memory.session, *(known for known in memory.log if known <= entry)]
        known = list(takewhile(lambda other: other.key == entry.key, reversed(earlier)))
        items = [(1, other.time) for other in known if other.event.kind in codes]
        match feature.aggregate:
            case "count":
                return result(Total(), items)
            case "duration":
                return result(Span(now), items)
            case "mean":
                return result(Span(now, mean=True), items)
            case _:
                products = sorted({other.event.product for other in known if other.event.product})
                return result(Distinct(DISTINCT_LIMIT), [(i, now) for i in range(len(products))])
    assert feature.window is not None, f"{feature.name}: a user's feature has a window, or is a time since"
    moves = _in_window(feature.window, memory, entry)
    match feature.aggregate:
        case "count":
            kind = KINDS[feature.kinds[0]]
            return result(Total(), [(move.count, move.time) for move in moves if move.kind == kind])
        case "sum":
            return result(Total(scale=100), [(move.value, move.time) for move in moves])
        case "decayed":
            assert feature.half_life_ms is not None, f"{feature.name}: a decayed sum has a half-life"
            decayed = Decayed(now, feature.window.tile_ms, feature.window.tiles, feature.half_life_ms)
            return result(decayed, [(move.count, move.time) for move in moves if move.kind in codes])
        case _:
            assert feature.prior is not None, f"{feature.name}: a ratio has a prior"
            below, both = EventKind.PURCHASE, (EventKind.RETURN, EventKind.CANCEL)
            items = [(2 * move.count, move.time) for move in moves if move.kind == below]
            items += [(3, move.time) for move in moves if move.kind in both]
            return result(Ratio(*feature.prior), items)


def _context_value(feature: Feature, event: Event, timezone: str, country: str | None) -> float:
    """Return what the event itself says, and the shop's calendar of it."""
    if feature.name == "event_price":
        return max(event.price_minor, 0) / 100
    if feature.name.startswith("event_is_"):
        return float(event.kind == KINDS[feature.kinds[0]])
    clock = datetime.fromtimestamp(event.time // SECOND, UTC).astimezone(ZoneInfo(timezone))
    match feature.name.partition("_")[0]:
        case "days":
            return float(_days_to_holiday(clock.date(), country))
        case "hour":
            turn = (clock.hour * 60 + clock.minute) / 1440
        case "weekday":
            turn = (clock.weekday() * 24 + clock.hour) / 168
        case _:
            turn = (clock.timetuple().tm_yday - 1) / (366 if isleap(clock.year) else 365)
    return math.sin(math.tau * turn) if feature.name.endswith("sin") else math.cos(math.tau * turn)


def _days_to_holiday(day: date, country: str | None) -> int:
    if country is None:
        return HOLIDAY_LIMIT
    found = _public_holidays(country)
    ahead = [wait for wait in range(HOLIDAY_LIMIT) if day + timedelta(days=wait) in found]
    return min(ahead, default=HOLIDAY_LIMIT)


@lru_cache(maxsize=8)
def _public_holidays(country: str) -> holidays.HolidayBase:
    name, _, part = country.partition("-")
    return holidays.country_holidays(name, subdiv=part or None)
