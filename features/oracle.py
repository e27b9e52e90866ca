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

from features.algebra import Decayed, Distinct, Extreme, Last, Latest, Mean, Ratio, Span, Top, Total, result
from features.columns import Event
from features.oracle_products import category_values, product_values
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
    STOCK_LIMIT,
    USER_ENTITIES,
    VALUE_LIMIT,
    Feature,
    Window,
)
from schemas.internal import ActivityRow, CategoryRow, EventKind

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
            if feature.entity in USER_ENTITIES
        }

    def vector(
        self, event: Event, activity: Sequence[ActivityRow], category: Sequence[CategoryRow] = ()
    ) -> list[float]:
        """Apply `event` and return its vector.

        `activity` and `category` are the rows of its product and of its category, up to the versions read.
        """
        values = self.apply(event) | product_values(activity, event.time, event.price_minor)
        values |= category_values(category, event.time, event.price_minor)
        values |= {
            feature.name: _context_value(feature, event, *self._shop)
            for feature in SCORE_SET
            if feature.entity == "context"
        }
        return [values[feature.name] for feature in SCORE_SET]


def oracle_vector(
    history: Iterable[Event], activity: Sequence[ActivityRow], event: Event, category: Sequence[CategoryRow] = ()
) -> list[float]:
    """Return the vector of `event`, in the order of SCORE_FEATURES.

    `history` holds the user's events applied before it, in the order of their application; `activity` and `category`
    the rows of the event's product and category up to the versions that were read.

    >>> first, second = Event("u", 0, 1_700_000_000_000, "p"), Event("u", 2, 1_700_000_001_000, "p")
    >>> vector = oracle_vector([first], [], second)
    >>> from features.sets import SCORE_FEATURES
    >>> vector[SCORE_FEATURES.index("session_events")], vector[SCORE_FEATURES.index("user_carts_1h")]
    (2.0, 1.0)
    """
    user = UserOracle()
    for known in history:
        user.skip(known)
    return user.vector(event, activity, category)


def oracle_user_summary(history: Iterable[Event]) -> dict[str, float]:
    """Return the user's and the session's features as of the latest stamp of `history`, by name.

    That is what a packed row says of itself: compare with `features.summary.user_summary`. The price ratio is that of
    no price.
    """
    memory = _Memory()
    for arrival, event in enumerate(history):
        memory.add(arrival, event)
        memory.settle()
    features = [feature for feature in SCORE_SET if feature.entity in USER_ENTITIES]
    values = {feature.name: _user_value(feature, memory, memory.log[-1]) for feature in features}
    return values | {"user_price_ratio_7d": 1.0}


@dataclass(frozen=True, slots=True)
class _Move:
    """What an event does to the counts: to which kind, by how much, what money it moves, and at which stamp."""

    kind: int
    count: int
    value: int
    time: int
    price: int = -1


def _moves(event: Event) -> list[_Move]:
    value = min(max(event.value_minor, -VALUE_LIMIT), VALUE_LIMIT)
    money = value if event.kind == EventKind.PURCHASE else 0
    moves = [_Move(event.kind, 1, money, event.time, _price(event))]
    if event.kind in (EventKind.RETURN, EventKind.CANCEL) and event.undo_time > 0:
        undone = min(event.undo_time, event.time) // FINEST_MS
        if event.time // FINEST_MS - undone < UNDO_TILES:
            moves.append(_Move(EventKind.PURCHASE, -1, -abs(value), undone * FINEST_MS))
    return moves


def _price(event: Event) -> int:
    return min(event.price_minor, VALUE_LIMIT)


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
    if feature.last is not None:
        return _last_events(feature, feature.last, memory, entry)
    now = entry.time
    codes = {KINDS[kind] for kind in feature.kinds if kind in KINDS} or set(KINDS.values())
    if feature.aggregate == "since":
        before = [*memory.flushed, *(known for known in memory.log if known < entry)]
        return result(Latest(now, MEMORY_MS), [(1, known.time) for known in before if known.event.kind in codes])
    if feature.aggregate == "last":
        before = [*memory.flushed, *(known for known in memory.log if known < entry)]
        seen = [(_price(known.event), known.time) for known in before if known.event.kind in codes]
        return result(Last(now, MEMORY_MS, scale=100), seen)
    if feature.entity == "session":
        earlier = [*memory.session, *(known for known in memory.log if known <= entry)]
        known = list(takewhile(lambda other: other.key == entry.key, reversed(earlier)))
        items = [(1, other.time) for other in known if other.event.kind in codes]
        if feature.value.startswith("price"):
            prices = [(_price(other.event), 0) for other in known if other.event.kind in codes]
            prices = [(price, time) for price, time in prices if price >= 0]
            if feature.aggregate == "mean":
                return result(Mean(scale=100), prices)
            return result(Extreme(lowest=feature.aggregate == "min", scale=100), prices)
        match feature.aggregate:
            case "count":
                return result(Total(), items)
            case "duration":
                return result(Span(now), items)
            case "mean":
                return result(Span(now, mean=True), items)
            case "seen":
                told = [other.event.product for other in reversed(known[1:]) if other.event.product]
                return float(entry.event.product in [*dict.fromkeys(told)][:DISTINCT_LIMIT])
            case _:
                products = sorted({other.event.product for other in known if other.event.product})
                return result(Distinct(DISTINCT_LIMIT), [(i, now) for i in range(len(products))])
    assert feature.window is not None, f"{feature.name}: a user's feature has a window, or is a time since"
    moves = _in_window(feature.window, memory, entry)
    if feature.value.startswith("price"):
        views = [(move.price, move.time) for move in moves if move.kind in codes and move.price >= 0]
        if feature.aggregate == "mean":
            return result(Mean(scale=100), views)
        if entry.event.kind in codes and entry.event.price_minor >= 0:
            views.remove((_price(entry.event), entry.time))
        usual = result(Mean(), views)
        return entry.event.price_minor / usual if entry.event.price_minor >= 0 and usual > 0 else 1.0
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


def _last_events(feature: Feature, most: int, memory: _Memory, entry: _Entry) -> float:
    """Return what the last `most` events up to `entry` say, as far as the log still holds them."""
    now = entry.time
    last = [known for known in memory.log if known <= entry][-most:]
    last = [known for known in last if known.time > now - MEMORY_MS]
    if feature.entity == "user":
        return result(Span(now, mean=True), [(1, known.time) for known in last])
    placed = [known for known in last if known.event.category]
    names = sorted({known.event.category or "" for known in placed})
    items = [(names.index(known.event.category or ""), known.time) for known in placed]
    if feature.aggregate == "distinct":
        return result(Distinct(most), items)
    if not entry.event.category:
        assert feature.missing is not None, f"{feature.name}: says something where the category is unknown"
        return feature.missing
    own = names.index(entry.event.category)
    same = [known for known in placed if known.event.category == entry.event.category]
    match feature.aggregate:
        case "count":
            counted = [known for known in same if known.event.kind == KINDS[feature.kinds[0]]]
            return result(Total(), [(1, known.time) for known in counted])
        case "since":
            return result(Latest(now, MEMORY_MS), [(1, known.time) for known in same if known < entry])
        case "top":
            return result(Top(own), items)
        case _:
            return result(Mean(), [(int(value == own), time) for value, time in items])


def _context_value(feature: Feature, event: Event, timezone: str, country: str | None) -> float:
    """Return what the event itself says, and the shop's calendar of it."""
    if feature.name == "event_price":
        return max(event.price_minor, 0) / 100
    if feature.name == "event_abroad":
        nations = [(text or "").lower().split("-")[0] for text in (event.country, country)]
        return float(nations[0] != nations[1]) if all(nations) else -1.0
    if feature.value == "channel":
        return float((event.channel or "").lower() == feature.name.removeprefix("event_is_"))
    if feature.name.startswith("event_is_"):
        return float(event.kind == KINDS[feature.kinds[0]])
    if feature.name.startswith("market_"):
        return _market_value(feature.name, event)
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


def _market_value(name: str, event: Event) -> float:
    """Return what catalog and plan, as the event brings them, make of it."""
    match name:
        case "market_promotion":
            return event.promotion
        case "market_stock":
            return min(event.stock, STOCK_LIMIT)
        case "market_out_of_stock":
            return float(event.stock == 0)
        case _:
            price = event.price_minor if event.price_minor >= 0 else event.plan_minor
            if price < 0 or event.list_minor <= 0:
                return 0.0
            return max((event.list_minor - price) / event.list_minor, -1.0)


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
