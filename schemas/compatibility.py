"""Does a reader of one JSON Schema understand what a writer of another may send?

Judges the part of JSON Schema that the models here generate; a rule that it does not know must be equal on both sides.
Pure: schemas in, breaks out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

# What says nothing about which values are allowed. `format` and `contentEncoding` do, and are compared.
_NOTES = {"title", "description", "examples", "default", "deprecated", "discriminator", "$defs", "$schema", "$id"}
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_JUDGED = {
    *("type", "enum", "const", "properties", "required", "additionalProperties", "propertyNames", "items"),
    *("prefixItems", "anyOf", "oneOf", *_LOWER, *_UPPER),
}
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Break:
    """One way in which a change breaks readers: where, what, and how to repair it."""

    field: str
    problem: str
    repair: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}; {self.repair}"


def backward(old: Schema, new: Schema) -> list[Break]:
    """Return why readers of `new` would not understand all that was written by `old`, or lose what it says.

    >>> old = {"type": "object", "properties": {"a": {"type": "integer"}}}
    >>> new = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["b"]}
    >>> print(*backward(old, new))
    $.b: new and required, but older data lacks it; give it a default
    """
    return list(dict.fromkeys(_Comparison(reader=new, writer=old, reader_is_new=True).breaks()))


def forward(old: Schema, new: Schema) -> list[Break]:
    """Return why readers of `old` would not understand all that is written by `new`, or miss what they look for."""
    return list(dict.fromkeys(_Comparison(reader=old, writer=new, reader_is_new=False).breaks()))


def full(old: Schema, new: Schema) -> list[Break]:
    """Return why old and new readers and writers would not all understand each other."""
    return list(dict.fromkeys([*backward(old, new), *forward(old, new)]))


@dataclass(frozen=True, slots=True)
class _Comparison:
    reader: Schema
    writer: Schema
    reader_is_new: bool

    def breaks(self) -> Iterator[Break]:
        yield from self._compare(self.reader, self.writer, "$")

    def _compare(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        reader, writer = _resolve(reader, self.reader), _resolve(writer, self.writer)
        if "default" in reader and "default" in writer and reader["default"] != writer["default"]:
            yield Break(at, "has another default: what was left out changes its meaning", "keep the default")
        for alternative in _alternatives(writer):
            yield from self._compare_one(reader, alternative, at)

    def _compare_one(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        writer = _resolve(writer, self.writer)
        if _alternatives(writer) != [writer]:
            yield from self._compare(reader, writer, at)
            return
        candidates = [_resolve(alternative, self.reader) for alternative in _alternatives(reader)]
        found = [list(self._compare_plain(candidate, writer, at)) for candidate in candidates]
        if all(found):
            # Speak of the alternative that was meant: the one of the same kind, else the nearest.
            same = [breaks for one, breaks in zip(candidates, found, strict=True) if _kind(one) == _kind(writer)]
            if not same and _alternatives(reader) != [reader]:
                yield self._narrower(at, f"{_kind(writer)} is not among {[_kind(one) for one in candidates]}")
            else:
                yield from min(same or found, key=len)

    def _compare_plain(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        if "anyOf" in reader or "oneOf" in reader:
            yield from self._compare_one(reader, writer, at)
            return
        yield from self._type(reader, writer, at)
        yield from self._values(reader, writer, at)
        yield from self._bounds(reader, writer, at)
        yield from self._fields(reader, writer, at)
        yield from self._items(reader, writer, at)
        for rule in {**reader, **writer}.keys() - _NOTES - _JUDGED:
            if rule in reader and reader[rule] != writer.get(rule, _ABSENT):
                yield self._narrower(at, f"`{rule}` differs")

    def _type(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        wanted, given = _types(reader), _types(writer)
        if wanted is None:
            return
        accepted = wanted | {"integer"} if "number" in wanted else wanted
        if given is None or not given <= accepted:
            what = "any value" if given is None else "/".join(sorted(given))
            yield self._narrower(at, f"type {'/'.join(sorted(wanted))} cannot take {what}")

    def _values(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        wanted, given = _enumerated(reader), _enumerated(writer)
        if wanted is None:
            return
        if given is None:
            yield self._narrower(at, f"only {wanted} are taken where any value was allowed")
        elif missing := [value for value in given if value not in wanted]:
            yield self._narrower(at, f"{missing} not among {wanted}")

    def _bounds(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        for rule in _LOWER + _UPPER:
            if rule not in reader:
                continue
            wanted, given = reader[rule], writer.get(rule)
            values = _enumerated(writer)
            if values is not None and _within(rule, wanted, values):
                continue
            if given is None or (given < wanted if rule in _LOWER else given > wanted):
                yield self._narrower(at, f"{rule} {wanted} is tighter than {'none' if given is None else given}")

    def _fields(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        wanted, given = reader.get("properties", {}), writer.get("properties", {})
        always = set(writer.get("required", ()))
        for name in wanted.keys() & given.keys():
            yield from self._compare(wanted[name], given[name], f"{at}.{name}")
        # A field that is gone breaks its users even where every validator is content.
        for name in sorted(
            (given if self.reader_is_new else wanted).keys() - (wanted if self.reader_is_new else given)
        ):
            yield Break(f"{at}.{name}", "removed", "put it back: fields are for ever; mark it deprecated instead")
        for name in sorted(set(reader.get("required", ())) - always):
            if self.reader_is_new and name not in given:
                problem, repair = "new and required, but older data lacks it", "give it a default"
            elif self.reader_is_new:
                problem, repair = "required now, but older data may lack it", "keep it optional"
            elif name in given:
                problem, repair = "optional now, but older readers require it", "keep it required"
            else:
                continue  # removed, as said above
            yield Break(f"{at}.{name}", problem, repair)
        inner, outer = reader.get("additionalProperties", True), writer.get("additionalProperties", True)
        if isinstance(inner, Mapping):
            yield from self._compare(inner, outer if isinstance(outer, Mapping) else {}, f"{at}.*")
        elif inner is False and outer is not False:
            yield self._narrower(at, "unknown fields are refused")
        if "propertyNames" in reader:
            yield from self._compare(reader["propertyNames"], writer.get("propertyNames", {}), f"{at}.*")

    def _items(self, reader: Schema, writer: Schema, at: str) -> Iterator[Break]:
        wanted, given = reader.get("prefixItems", []), writer.get("prefixItems", [])
        for number, (one, other) in enumerate(zip(wanted, given, strict=False)):
            yield from self._compare(one, other, f"{at}[{number}]")
            if one.get("title") != other.get("title"):  # no name crosses the wire: the position is the field
                yield Break(f"{at}[{number}]", "means something else", "put new fields last")
        longer, shorter = (given, wanted) if self.reader_is_new else (wanted, given)
        for number in range(len(shorter), len(longer)):
            yield Break(f"{at}[{number}]", "removed", "put it back: positions are for ever")
        if isinstance(reader.get("items"), Mapping):
            rest = writer.get("items", {})
            yield from self._compare(reader["items"], rest if isinstance(rest, Mapping) else {}, f"{at}[]")

    def _narrower(self, at: str, problem: str) -> Break:
        if self.reader_is_new:
            return Break(at, f"narrowed: {problem}", "allow all that was allowed before, or add another field")
        return Break(at, f"widened beyond what older readers take: {problem}", "undo it, or add another field")


def _resolve(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _alternatives(schema: Schema) -> list[Schema]:
    for rule in ("anyOf", "oneOf"):
        if rule in schema:
            return list(schema[rule])
    return [schema]


def _kind(schema: Schema) -> str:
    kind = "/".join(sorted(_types(schema) or {"anything"}))
    return f"{kind} {schema['title']}" if "properties" in schema and "title" in schema else kind


def _types(schema: Schema) -> set[str] | None:
    if "type" in schema:
        return {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
    values = _enumerated(schema)
    return None if values is None else {_TYPE_OF[type(value)] for value in values}


def _enumerated(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def _within(rule: str, bound: float, values: list[Any]) -> bool:
    sizes = [len(value) if rule.endswith(("Length", "Items", "Properties")) else value for value in values]
    match rule[:3], rule.startswith("exclusive"):
        case "min", _:
            return all(size >= bound for size in sizes)
        case "max", _:
            return all(size <= bound for size in sizes)
        case _, _ if rule == "exclusiveMinimum":
            return all(size > bound for size in sizes)
        case _:
            return all(size < bound for size in sizes)


_TYPE_OF = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", list: "array"}
