"""SOURCE.toml: what a shop's files look like. The grammar and nothing else; reading the files is not its business.

A field is a column's name, a list of them, or a table: ``{ value = "view" }``, ``{ column = "behavior", map = { pv =
"view" } }``, ``{ column = "InvoiceNo", prefix = { C = "cancelled" }, default = "placed" }``, with ``scale``,
``missing``, ``default``, and for times ``unit`` or ``format``.

What a value goes through, in this order: no value (empty, or listed in ``missing``) becomes ``default``; then ``map``
or ``prefix``, where what is not found becomes ``default``, without one the row is unreadable; then ``scale``. A
``default`` is final: it is neither mapped nor scaled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Scalar = str | bool | int | Decimal
CLICK_TYPES = frozenset({"view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase"})
ORDER_STATUSES = frozenset({"placed", "paid", "cancelled", "returned"})


_LEAST_SCALE = Decimal("1e-9")
_A_TIME = datetime(2014, 4, 30, 21, 7, 8, tzinfo=UTC)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class FieldSpec(_Part):
    """Where one field of an event comes from: `columns`, or a constant `value`."""

    columns: tuple[str, ...] = Field((), alias="column")
    value: Scalar | None = None
    map: dict[str, Scalar] | None = None
    prefix: dict[str, Scalar] | None = None
    scale: Decimal | None = None
    missing: tuple[Scalar, ...] = ()
    default: Scalar | None = None
    unit: Literal["s", "ms"] | None = None
    format: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"column": (data,)}
        if isinstance(data, list):
            return {"column": tuple(data)}
        if isinstance(data, Mapping) and isinstance(data.get("column"), str):
            return {**data, "column": (data["column"],)}
        return data

    @model_validator(mode="after")
    def _one_origin(self) -> FieldSpec:
        if bool(self.columns) == (self.value is not None):
            raise ValueError('give either a column or a constant: "name", ["name", …], { column = … } or { value = … }')
        if self.map is not None and self.prefix is not None:
            raise ValueError("map and prefix exclude each other; keep one")
        return self

    def results(self) -> list[Scalar]:
        """Every value that the description itself can put into the field."""
        found: list[Scalar] = [] if self.value is None else [self.value]
        if self.default is not None:
            found.append(self.default)
        return [*found, *(self.map or {}).values(), *(self.prefix or {}).values()]


def _allow(*options: str) -> AfterValidator:
    always = {"columns", "value"}

    def check(field: FieldSpec) -> FieldSpec:
        for name in sorted(field.model_fields_set - always - set(options)):
            raise ValueError(f"{name} makes no sense here; this field takes " + (", ".join(options) or "a column only"))
        return field

    return AfterValidator(check)


def _one_of(allowed: frozenset[str]) -> AfterValidator:
    def check(field: FieldSpec) -> FieldSpec:
        for value in field.results():
            if value not in allowed:
                raise ValueError(f"{value!r} is none of {', '.join(sorted(allowed))}")
        return field

    return AfterValidator(check)


def _numbers(field: FieldSpec) -> FieldSpec:
    for value in (field.value, field.default):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | Decimal)):
            raise ValueError(f"{value!r} is not a number")
    if field.scale is not None and not _LEAST_SCALE <= field.scale <= 1 / _LEAST_SCALE:
        raise ValueError(f"scale {field.scale} must lie between {_LEAST_SCALE} and {1 / _LEAST_SCALE}")
    return field


def _price(field: FieldSpec) -> FieldSpec:
    for value in (field.value, field.default):
        if isinstance(value, int | Decimal) and value < 0:
            raise ValueError(f"{value} is below zero: no price is")
    return field


def _time(field: FieldSpec) -> FieldSpec:
    if len(field.columns) != 1:
        raise ValueError("a time is one column")
    if field.unit is not None and field.format is not None:
        raise ValueError("unit and format exclude each other; keep one")
    if field.format is not None:
        _check_format(field.format)
    return field


def _check_format(form: str) -> None:
    """Raise ValueError for a format that cannot tell one day from another."""
    try:
        read = datetime.strptime(_A_TIME.strftime(form), form)  # noqa: DTZ007  # only its date counts
    except (ValueError, re.error) as error:
        raise ValueError(f"format {form!r} is no strptime format ({error}); such as %d/%m/%Y %H:%M") from None
    if read.date() != _A_TIME.date():
        raise ValueError(f"format {form!r} leaves out the year, the month or the day; such as %d/%m/%Y %H:%M")
    if read.hour not in (0, _A_TIME.hour):
        raise ValueError(f"format {form!r} tells no morning from evening; give %p beside %I, or %H")
    if "%Z" in form.replace("%%", ""):
        raise ValueError(f"format {form!r}: a zone's name is not read; give its offset as %z, or the source's timezone")


_TEXT = ("map", "prefix", "missing", "default")
TextField = Annotated[FieldSpec, _allow(*_TEXT)]
NumberField = Annotated[FieldSpec, _allow("scale", "missing", "default"), AfterValidator(_numbers)]
PriceField = Annotated[NumberField, AfterValidator(_price)]
TimeField = Annotated[FieldSpec, _allow("unit", "format"), AfterValidator(_time)]
TypeField = Annotated[FieldSpec, _allow(*_TEXT), _one_of(CLICK_TYPES)]
StatusField = Annotated[FieldSpec, _allow(*_TEXT), _one_of(ORDER_STATUSES)]

_DURATION = re.compile(r"(\d+)\s*(ms|s|m|min|h|d)")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(value: Any) -> int:
    """Read a duration in milliseconds; a bare number is seconds.

    >>> duration_ms("60s"), duration_ms("5min"), duration_ms(2)
    (60000, 300000, 2000)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value * 1_000
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a duration is a number with ms, s, m, h or d, such as "60s"')
    return int(match[1]) * _UNITS_MS[match[2]]


Duration = Annotated[int, BeforeValidator(duration_ms)]


class TableSpec(_Part):
    """What all tables have: a file, and whether it is in time order (None: looked at before reading)."""

    name: ClassVar[str]
    path: Path
    sorted: bool | None = None
    time: TimeField

    def fields(self) -> dict[str, FieldSpec]:
        """The fields that are mapped, by name."""
        every = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: field for name, field in every if isinstance(field, FieldSpec)}

    def columns(self) -> set[str]:
        """Every column the file must have."""
        return {column for field in self.fields().values() for column in field.columns}


class ClicksSpec(TableSpec):
    """``[clicks]``."""

    name: ClassVar[str] = "clicks"
    type: TypeField
    user: TextField | None = None
    session: TextField | None = None
    product: TextField | None = None
    category: TextField | None = None
    quantity: NumberField | None = None
    price: PriceField | None = None
    query: TextField | None = None
    country: TextField | None = None
    channel: TextField | None = None


class OrdersSpec(TableSpec):
    """``[orders]``: a row is a line; lines of equal order, user and time (or `within` the first) are one order."""

    name: ClassVar[str] = "orders"
    order: TextField
    product: TextField
    user: TextField | None = None
    session: TextField | None = None
    category: TextField | None = None
    quantity: NumberField | None = None
    price: PriceField | None = None
    amount: NumberField | None = None
    status: StatusField = FieldSpec.model_validate({"value": "placed"})
    country: TextField | None = None
    channel: TextField | None = None
    within_ms: Duration = Field(0, alias="within")
    gaps: Literal["zero", "missing"] = "zero"


class CatalogSpec(TableSpec):
    """``[catalog]``: a row counts where it tells something new of its product."""

    name: ClassVar[str] = "catalog"
    product: TextField
    product_name: TextField | None = Field(None, alias="name")
    category: TextField | None = None
    price: PriceField | None = None
    stock: NumberField | None = None


class PlanSpec(TableSpec):
    """``[plan]``: what is known ahead, from `time` until the product's next row; without `product` for all."""

    name: ClassVar[str] = "plan"
    product: TextField | None = None
    price: PriceField | None = None
    covariates: tuple[str, ...] = ()

    def columns(self) -> set[str]:
        """Every column the file must have."""
        return super().columns() | set(self.covariates)


class FilterSpec(_Part):
    """``[[filter]]``: keeps rows of `table` by one rule on `column`, and counts what it drops."""

    table: Literal["clicks", "orders", "catalog", "plan"]
    column: str
    keep_regex: str | None = None
    keep_positive: bool | None = None
    keep: tuple[Scalar, ...] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> FilterSpec:
        rules = [self.keep_regex is not None, self.keep_positive is not None, self.keep is not None]
        if sum(rules) != 1 or self.keep_positive is False:
            raise ValueError("give one rule: keep_regex = '…', keep_positive = true or keep = [values]")
        if self.keep_regex is not None:
            try:
                re.compile(self.keep_regex)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"keep_regex {self.keep_regex!r} is no regular expression ({error})") from None
        return self

    @property
    def label(self) -> str:
        """The rule's name in the accounts."""
        rule = next(name for name in ("keep_regex", "keep_positive", "keep") if getattr(self, name) is not None)
        return f"{self.table}.{self.column}.{rule}"


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("must be an IANA time zone such as Europe/London") from None
    return value


class SourceSpec(_Part):
    """A whole SOURCE.toml."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    clicks: ClicksSpec | None = None
    orders: OrdersSpec | None = None
    catalog: CatalogSpec | None = None
    plan: PlanSpec | None = None
    filter: tuple[FilterSpec, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> SourceSpec:
        if not self.tables():
            raise ValueError("describes no table; add [clicks] or [orders]")
        named = {table.name for table in self.tables()}
        for rule in self.filter:
            if rule.table not in named:
                raise ValueError(f"[[filter]] for table {rule.table!r}, which is not described")
        for table in self.tables():
            if self.currency is None and ({"price", "amount"} & table.fields().keys()):
                raise ValueError(f'[{table.name}] has prices, so give currency = "EUR" or another ISO 4217 code')
        return self

    def tables(self) -> list[TableSpec]:
        """The tables described; at equal times the earlier comes first (a fact holds from its own time on)."""
        every = (self.plan, self.catalog, self.clicks, self.orders)
        return [table for table in every if table is not None]
