"""Reads a SOURCE.toml, and says in words what is wrong with one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from streams.errors import SourceError
from streams.sources.description import (
    CatalogSpec,
    ClicksSpec,
    FieldSpec,
    FilterSpec,
    OrdersSpec,
    PlanSpec,
    SourceSpec,
)

_MOST_BITS = 64
_MOST_DIGITS = 1_000


def load_description(path: Path) -> SourceSpec:
    """Read and check a SOURCE.toml. Raises SourceError with the place, the value and the repair."""
    try:
        # Decimal, so that scale = 0.01 is a hundredth and not its nearest binary fraction.
        data = tomllib.loads(path.read_bytes().decode("utf-8-sig"), parse_float=Decimal)
        _check_numbers(data)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise SourceError(f"{path}: is not valid TOML ({error})") from error
    try:
        return SourceSpec.model_validate(data)
    except ValidationError as error:
        raise SourceError(f"{path}: " + "; ".join(_explain(item) for item in error.errors())) from None


def _check_numbers(value: Any) -> None:
    """Raise ValueError for numbers that nothing is measured in, and that take ages to print or to compare."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key != "scale":  # which has bounds of its own
                _check_numbers(one)
    elif isinstance(value, list):
        for one in value:
            _check_numbers(one)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"an integer of {value.bit_length()} bits; at most {_MOST_BITS} are taken")
    elif isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) > _MOST_DIGITS:
        raise ValueError(f"the number {value}; its exponent lies between ±{_MOST_DIGITS}")


def _explain(item: Any) -> str:
    place = [str(part) for part in item["loc"]]
    name = ".".join(place)
    if item["type"] == "extra_forbidden":
        allowed = _keys(place[:-1])
        close = get_close_matches(place[-1], allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{name}: there is no such key; {hint}keys here: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{name}: is missing; add it"
    value = item["input"]
    shown = "" if isinstance(value, Mapping) else f" = {value!r}"
    return f"{name or 'the file'}{shown}: {item['msg'].removeprefix('Value error, ')}"


def _keys(place: list[str]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "clicks": ClicksSpec, "orders": OrdersSpec, "catalog": CatalogSpec, "plan": PlanSpec, "filter": FilterSpec,
    }  # fmt: skip
    model: type[BaseModel] = SourceSpec
    if place:
        field_of_table = len(place) > 1 and place[0] != "filter"
        model = FieldSpec if field_of_table else models.get(place[0], FieldSpec)
    return [field.alias or name for name, field in model.model_fields.items()]
