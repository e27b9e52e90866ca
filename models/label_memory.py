"""What the label clock remembers: messages of the log, examples whose label may still change, orders, cancellations."""

from __future__ import annotations

import sys
from collections import OrderedDict

import msgspec

from schemas.internal import Example, Outcome

Frontier = tuple[int, str]
"""(known-at in UTC ms, example id): every label at or below has been released."""

Place = tuple[int, int, int]
"""Partition, offset, and number in the message: where in the log something stands."""

Key = tuple[str, str]
"""User and order id."""


class Label(msgspec.Struct, frozen=True, gc=False):
    """An example whose label is known; `correction` marks a counter-example to a label released before.

    `provisional` marks a negative of the warm-up, released ahead of its time; `provided` the label that becomes known
    of such an example later.
    """

    known_at: int
    id: str
    positive: bool
    correction: bool
    schema_hash: str
    example: Example
    provisional: bool = False
    provided: bool = False

    @property
    def key(self) -> Frontier:
        """The label's place in the order of release."""
        return (self.known_at, self.id)


class Message:
    """One message of the log: how many things in memory came with it, and which of its examples are not settled."""

    __slots__ = ("anchor", "mark", "needed", "notes", "offset", "schema_hash", "unsettled")

    def __init__(self, offset: int, anchor: int, mark: int | None, schema_hash: str) -> None:
        self.offset, self.anchor, self.mark, self.schema_hash = offset, anchor, mark, sys.intern(schema_hash)
        self.needed = self.unsettled = 0
        self.notes = 0
        """Two bits, positive and provided, of each of its examples, as it left memory."""

    def note(self, number: int, positive: bool, provided: bool) -> None:
        """Note what is known of an example that leaves memory."""
        self.notes |= (positive << 2 * number) | (provided << 2 * number + 1)

    def noted(self, number: int) -> tuple[bool, bool]:
        """Return what was noted of an example: positive, provided."""
        return bool(self.notes >> 2 * number & 1), bool(self.notes >> 2 * number + 1 & 1)

    def known_at(self, time: int) -> int:
        """Return when (UTC ms) something of `time` counts as known: not behind the watermark that it came after."""
        return time if self.mark is None else max(time, self.mark)


class Partition:
    """What was heard of one partition."""

    __slots__ = ("marked", "messages", "next_offset", "waiting", "watermark")

    def __init__(self) -> None:
        self.messages: OrderedDict[int, Message] = OrderedDict()
        self.next_offset = 0
        self.waiting = 0
        """Its examples that the least watermark of all partitions has not passed yet."""
        self.watermark: int | None = None
        self.marked: int | None = None

    def message(self, offset: int, schema_hash: str) -> Message:
        """Begin a message; read again from its anchor, its outcomes meet the watermark that they met at first."""
        return Message(offset, offset if self.marked is None else self.marked, self.watermark, schema_hash)

    def heard(self, message: Message, watermark: int | None) -> None:
        """End a message; the watermark holds from the next one on."""
        self.next_offset = message.offset + 1
        if message.needed:
            self.messages[message.offset] = message
        if watermark is not None and (self.watermark is None or watermark >= self.watermark):
            self.watermark, self.marked = watermark, message.offset

    def floor(self) -> int:
        """Return the offset from which the partition must be read again."""
        messages = self.messages
        while messages:
            first = next(iter(messages.values()))
            if first.needed:
                return first.anchor
            messages.popitem(last=False)
        return self.next_offset if self.marked is None else self.marked

    def unsettled_between(self, start: int, end: int) -> bool:
        """Say whether a message in [start, end) holds an example that is not settled."""
        if end - start < len(self.messages):
            found = (self.messages.get(offset) for offset in range(start, end))
            return any(message.unsettled for message in found if message is not None)
        return any(message.unsettled for message in self.messages.values() if start <= message.offset < end)

    def first_unsettled(self) -> int:
        """Return the offset before which every example is settled."""
        self.floor()
        return next((m.offset for m in self.messages.values() if m.unsettled), self.next_offset)


class Pending:
    """An example in memory: not settled yet, or a settled positive that is open to correction.

    `at` is when (UTC ms) it counts as happened: its own time, but not behind the watermark that it came after.
    """

    __slots__ = ("as_of", "at", "example", "message", "order", "place", "positive", "provided", "settled")

    def __init__(self, example: Example, place: Place, message: Message) -> None:
        self.example, self.place, self.message = example, place, message
        self.as_of = example.as_of
        self.at = message.known_at(example.as_of)
        self.order: Known | None = None
        self.positive = self.settled = self.provided = False

    def label(self, known_at: int, *, positive: bool, correction: bool = False, provisional: bool = False) -> Label:
        """Return the label that became known."""
        example, provided = self.example, self.provided and not (provisional or correction)
        schema_hash = self.message.schema_hash
        return Label(known_at, example.id, positive, correction, schema_hash, example, provisional, provided)


class Known:
    """An order or a cancellation in memory; a live order holds the examples that it made positive."""

    __slots__ = ("examples", "key", "known_at", "live", "message", "place", "time", "user")

    def __init__(self, outcome: Outcome, place: Place, message: Message) -> None:
        self.user, self.time, self.known_at = outcome.user, outcome.time, message.known_at(outcome.time)
        self.place, self.message = place, message
        self.key = None if outcome.order_id is None else (outcome.user, outcome.order_id)
        self.live = False
        self.examples: dict[Place, Pending] = {}
