"""What the stages tell each other over `tidecast.activity` and `tidecast.examples`: msgpack, many rows a message.

Rows travel as columns, an array for each field: that costs the writer no object a row. Readers see rows, and take
messages that hold rows as well. Rows and columns are arrays, not maps: a new field goes last and has a default, in the
row as in the columns, so that old messages stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

from schemas.vectors import unpack_vectors
from schemas.wire import MAX_INT, MAX_TEXT, TIME_END, DecodeError, decoded

Id = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Millis = Annotated[int, Meta(ge=0, lt=TIME_END)]
Amount = Annotated[int, Meta(ge=-MAX_INT, le=MAX_INT)]
Offset = Annotated[int, Meta(ge=0)]
Watermark = Annotated[int, Meta(ge=-TIME_END, lt=TIME_END)]
Kind = Annotated[int, Meta(ge=0, le=7)]
Price = Annotated[int, Meta(ge=-1, le=MAX_INT)]
Hash = Annotated[int, Meta(ge=0, lt=1 << 32)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Version = tuple[Offset, Offset]


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
    kind: Kind
    time: Millis
    quantity: Amount
    value_minor: Amount
    price: Price
    known_user: bool
    at: Millis = 0
    visitor: Hash = 0


class CategoryRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one event did to the category that it names; `kind`, `time` and `price` are those of an ActivityRow."""

    category_id: Id
    kind: Kind
    time: Millis
    price: Price


class _Columns(msgspec.Struct, gc=False, array_like=True):
    """A list for each field, all of one length."""

    def __len__(self) -> int:
        return len(self._all()[0])

    def _all(self) -> list[list[Any]]:
        return [getattr(self, name) for name in self.__struct_fields__]

    def extend(self, columns: Iterable[Iterable[Any]]) -> None:
        """Add rows, given as one column for each field."""
        for mine, more in zip(self._all(), columns, strict=True):
            mine.extend(more)

    def pick(self, places: Sequence[int]) -> Self:
        """Return the rows at `places`."""
        return type(self)(*(list(map(column.__getitem__, places)) for column in self._all()))

    def part(self, start: int, stop: int) -> Self:
        """Return the rows [start, stop)."""
        return type(self)(*(column[start:stop] for column in self._all()))


class ActivityColumns(_Columns, gc=False, array_like=True):
    """Many `ActivityRow`."""

    product_id: list[Id] = []
    category_id: list[Text | None] = []
    kind: list[Kind] = []
    time: list[Millis] = []
    quantity: list[Amount] = []
    value_minor: list[Amount] = []
    price: list[Price] = []
    known_user: list[bool] = []
    at: list[Millis] = []
    visitor: list[Hash] = []

    def rows(self) -> list[ActivityRow]:
        """Return them as rows. Raises ValueError where one column is shorter than another.

        >>> columns, some = ActivityColumns(), [0, 0]
        >>> columns.extend([["a", "b"], [None, "c"], some, [5, 6], some, some, [-1, 9], [True, True], some, some])
        >>> len(columns), columns.pick([1]).rows()[0].product_id, columns.categories().rows()
        (2, 'b', [CategoryRow(category_id='c', kind=0, time=6, price=9)])
        """
        return _rows(ActivityRow, self._all())

    def categories(self) -> CategoryColumns:
        """Return what those that name a category did to it; nothing may be added to either afterwards."""
        named = [id_ for id_ in self.category_id if id_ is not None]
        if len(named) < len(self):
            return self.pick([n for n, category in enumerate(self.category_id) if category is not None]).categories()
        return CategoryColumns(named, self.kind, self.time, self.price)


class CategoryColumns(_Columns, gc=False, array_like=True):
    """Many `CategoryRow`."""

    category_id: list[Id] = []
    kind: list[Kind] = []
    time: list[Millis] = []
    price: list[Price] = []

    def rows(self) -> list[CategoryRow]:
        """Return them as rows. Raises ValueError where one column is shorter than another."""
        return _rows(CategoryRow, self._all())


class ActivityBatch(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The rows of one batch for one partition of activity, and the watermark (UTC ms) of the `task` that wrote it.

    On the wire, `columns` and `category_columns` hold what stands behind `rows` and `categories`; whoever decodes finds
    all in these.
    """

    task: Offset
    tasks: Offset
    watermark: Watermark | None
    rows: list[ActivityRow] = []
    categories: list[CategoryRow] = []
    columns: ActivityColumns | None = None
    category_columns: CategoryColumns | None = None


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
    probability: Probability
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


class ExampleColumns(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Many `Example` of one model: `vectors` are packed (`schemas.vectors`), `clicks` and `orders` their offsets."""

    id: list[str]
    user: list[Text]
    as_of: list[Millis]
    vectors: bytes
    clicks: list[Offset]
    orders: list[Offset]
    product_version: list[Version | None]
    probability: list[Probability]
    model: str
    facts: Version
    category_version: list[Version | None]

    def rows(self) -> list[Example]:
        """Return them as rows. Raises ValueError where one column is shorter than another."""
        count = len(self.id)
        _check_lengths([self.id, self.user, self.as_of, self.product_version, self.probability, self.category_version])
        vectors = list(map(bytes, unpack_vectors(self.vectors, count).astype("<f8", copy=False)))
        offsets = zip(self.clicks, self.orders, strict=True)
        models, facts = [self.model] * count, [self.facts] * count
        columns = (self.id, self.user, self.as_of, vectors, list(offsets), self.product_version, self.probability)
        return _rows(Example, [*columns, models, facts, self.category_version])


class ExampleBatch(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Examples and outcomes of one batch, in the task's order; `schema_hash` names the layout of the vectors.

    On the wire, `columns` holds what stands behind `examples`; whoever decodes finds all in these.
    """

    task: Offset
    tasks: Offset
    watermark: Watermark | None
    schema_hash: str
    examples: list[Example] = []
    outcomes: list[Outcome] = []
    columns: ExampleColumns | None = None


def encode_activity(batch: ActivityBatch) -> bytes:
    """Encode as msgpack.

    >>> decode_activity(encode_activity(ActivityBatch(0, 4, 1_000, []))).watermark
    1000
    """
    return _encode(batch)


def decode_activity(data: bytes) -> ActivityBatch:
    """Decode what `encode_activity` wrote, columns into rows, or raise DecodeError."""
    batch = decoded(_activity, data)
    if batch.columns is None and batch.category_columns is None:
        return batch
    products, categories = batch.columns or ActivityColumns(), batch.category_columns or CategoryColumns()
    with _whole():
        rows, named = batch.rows + products.rows(), batch.categories + categories.rows()
    return ActivityBatch(batch.task, batch.tasks, batch.watermark, rows, named)


def encode_examples(batch: ExampleBatch) -> bytes:
    """Encode as msgpack.

    >>> decode_examples(encode_examples(ExampleBatch(0, 4, None, "h", [], [Outcome("order", "u", "o", 5)]))).outcomes
    [Outcome(kind='order', user='u', order_id='o', time=5)]
    """
    return _encode(batch)


def decode_examples(data: bytes) -> ExampleBatch:
    """Decode what `encode_examples` wrote, columns into rows, or raise DecodeError."""
    batch = decoded(_examples, data)
    if batch.columns is None:
        return batch
    with _whole():
        examples = batch.examples + batch.columns.rows()
    return msgspec.structs.replace(batch, examples=examples, columns=None)


_Row = TypeVar("_Row", bound=msgspec.Struct)


def _rows(row: type[_Row], columns: Sequence[Sequence[Any]]) -> list[_Row]:
    # A column that an older writer did not know is empty: its rows have the default.
    defaults = row.__struct_defaults__
    known, later = columns[: len(columns) - len(defaults)], columns[len(columns) - len(defaults) :]
    pairs = zip(later, defaults, strict=True)
    whole = [*known, *(column or [default] * len(columns[0]) for column, default in pairs)]
    _check_lengths(whole)
    return list(map(row, *whole))


def _check_lengths(columns: Sequence[Sequence[Any]]) -> None:
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f"columns of {sorted(lengths)} rows")


@contextmanager
def _whole() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise DecodeError("invalid", str(error)) from None


_encode = msgspec.msgpack.Encoder().encode
_activity = msgspec.msgpack.Decoder(ActivityBatch)
_examples = msgspec.msgpack.Decoder(ExampleBatch)
