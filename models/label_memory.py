"""What the label clock remembers: messages of the log, examples whose label may still change, orders, cancellations."""

from __future__ import annotations

from collections import deque

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
    """One message of the log and how many things in memory came with it."""

    __slots__ = ("anchor", "needed", "offset", "schema_hash")

    def __init__(self, offset: int, anchor: int, schema_hash: str) -> None:
        self.offset, self.anchor, self.schema_hash = offset, anchor, schema_hash
        self.needed = 0


class Partition:
    """What was heard of one partition."""

    __slots__ = ("marked", "messages", "next_offset", "watermark")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.next_offset = 0
        self.watermark: int | None = None
        self.marked: int | None = None

    def message(self, offset: int, schema_hash: str) -> Message:
        """Begin a message; read again from its anchor, its outcomes meet the watermark that they met at first."""
        return Message(offset, offset if self.marked is None else self.marked, schema_hash)

    def heard(self, message: Message, watermark: int | None) -> None:
        """End a message; the watermark holds from the next one on."""
        self.next_offset = message.offset + 1
        if message.needed:
            self.messages.append(message)
        if watermark is not None and (self.watermark is None or watermark >= self.watermark):
            self.watermark, self.marked = watermark, message.offset

    def floor(self) -> int:
        """Return the offset from which the partition must be read again."""
        while self.messages and not self.messages[0].needed:
            self.messages.popleft()
        if self.messages:
            return self.messages[0].anchor
        return self.next_offset if self.marked is None else self.marked


class Pending:
    """An example in memory: open (no order yet), or positive and open to correction."""

    __slots__ = ("as_of", "example", "message", "order", "place", "positive", "provided", "settled")

    def __init__(self, example: Example, place: Place, message: Message) -> None:
        self.example, self.place, self.message = example, place, message
        self.as_of = example.as_of
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

    def __init__(self, outcome: Outcome, place: Place, known_at: int, message: Message) -> None:
        self.user, self.time, self.known_at = outcome.user, outcome.time, known_at
        self.place, self.message = place, message
        self.key = None if outcome.order_id is None else (outcome.user, outcome.order_id)
        self.live = False
        self.examples: list[Pending] = []
