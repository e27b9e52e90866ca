"""The hot path and the contract are one: what one accepts or refuses, the other does too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import codec, events, wire
from schemas.codec import DecodeError
from tests.schemas import strategies as near

EXAMPLES = 400
PAIRS: dict[str, tuple[Callable[[bytes], Any], Callable[[bytes], Any], st.SearchStrategy[bytes]]] = {
    "click": (codec.decode_click, events.parse_click, near.clicks()),
    "order": (codec.decode_order, events.parse_order, near.orders()),
    "catalog": (codec.decode_catalog, events.parse_catalog, near.catalog()),
    "plan": (codec.decode_plan, events.parse_plan, near.plans()),
    "marker": (codec.decode_marker, events.parse_marker, near.markers()),
}


def outcome(read: Callable[[bytes], Any], data: bytes) -> Any:
    """Return what `read` makes of `data` as plain values, or the reason why it refuses."""
    try:
        return plain(read(data))
    except DecodeError as error:
        return error.reason


def plain(value: Any) -> Any:
    """Return structs, models and containers in a form whose equality tells 1 from 1.0 and -0.0 from 0.0."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, events.Contract):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return repr(value)


@pytest.mark.parametrize("kind", PAIRS)
def test_codec_and_contract_agree(kind: str) -> None:
    """Both accept the same bytes with the same values, and refuse the same for the same reason."""
    decode, parse, strategy = PAIRS[kind]

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(strategy | near.mutated(strategy) | st.binary(max_size=40))
    def law(data: bytes) -> None:
        assert outcome(decode, data) == outcome(parse, data)

    law()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    near.mutated(near.clicks())
    | near.mutated(near.plans())
    | near.tokens.map(lambda t: f'{{"a":{t}}}'.encode("utf-8", "surrogatepass"))
)
def test_the_grammar_is_rfc_8259(data: bytes) -> None:
    """A grammar of our own making agrees with the standard library's, read strictly."""

    def refuse(token: str) -> None:
        raise ValueError(token)

    try:
        expected = json.loads(data.decode(), parse_constant=refuse, parse_int=wire._int)
        json.dumps(json.loads(data.decode(), object_pairs_hook=list, parse_int=wire._int), ensure_ascii=False).encode()
        ok = isinstance(expected, dict) and wire._depth(data) <= wire.MAX_DEPTH
    except (ValueError, RecursionError):
        ok = False
    try:
        assert plain(wire.load_object(data)) == plain(expected)
        assert ok
    except DecodeError:
        assert not ok


@settings(max_examples=EXAMPLES, deadline=None)
@given(near.mutated(near.clicks()))
def test_pydantic_alone_agrees_where_the_grammar_holds(data: bytes) -> None:
    """For JSON without repeated keys, `model_validate_json` of the bare model is the contract too."""
    try:
        value = wire.load_object(data)
        pairs = json.loads(data, object_pairs_hook=list, parse_int=wire._int)
    except DecodeError:
        return
    if len(pairs) != len(value) or b"9" * 300 in data:  # jiter refuses digits beyond 4,300 even where nobody reads them
        return
    try:
        alone: Any = events.ClickEvent.model_validate_json(data)
    except ValidationError:
        alone = None
    try:
        assert events.parse_click(data) == alone
    except DecodeError:
        assert alone is None
