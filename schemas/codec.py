"""The hot path of the inputs: bytes to frozen structs, about a microsecond for a click.

`schemas.events` is the contract; a property test shows that both accept and refuse the same bytes and agree on the
values. A struct decoded here is valid: strings within their limits, `time` in UTC milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from schemas.wire import (
    ARRAY,
    MAX_BYTES,
    MAX_COVARIATES,
    MAX_INT,
    MAX_LINES,
    MAX_QUANTITY,
    MAX_TEXT,
    SHALLOW_BYTES,
    TIME_END,
    DecodeError,
    check_size,
    check_text,
    load_object,
    parse_time,
)

__all__ = [
    "Catalog",
    "Click",
    "DecodeError",
    "Marker",
    "Order",
    "OrderLine",
    "Plan",
    "decode_catalog",
    "decode_click",
    "decode_clicks",
    "decode_marker",
    "decode_order",
    "decode_plan",
    "encode_event",
]

Id = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Currency = Annotated[str, Meta(min_length=3, max_length=3)]
Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY)]
Natural = Annotated[int, Meta(ge=0, le=MAX_INT)]
Finite = Annotated[float, Meta(ge=-1.7976931348623157e308, le=1.7976931348623157e308)]

if TYPE_CHECKING:
    Time = int
else:  # on the wire a time may be a string; what leaves a decoder is always an integer
    Time = Annotated[int, Meta(ge=0, lt=TIME_END)] | Annotated[str, Meta(max_length=MAX_TEXT)]

ClickType = Literal["view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase"]
OrderStatus = Literal["placed", "paid", "cancelled", "returned"]


class Click(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One action of a visitor; `unit_price` in minor units of `currency`."""

    event_id: Id
    type: ClickType
    time: Time
    user_id: Id | None = None
    session_id: Id | None = None
    product_id: Id | None = None
    category_id: Id | None = None
    quantity: Quantity = 1
    unit_price: Natural | None = None
    currency: Currency | None = None
    query: Text | None = None
    country: Text | None = None
    channel: Text | None = None


class OrderLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One product of an order; `amount` is the line's total, both prices in minor units of the order's currency."""

    product_id: Id
    category_id: Id | None = None
    quantity: Quantity = 1
    unit_price: Natural | None = None
    amount: Natural | None = None


class Order(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One change of an order's status. Quantities are positive; `status` says which way they count."""

    event_id: Id
    order_id: Id
    status: OrderStatus
    time: Time
    lines: Annotated[tuple[OrderLine, ...], Meta(min_length=1, max_length=MAX_LINES)]
    user_id: Id | None = None
    session_id: Id | None = None
    currency: Currency | None = None
    country: Text | None = None
    channel: Text | None = None


class Catalog(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is known of a product from `time` on."""

    event_id: Id
    product_id: Id
    time: Time
    name: Text | None = None
    category_id: Id | None = None
    unit_price: Natural | None = None
    currency: Currency | None = None
    stock: Natural | None = None


class Plan(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is known ahead of a product (of all products where `product_id` is None) from `time` on."""

    event_id: Id
    time: Time
    product_id: Id | None = None
    unit_price: Natural | None = None
    covariates: Annotated[dict[Id, Finite], Meta(max_length=MAX_COVARIATES)] = {}
    currency: Currency | None = None


class Marker(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A time marker: `source` has sent everything stamped before `time`."""

    time: Time
    source: Id


def decode_click(data: bytes, max_bytes: int = MAX_BYTES) -> Click:
    """Decode a click event, or raise DecodeError.

    >>> decode_click(b'{"event_id": "e1", "type": "view", "time": "2014-04-01T03:00:00Z", "product_id": "p"}').time
    1396321200000
    """
    try:
        if len(data) > max_bytes:
            check_size(data, max_bytes)
        click = _decode_click(data)
        if not data.isascii() or len(data) > SHALLOW_BYTES or ARRAY in data:
            check_text(data)
    except _REFUSED:
        click = _decode_slowly(data, Click, max_bytes)
    if _BACKSLASH in data and b"\\u0000" in data:
        _refuse_nul(click)
    _finish_click(click)
    return click


def decode_clicks(values: Sequence[bytes], max_bytes: int = MAX_BYTES) -> list[Click] | None:
    """Decode many click events in half the time; None where one of them may be refused: then go one by one.

    >>> decode_clicks([b'{"event_id": "e1", "type": "search", "time": 5}'] * 2)[1].time
    5
    >>> decode_clicks([b'{"event_id": "e1", "type": "search",', b'"time": 5}']) is None
    True
    """
    lengths = list(map(len, values))
    if not lengths or not min(lengths) or max(lengths) > max_bytes:
        return None
    joined = _one_a_line(values) or _one_a_line([value.strip(b" \t\r\n") for value in values])
    if joined is None:
        return None
    try:
        if not joined.isascii() or max(lengths) > SHALLOW_BYTES or ARRAY in joined:
            for data in values:
                check_text(data)
        clicks = _decode_click_lines(joined)
        if len(clicks) != len(values) or (_BACKSLASH in joined and b"\\u0000" in joined):
            return None
        for click in clicks:
            if (
                click.time.__class__ is not int
                or click.quantity != 1
                or click.product_id is None
                or click.currency not in _CURRENCIES
            ):
                _finish_click(click)
    except _REFUSED:
        return None
    return clicks


def _one_a_line(values: Sequence[bytes]) -> bytes | None:
    """Join values by line ends, None where they may not be one object a line.

    No line ends within an object, and what begins and ends with braces where lines do, and is as many values as lines,
    is one object a line: no line can be made whole by its neighbour.
    """
    joined = b"\n".join(values)
    if joined.count(b"\n") >= len(values) or not all(values):
        return None
    return joined if {*map(_first, values)} == _OPENING and {*map(_last, values)} == _CLOSING else None


def decode_order(data: bytes, max_bytes: int = MAX_BYTES) -> Order:
    """Decode an order event, or raise DecodeError."""
    order = _decode(data, Order, _decode_order, max_bytes)
    if order.currency is not None:
        _check_currency(order.currency)
    for number, line in enumerate(order.lines):
        if line.quantity != 1 and line.unit_price is not None:
            _check_value(line.quantity, line.unit_price, f"$.lines[{number}].unit_price")
    return order


def decode_catalog(data: bytes, max_bytes: int = MAX_BYTES) -> Catalog:
    """Decode a catalog entry, or raise DecodeError."""
    entry = _decode(data, Catalog, _decode_catalog, max_bytes)
    if entry.currency is not None:
        _check_currency(entry.currency)
    return entry


def decode_plan(data: bytes, max_bytes: int = MAX_BYTES) -> Plan:
    """Decode a plan entry, or raise DecodeError."""
    entry = _decode(data, Plan, _decode_plan, max_bytes)
    if entry.currency is not None:
        _check_currency(entry.currency)
    return entry


def decode_marker(data: bytes, max_bytes: int = MAX_BYTES) -> Marker:
    """Decode a time marker, or raise DecodeError."""
    return _decode(data, Marker, _decode_marker, max_bytes)


def encode_event(event: Click | Order | Catalog | Plan | Marker) -> bytes:
    """Encode an event as JSON; fields at their defaults are left out. The inverse of decoding for valid events.

    >>> encode_event(Marker(time=5, source="replay"))
    b'{"time":5,"source":"replay"}'
    """
    return _encode(event)


_E = TypeVar("_E", Click, Order, Catalog, Plan, Marker)
_REFUSED = (msgspec.MsgspecError, ValueError, RecursionError)  # a DecodeError is a ValueError
_first, _last = itemgetter(0), itemgetter(-1)
_OPENING, _CLOSING = set(b"{"), set(b"}")
_BACKSLASH = ord("\\")
_CURRENCIES: set[str | None] = {None}
"""Codes that were seen to be such: there are no more than 26³."""
_encode = msgspec.json.Encoder().encode
_decode_click = msgspec.json.Decoder(Click).decode
_decode_click_lines = msgspec.json.Decoder(Click).decode_lines
_decode_order = msgspec.json.Decoder(Order).decode
_decode_catalog = msgspec.json.Decoder(Catalog).decode
_decode_plan = msgspec.json.Decoder(Plan).decode
_decode_marker = msgspec.json.Decoder(Marker).decode


def _decode(data: bytes, kind: type[_E], fast: Callable[[bytes], _E], max_bytes: int) -> _E:
    try:
        check_size(data, max_bytes)
        event = fast(data)
        check_text(data)
    except _REFUSED:
        event = _decode_slowly(data, kind, max_bytes)
    if _BACKSLASH in data and b"\\u0000" in data:
        _refuse_nul(event)
    if event.time.__class__ is not int:
        _read_time(event)
    return event


def _decode_slowly(data: bytes, kind: type[_E], max_bytes: int) -> _E:
    # A field that is given twice may be wrong the first time and right the last, which is the one that counts;
    # only a reading of the whole object can tell, and can tell bytes that are no JSON from a wrong value.
    value = load_object(data, max_bytes)
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise DecodeError("invalid", str(error)) from None


def _finish_click(click: Click) -> None:
    if click.time.__class__ is not int:
        _read_time(click)
    if click.product_id is None and click.type != "search":
        raise DecodeError("invalid", "product_id: required unless type is search - at `$.product_id`")
    if click.currency is not None and click.currency not in _CURRENCIES:
        _check_currency(click.currency)
    if click.quantity != 1 and click.unit_price is not None:
        _check_value(click.quantity, click.unit_price, "$.unit_price")


def _read_time(event: Click | Order | Catalog | Plan | Marker) -> None:
    text: Any = event.time
    try:
        force_setattr(event, "time", parse_time(text))
    except ValueError as error:
        raise DecodeError("invalid", f"{error} - at `$.time`") from None


def _check_currency(code: str) -> None:
    if not (code.isascii() and code.isalpha() and code.isupper()):
        raise DecodeError("invalid", f"not three capital letters: {code!r} - at `$.currency`")
    _CURRENCIES.add(code)


def _check_value(quantity: int, unit_price: int, where: str) -> None:
    if quantity * unit_price > MAX_INT:
        raise DecodeError("invalid", f"quantity × unit_price is more than 2^53 - at `{where}`")


def _refuse_nul(event: Any) -> None:
    # Rare enough to look at everything: the escape may also stand in a field that nobody reads.
    def walk(value: Any, where: str) -> None:
        if isinstance(value, str):
            if "\0" in value:
                raise DecodeError("invalid", f"contains NUL - at `{where}`")
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(key, where)
                walk(item, f"{where}.{key}")
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                walk(item, f"{where}[{number}]")

    walk(msgspec.to_builtins(event), "$")
