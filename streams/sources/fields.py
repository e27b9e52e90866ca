"""A field's description becomes a function from a row to a value. Compiled once a table, called once a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from math import isinf

from streams.sources.description import FieldSpec, FilterSpec, Scalar
from streams.sources.values import BadValue, check_text, minor_units, number, scaled, time_reader, whole

Row = list[str]
"""One row's cells as text, "" where there is no value."""
Index = Mapping[str, int]
"""Where each column stands in a row."""

_CACHED = 100_000
_FLAGS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}


def plain(value: Scalar) -> str:
    """Return how a TOML value looks as a cell.

    >>> plain(True), plain(0), plain("x")
    ('true', '0', 'x')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def text_field(name: str, spec: FieldSpec | None, index: Index) -> Callable[[Row], str | None]:
    """Compile a field whose value is text; None where there is no value. It raises BadValue."""
    if spec is None:
        return lambda row: None
    if spec.value is not None:
        constant = _constant(name, spec.value)
        return lambda row: constant
    raw = _raw(spec, index)
    default = _constant(name, spec.default)
    if spec.map is None and spec.prefix is None:
        if default is None and not spec.missing and len(spec.columns) == 1:
            return _column(name, index[spec.columns[0]])

        def read(row: Row) -> str | None:
            value = raw(row)
            return default if value is None else check_text(name, value)

        return read
    find = _finder(name, spec, default)

    def look_up(row: Row) -> str | None:
        value = raw(row)
        return default if value is None else find(value)

    return look_up


def _constant(name: str, value: Scalar | None) -> str | None:
    """Return a text of the description; an empty one is no value, as in a cell. Raises BadValue."""
    return None if value is None else check_text(name, plain(value)) or None


def required(name: str, read: Callable[[Row], str | None]) -> Callable[[Row], str]:
    """Make a text field refuse rows without a value (BadValue)."""

    def checked(row: Row) -> str:
        value = read(row)
        if value is None:
            raise BadValue("invalid", name, "has no value")
        return value

    return checked


def free_text(name: str, spec: FieldSpec | None, index: Index) -> Callable[[Row], str | None]:
    """Compile a field that names nothing (a title, a search): what is too long for an event is cut, not refused."""
    if spec is None or spec.value is not None:
        return text_field(name, spec, index)
    raw = _raw(spec, index)
    exact = text_field(name, spec, index)

    def read(row: Row) -> str | None:
        value = raw(row)
        if spec.map is None and spec.prefix is None and value is not None:
            value = value.replace("\0", " ")[:200].strip()
            return value or None
        return exact(row)

    return read


def whole_field(name: str, spec: FieldSpec | None, index: Index) -> Callable[[Row], int | None]:
    """Compile a field whose value is a whole number, of any sign. It raises BadValue."""
    return _number_field(name, spec, index, lambda value: whole(name, value))


def money_field(
    name: str, spec: FieldSpec | None, index: Index, currency: str | None, rounded: Callable[[], None]
) -> Callable[[Row], int | None]:
    """Compile a field whose value is money: minor units of `currency`, of any sign. It raises BadValue.

    `rounded` is called for each value that minor units cannot hold exactly.
    """

    def convert(value: Decimal) -> int:
        minor, inexact = minor_units(name, value, currency or "")
        return _Inexact(minor) if inexact else minor

    read = _number_field(name, spec, index, convert)
    if spec is None:
        return read

    def counted(row: Row) -> int | None:
        value = read(row)
        if value.__class__ is not _Inexact:
            return value
        rounded()
        return int(value)

    return counted


class _Inexact(int):
    """Minor units that were rounded, so that each use of a cached one is counted."""


def time_field(spec: FieldSpec, index: Index, timezone: str) -> Callable[[Row], int]:
    """Compile a table's time: UTC milliseconds. It raises BadValue."""
    position = index[spec.columns[0]]
    read = time_reader(spec.unit, spec.format, timezone)
    return lambda row: read(row[position])


def covariate(column: str, index: Index) -> Callable[[Row], float | None]:
    """Compile a covariate: a number or a flag (true, false, yes, no). It raises BadValue."""
    position = index[column]

    def read(row: Row) -> float | None:
        text = row[position].strip()
        if not text:
            return None
        flag = _FLAGS.get(text.lower())
        value = flag if flag is not None else float(number(column, text))
        if isinf(value):
            raise BadValue("invalid", column, f"{text[:40]!r} is out of bounds")
        return value

    return read


def keeps(spec: FilterSpec, index: Index) -> Callable[[Row], bool]:
    """Compile a filter: whether a row is kept. What is no number is not positive."""
    position = index[spec.column]
    if spec.keep_regex is not None:
        search = re.compile(spec.keep_regex).search
        return lambda row: search(row[position]) is not None
    if spec.keep is not None:
        kept = {plain(value) for value in spec.keep}
        return lambda row: row[position] in kept

    def positive(row: Row) -> bool:
        text = row[position]
        try:
            return float(text) > 0
        except ValueError:
            return False

    return positive


def _column(name: str, position: int) -> Callable[[Row], str | None]:
    def read(row: Row) -> str | None:
        value = row[position]
        if len(value) > 200 or "\0" in value:
            check_text(name, value)
        return value or None

    return read


def _raw(spec: FieldSpec, index: Index) -> Callable[[Row], str | None]:
    missing = {"", *map(plain, spec.missing)}
    positions = [index[column] for column in spec.columns]
    if len(positions) == 1:
        position = positions[0]

        def one(row: Row) -> str | None:
            value = row[position]
            return None if value in missing else value

        return one

    def several(row: Row) -> str | None:
        parts = ["" if row[position] in missing else row[position] for position in positions]
        if not any(parts):
            return None
        # Escaped, so that two different lists of values never make the same name.
        return "|".join(part.replace("\\", "\\\\").replace("|", "\\|") for part in parts)

    return several


def _finder(name: str, spec: FieldSpec, default: str | None) -> Callable[[str], str | None]:
    def unknown(value: str) -> str | None:
        if spec.default is None:
            known = ", ".join(map(repr, spec.map or spec.prefix or ()))
            raise BadValue("invalid", name, f"{value[:40]!r} is none of {known}; extend the table or give a default")
        return default

    if spec.map is not None:
        table = {key: _constant(name, value) for key, value in spec.map.items()}

        def by_value(value: str) -> str | None:
            return table[value] if value in table else unknown(value)

        return by_value
    # The longest prefix wins, whatever the order in the file.
    prefixes = sorted(((key, _constant(name, v)) for key, v in (spec.prefix or {}).items()), key=lambda p: -len(p[0]))

    def by_prefix(value: str) -> str | None:
        for prefix, found in prefixes:
            if value.startswith(prefix):
                return found
        return unknown(value)

    return by_prefix


def _number_field(
    name: str, spec: FieldSpec | None, index: Index, convert: Callable[[Decimal], int]
) -> Callable[[Row], int | None]:
    if spec is None:
        return lambda row: None
    if spec.value is not None:
        constant = convert(Decimal(plain(spec.value)))
        return lambda row: constant
    raw = _raw(spec, index)
    default = None if spec.default is None else convert(Decimal(plain(spec.default)))
    scale = spec.scale
    missing = {Decimal(text) for text in map(plain, spec.missing) if _is_number(text)}
    cache: dict[str | None, int | None] = {None: default}

    def read(row: Row) -> int | None:
        text = raw(row)
        try:
            return cache[text]
        except KeyError:
            assert text is not None
            value = number(name, text)
            result = default if value in missing else convert(value if scale is None else scaled(value, scale))
            if len(cache) >= _CACHED:
                cache.clear()
                cache[None] = default
            cache[text] = result
            return result

    return read


def _is_number(text: str) -> bool:
    try:
        number("", text)
    except BadValue:
        return False
    return True
