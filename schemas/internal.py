"""What the stages tell each other over `tidecast.activity` and `tidecast.examples`: msgpack, many rows a message.

Rows are arrays, not maps: a new field goes last and has a default, so that old messages stay readable.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.wire import MAX_INT, MAX_TEXT, TIME_END, decoded

Id = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Millis = Annotated[int, Meta(ge=0, lt=TIME_END)]
Amount = Annotated[int, Meta(ge=-MAX_INT, le=MAX_INT)]
Offset = Annotated[int, Meta(ge=0)]
Watermark = Annotated[int, Meta(ge=-TIME_END, lt=TIME_END)]


class EventKind(IntEnum):
    """What happened to a product. A purchase is a click of that type or an order line placed or paid."""

    VIEW = 0
    SEARCH = 1
    ADD_TO_CART = 2
    REMOVE_FROM_CART = 3
    WISHLIST = 4
    PURCHASE = 5
    RETURN = 6
    CANCEL = 7


CLICK_KINDS: dict[str, EventKind] = {kind.name.lower(): kind for kind in EventKind if kind <= EventKind.PURCHASE}
"""The kind of each click type: ``CLICK_KINDS["view"] is EventKind.VIEW``."""


class ActivityRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one event did to one product.

    `kind` is an EventKind, `time` in UTC ms. `quantity` and `value_minor` (the line's total in minor units, 0 where
    unknown) are signed: what returns and cancellations take back is negative. `price` is per unit, -1 where unknown.
    `at` is the event time it was said at where that is after `time` (a cancellation bears the time of the purchase that
    it undoes), else 0. `visitor` is a hash of the user's id, of 32 bits, in a view by a known user, else 0: who
    views can be counted, and is not named.
    """

    product_id: Id
    category_id: Text | None
    kind: Annotated[int, Meta(ge=0, le=7)]
    time: Millis
    quantity: Amount
    value_minor: Amount
    price: Annotated[int, Meta(ge=-1, le=MAX_INT)]
    known_user: bool
    at: Millis = 0
    visitor: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0


class CategoryRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one event did to the category that it names; `kind`, `time` and `price` are those of an ActivityRow."""

    category_id: Id
    kind: Annotated[int, Meta(ge=0, le=7)]
    time: Millis
    price: Annotated[int, Meta(ge=-1, le=MAX_INT)]


class ActivityBatch(msgspec.Struct, frozen=True, gc=False):
    """The rows of one batch for one partition of activity, and the watermark (UTC ms) of the `task` that wrote it."""

    task: Offset
    tasks: Offset
    watermark: Watermark | None
    rows: list[ActivityRow]
    categories: list[CategoryRow] = []


class Example(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A vector as it was served, with all that is needed to compute it again.

    `id` is the prediction's; `as_of` in UTC ms; `vector` F little-endian float64; `offsets` the next offsets of clicks
    and orders after the event was applied; `product_version` and `category_version` the (activity partition, offset) of
    the product's and the category's row that was used; `model` is "name:version"; `facts` the next offsets of catalog
    and plan when the vector was made.
    """

    id: str
    user: Text
    as_of: Millis
    vector: bytes
    offsets: tuple[Offset, Offset]
    product_version: tuple[Offset, Offset] | None
    probability: Annotated[float, Meta(ge=0.0, le=1.0)]
    model: str
    facts: tuple[Offset, Offset] = (0, 0)
    category_version: tuple[Offset, Offset] | None = None


OutcomeKind = Literal["order", "cancel", "session_end"]


class Outcome(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Something that decides labels: an order, its cancellation, or the end of a session; `time` in UTC ms."""

    kind: OutcomeKind
    user: Text
    order_id: Text | None
    time: Millis


class ExampleBatch(msgspec.Struct, frozen=True, gc=False):
    """Examples and outcomes of one batch, in the task's order; `schema_hash` names the layout of the vectors."""

    task: Offset
    tasks: Offset
    watermark: Watermark | None
    schema_hash: str
    examples: list[Example]
    outcomes: list[Outcome]


def encode_activity(batch: ActivityBatch) -> bytes:
    """Encode as msgpack.

    >>> decode_activity(encode_activity(ActivityBatch(0, 4, 1_000, []))).watermark
    1000
    """
    return _encode(batch)


def decode_activity(data: bytes) -> ActivityBatch:
    """Decode what `encode_activity` wrote, or raise DecodeError."""
    return decoded(_activity, data)


def encode_examples(batch: ExampleBatch) -> bytes:
    """Encode as msgpack.

    >>> decode_examples(encode_examples(ExampleBatch(0, 4, None, "h", [], [Outcome("order", "u", "o", 5)]))).outcomes
    [Outcome(kind='order', user='u', order_id='o', time=5)]
    """
    return _encode(batch)


def decode_examples(data: bytes) -> ExampleBatch:
    """Decode what `encode_examples` wrote, or raise DecodeError."""
    return decoded(_examples, data)


_encode = msgspec.msgpack.Encoder().encode
_activity = msgspec.msgpack.Decoder(ActivityBatch)
_examples = msgspec.msgpack.Decoder(ExampleBatch)
