"""The contract of the inputs: clicks, orders, catalog, plan and time markers as pydantic models.

The published JSON Schemas come from here. The hot path decodes with `schemas.codec` instead, which accepts and refuses
the same bytes as the `parse_*` functions below; both begin with the grammar of `schemas.wire`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from schemas.wire import (
    MAX_BYTES,
    MAX_COVARIATES,
    MAX_INT,
    MAX_LINES,
    MAX_QUANTITY,
    MAX_TEXT,
    TIME_END,
    DecodeError,
    load_object,
    parse_time,
)

_NO_NUL = r"^[^\x00]*$"


def _read_time(value: Any) -> Any:
    return parse_time(value) if isinstance(value, str) else value


Id = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=_NO_NUL)]
Text = Annotated[str, Field(max_length=MAX_TEXT, pattern=_NO_NUL)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", min_length=3, max_length=3)]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
Natural = Annotated[int, Field(ge=0, le=MAX_INT)]
Millis = Annotated[int, Field(ge=0, lt=TIME_END)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[
    Millis,
    BeforeValidator(_read_time),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "exclusiveMaximum": TIME_END},
                {"type": "string", "format": "date-time", "maxLength": MAX_TEXT},
            ]
        }
    ),
]

_PRICE = "price of one piece, in minor units of `currency`"
_CURRENCY = "ISO 4217 code"


class Contract(BaseModel):
    """Base of every model that crosses a wire: frozen, without coercion, blind to fields it does not know."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class ClickEvent(Contract):
    """One action of a visitor."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["type"], "properties": {"type": {"const": "search"}}},
            "else": {"required": ["product_id"], "properties": {"product_id": {"type": "string"}}},
        }
    )

    event_id: Id = Field(description="unique; a repeated id counts once")
    type: Literal["view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase"] = Field(
        description="what the visitor did"
    )
    time: Time = Field(description="when it happened: UTC ms since 1970, or RFC 3339 with an offset")
    user_id: Id | None = Field(None, description="null: unknown; such an event moves product features only")
    session_id: Id | None = Field(None, description="the visit it belongs to")
    product_id: Id | None = Field(None, description="required unless `type` is search")
    category_id: Id | None = Field(None, description="the product's category")
    quantity: Quantity = Field(1, description="pieces")
    unit_price: Natural | None = Field(None, description=_PRICE)
    currency: Currency | None = Field(None, description=_CURRENCY)
    query: Text | None = Field(None, description="what was searched for")
    country: Text | None = Field(None, description="where the visitor is")
    channel: Text | None = Field(None, description="how the visitor came, such as web or app")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.product_id is None and self.type != "search":
            raise ValueError("product_id: required unless type is search")
        _check_value(self.quantity, self.unit_price)
        return self


class OrderLine(Contract):
    """One product of an order."""

    product_id: Id = Field(description="the product")
    category_id: Id | None = Field(None, description="its category")
    quantity: Quantity = Field(1, description="pieces, positive whatever the order's status")
    unit_price: Natural | None = Field(None, description=_PRICE)
    amount: Natural | None = Field(None, description="total of the line as charged, in minor units of `currency`")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _check_value(self.quantity, self.unit_price)
        return self


class OrderEvent(Contract):
    """One change of an order's status."""

    event_id: Id = Field(description="unique; a repeated id counts once")
    order_id: Id = Field(description="of the order; a return is matched to its purchase by it")
    status: Literal["placed", "paid", "cancelled", "returned"] = Field(description="what the order became")
    time: Time = Field(description="when it became that: UTC ms since 1970, or RFC 3339 with an offset")
    user_id: Id | None = Field(None, description="null: unknown")
    session_id: Id | None = Field(None, description="the visit it was placed in")
    lines: Annotated[tuple[OrderLine, ...], Field(strict=False)] = Field(
        min_length=1, max_length=MAX_LINES, description="the products concerned by this change"
    )
    currency: Currency | None = Field(None, description=_CURRENCY)
    country: Text | None = Field(None, description="where the buyer is")
    channel: Text | None = Field(None, description="how the buyer came, such as web or app")


class CatalogEntry(Contract):
    """What is known of a product from `time` on."""

    event_id: Id = Field(description="unique; a repeated id counts once")
    product_id: Id = Field(description="the product")
    time: Time = Field(description="valid from: UTC ms since 1970, or RFC 3339 with an offset")
    name: Text | None = Field(None, description="what it is called")
    category_id: Id | None = Field(None, description="its category")
    unit_price: Natural | None = Field(None, description=_PRICE)
    currency: Currency | None = Field(None, description=_CURRENCY)
    stock: Natural | None = Field(None, description="pieces on hand; null: not tracked")


class PlanEntry(Contract):
    """What is known ahead of a product from `time` on: a price to come, a promotion."""

    event_id: Id = Field(description="unique; a repeated id counts once")
    product_id: Id | None = Field(None, description="the product; null: all of them")
    time: Time = Field(description="valid from: UTC ms since 1970, or RFC 3339 with an offset")
    unit_price: Natural | None = Field(None, description="planned price of one piece, in minor units of `currency`")
    currency: Currency | None = Field(None, description=_CURRENCY)
    covariates: dict[Id, Finite] = Field(
        default_factory=dict, max_length=MAX_COVARIATES, description="named numbers, such as promotion = 1"
    )


class TimeMarker(Contract):
    """A record of the header `tidecast-marker`: its source has sent everything stamped before `time`."""

    time: Time = Field(description="UTC ms since 1970, or RFC 3339 with an offset")
    source: Id = Field(description="who says so, such as a task or a replay")


def parse_click(data: bytes, max_bytes: int = MAX_BYTES) -> ClickEvent:
    """Read a click event by the contract, or raise DecodeError.

    >>> parse_click(b'{"event_id": "e1", "type": "view", "time": 0}')
    Traceback (most recent call last):
    schemas.wire.DecodeError: invalid: product_id: required unless type is search - at `$`
    """
    return _parse(ClickEvent, data, max_bytes)


def parse_order(data: bytes, max_bytes: int = MAX_BYTES) -> OrderEvent:
    """Read an order event by the contract, or raise DecodeError."""
    return _parse(OrderEvent, data, max_bytes)


def parse_catalog(data: bytes, max_bytes: int = MAX_BYTES) -> CatalogEntry:
    """Read a catalog entry by the contract, or raise DecodeError."""
    return _parse(CatalogEntry, data, max_bytes)


def parse_plan(data: bytes, max_bytes: int = MAX_BYTES) -> PlanEntry:
    """Read a plan entry by the contract, or raise DecodeError."""
    return _parse(PlanEntry, data, max_bytes)


def parse_marker(data: bytes, max_bytes: int = MAX_BYTES) -> TimeMarker:
    """Read a time marker by the contract, or raise DecodeError."""
    return _parse(TimeMarker, data, max_bytes)


_M = TypeVar("_M", bound=Contract)


def _parse(model: type[_M], data: bytes, max_bytes: int) -> _M:
    value = load_object(data, max_bytes)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise DecodeError("invalid", explain(error)) from None


def explain(error: ValidationError) -> str:
    """Return the first thing wrong, in the form of the codec's details: the rule, then the place."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"{first['msg'].removeprefix('Value error, ')} - at `${place}`"


def _check_value(quantity: int, unit_price: int | None) -> None:
    if unit_price is not None and quantity * unit_price > MAX_INT:
        raise ValueError("quantity × unit_price is more than 2^53")
