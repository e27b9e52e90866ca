"""The door's rules in the plainest words: what a score task accepts of its inputs, in which order, and what it does.

It shares nothing with the runtime's merge, watermark and repeated ids, so that the two can be held against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from features.columns import Event
from schemas.codec import Click, DecodeError, Order, OrderLine, decode_click, decode_marker, decode_order
from schemas.internal import CLICK_KINDS, EventKind
from streams.records import CLICKSTREAM, MARKER_HEADER, UNREADABLE_HEADER, Record, is_redriven
from streams.settings import Settings
from streams.topologies.orderbook import Bought, OrderBook, line_value

_TIDY_AT = 100_000


@dataclass(frozen=True, slots=True)
class Applied:
    """An accepted event in its task's order.

    `positions` are the next offsets of clicks and orders after it, as far as either was accepted; `watermark` is the
    task's before it (UTC ms, -1: none yet).
    """

    item: Click | Order
    offset: int
    positions: tuple[int, int]
    watermark: int
    redriven: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that its task does not accept: the reason of its dead letter, or "duplicate"."""

    record: Record
    reason: str


def accepted(
    clicks: Iterable[Record], orders: Iterable[Record], settings: Settings, *, closed: bool = False
) -> Iterator[Applied]:
    """Yield what a task accepts of its two inputs: in order of event time, nothing future, late or repeated.

    See `judged`.
    """
    for one in judged(clicks, orders, settings, closed=closed):
        if isinstance(one, Applied):
            yield one


def judged(
    clicks: Iterable[Record], orders: Iterable[Record], settings: Settings, *, closed: bool = False
) -> Iterator[Applied | Refused]:
    """Yield what becomes of each record of a task's two inputs, but for time markers that can be read.

    Where one input ends, the rest of the other waits for it, as it does in the task. `closed`: both are cut where the
    task had come to, so all of both was taken.

    >>> from streams.records import Input
    >>> def record(offset, time):
    ...     value = b'{"event_id": "%d", "type": "view", "time": %d, "product_id": "p"}' % (offset, time)
    ...     return Record(Input("clickstream", 0), offset, None, value, 2_000_000)
    >>> clicks = [record(0, 1_000_000), record(1, 999_000), record(2, 1_000)]  # the last one is late
    >>> [(one.item.time, one.positions) for one in accepted(clicks, [], Settings(), closed=True)]
    [(1000000, (1, 0)), (999000, (2, 0))]
    >>> [one.reason for one in judged(clicks, [], Settings(), closed=True) if isinstance(one, Refused)]
    ['late']
    """
    lateness = settings.time.allowed_lateness_s * 1_000
    inputs = [_Queue(clicks, settings), _Queue(orders, settings)]
    watermark = clock = -1
    positions = (0, 0)
    seen: dict[tuple[int, str], int] = {}
    tidy_at = _TIDY_AT
    while any(queue.head for queue in inputs) if closed else all(queue.head for queue in inputs):
        rank = min((rank for rank in (0, 1) if inputs[rank].head), key=lambda rank: (inputs[rank].time, rank))
        head = inputs[rank].pop()
        if head.item is None:
            if head.refused is not None:
                yield Refused(head.record, head.refused)
            else:
                clock = max(clock, head.time)
                watermark = max(watermark, clock - lateness, head.time if head.marker == b"end" else -1)
            continue
        item, offset = head.item, head.record.offset
        redriven = is_redriven(head.record)
        if item.time < watermark and not redriven:
            yield Refused(head.record, "late")
            continue
        first = seen.get((rank, item.event_id))
        if first is not None and first >= watermark:
            yield Refused(head.record, "duplicate")
            continue
        # What is redriven counts as said now: so long is its repeat known.
        seen[rank, item.event_id] = max(item.time, clock) if redriven else item.time
        positions = (offset + 1, positions[1]) if rank == 0 else (positions[0], offset + 1)
        yield Applied(item, offset, positions, watermark, redriven)
        clock = max(clock, item.time)
        watermark = max(watermark, clock - lateness)
        if len(seen) > tidy_at:
            seen = {key: time for key, time in seen.items() if time >= watermark}
            tidy_at = max(_TIDY_AT, 2 * len(seen))


def events_of(item: Click | Order, book: OrderBook, watermark: int) -> list[Event]:
    """Return what an event accepted at a watermark does to its user's features; an order changes its customer's `book`.

    >>> [event.kind for event in events_of(Click("e", "view", 5, user_id="u", product_id="p"), OrderBook(), -1)]
    [0]
    """
    user, session = item.user_id or "", item.session_id

    def event(kind: int, of: Click | OrderLine | Bought, quantity: int, value: int, price: int, undo: int = 0) -> Event:
        told = quantity, value, price, undo, item.country, item.channel
        return Event(user, int(kind), item.time, of.product_id, session, *told, category=of.category_id)

    if isinstance(item, Click):
        kind = CLICK_KINDS[item.type]
        price = -1 if item.unit_price is None else item.unit_price
        value = price * item.quantity if kind == EventKind.PURCHASE and price >= 0 else 0
        return [event(kind, item, item.quantity, value, price)]
    at = max(item.time, watermark)
    if item.status in ("placed", "paid"):
        bought = book.purchase(item, at)
        return [event(EventKind.PURCHASE, one, one.left, one.value_minor, one.price) for one in bought]
    if item.status == "cancelled":
        undone = book.cancel(item.order_id, at)
        return [event(EventKind.CANCEL, one, one.left, one.value_minor, one.price, one.time) for one in undone]
    found = []
    for line in item.lines:
        back = book.give_back(item, line, at)
        if back:
            found.append(event(EventKind.RETURN, back, line.quantity, back.value_minor, back.price, back.time))
        else:
            price = -1 if line.unit_price is None else line.unit_price
            found.append(event(EventKind.RETURN, line, line.quantity, line_value(line), price))
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A record as read: an event, a time marker (`marker` is its kind), or refused for a reason, and in nobody's way.

    `time` is the event's own (UTC ms), 0 of what is refused.
    """

    time: int
    record: Record
    item: Click | Order | None = None
    marker: bytes | None = None
    refused: str | None = None


def opened(record: Record, settings: Settings) -> Opened:
    """Read a record of clicks or orders: what cannot be decoded, or is of the future, is refused.

    >>> from streams.records import Input
    >>> value = b'{"event_id": "1", "type": "view", "time": 1000000, "product_id": "p"}'
    >>> [opened(Record(Input("clickstream", 0), 0, None, value, at), Settings()).time for at in (1_000_000, 5)]
    [1000000, 0]
    """
    headers = dict(record.headers)
    value, latest = record.value, record.appended_at + settings.time.max_ahead_s * 1_000
    marker = headers.get(MARKER_HEADER)
    item: Click | Order | None = None
    try:
        if UNREADABLE_HEADER in headers:
            return Opened(0, record, refused="undecodable")
        if marker is not None:
            time = decode_marker(value or b"").time
        elif value is None:
            return Opened(0, record, refused="undecodable")
        else:
            click, limit = record.input.topic == CLICKSTREAM, settings.kafka.max_message_bytes
            item = decode_click(value, limit) if click else decode_order(value, limit)
            time = item.time
    except DecodeError as error:
        return Opened(0, record, refused=error.reason)
    return Opened(time, record, item, marker) if time <= latest else Opened(0, record, refused="future")


class _Queue:
    """One input, first in, first out."""

    def __init__(self, records: Iterable[Record], settings: Settings) -> None:
        self._opened = (opened(record, settings) for record in records)
        self.head = next(self._opened, None)

    @property
    def time(self) -> int:
        """Event time of the head, which is there."""
        assert self.head is not None
        return self.head.time

    def pop(self) -> Opened:
        """Take the head, which is there."""
        head = self.head
        assert head is not None
        self.head = next(self._opened, None)
        return head
