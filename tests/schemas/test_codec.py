"""The hot path and the contract are one: what one accepts or refuses, the other does too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import codec, events, wire
from schemas.codec import DecodeError
from schemas.contracts import contracts
from tests.schemas import strategies as near
from tests.schemas.strategies import LAW

EXAMPLES = 300
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

    @settings(LAW, max_examples=EXAMPLES)
    @given(strategy | near.mutated(strategy) | st.binary(max_size=40))
    def law(data: bytes) -> None:
        assert outcome(decode, data) == outcome(parse, data)

    law()


_usual = near.clicks().filter(lambda data: b"\n" not in data)
_split = st.tuples(_usual, _usual, st.integers(0, 400)).map(
    lambda told: [told[0][: told[2]], told[0][told[2] :] + told[1]]
)
_torn = st.lists(
    st.binary(max_size=8) | st.sampled_from([b"{", b"}", b"}\n{", b'{"a":"', b'"}', b" ", b""]), max_size=3
)


@settings(LAW, max_examples=EXAMPLES)
@given(
    st.lists(near.clicks() | near.mutated(near.clicks()) | st.just(b"{}"), max_size=5) | _split | _torn, st.randoms()
)
def test_clicks_decoded_together_are_those_decoded_alone(values: list[bytes], random: Any) -> None:
    """Where it gives an answer, it is the answer: no record is made whole, or broken, by its neighbours."""
    random.shuffle(values)
    together = codec.decode_clicks(values)
    if together is not None:
        assert plain(together) == [outcome(codec.decode_click, value) for value in values]


@settings(LAW, max_examples=EXAMPLES)
@given(
    st.lists(_usual.filter(lambda data: outcome(codec.decode_click, data).__class__ is dict), min_size=1, max_size=4)
)
def test_good_clicks_are_decoded_together(values: list[bytes]) -> None:
    """Unless they end lines, or hold what only a reading of the whole object can judge."""
    usual = [value for value in values if value[:1] == b"{" and value[-1:] == b"}" and b"\\u0000" not in value]
    if usual and codec.decode_clicks(usual) is None:
        keys = [[key for key, _ in json.loads(value, object_pairs_hook=list)] for value in usual]
        assert any(len({*found}) < len(found) for found in keys), usual


@pytest.mark.parametrize(
    "values",
    [
        [b'{"event_id": "a", "type": "search",', b'"time": 5}'],
        [b'{"event_id": "a", "type": "search",', b'"time": 5}\n{"event_id": "b", "type": "search", "time": 5}'],
        [b'{"event_id": "a', b'", "type": "search", "time": 5}'],
        [b'{"event_id": "a", "type": "search", "time": 5}{"event_id": "b", "type": "search", "time": 5}', b""],
        [b'{"event_id": "a", "type": "search", "time": 5}{"event_id": "b", "type": "search", "time": 5}', b"{}"],
        [b'{"event_id": "a", "type": "search", "x": {}', b'{"time": 5}}'],
        [],
    ],
)
def test_records_that_would_make_each_other_whole_are_not(values: list[bytes]) -> None:
    """Together they are good JSON; each is for itself."""
    assert codec.decode_clicks(values) is None


@settings(LAW, max_examples=EXAMPLES)
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


@settings(LAW, max_examples=EXAMPLES)
@given(near.mutated(near.clicks()))
def test_pydantic_alone_agrees_where_the_grammar_holds(data: bytes) -> None:
    """For JSON without repeated keys, `model_validate_json` of the bare model is the contract too."""
    try:
        value = wire.load_object(data)
        pairs = json.loads(data, object_pairs_hook=list, parse_int=wire._int)
    except DecodeError:
        return
    if (
        len(pairs) != len(value) or b"9" * 300 in data
    ):  # jiter refuses digits beyond 4,300 even in fields that nobody reads
        return
    try:
        alone: Any = events.ClickEvent.model_validate_json(data)
    except ValidationError:
        alone = None
    try:
        assert events.parse_click(data) == alone
    except DecodeError:
        assert alone is None


@pytest.mark.parametrize("kind", PAIRS)
def test_the_schema_takes_what_the_contract_takes(kind: str) -> None:
    """The published JSON Schema refuses nothing that the contract accepts."""
    _, parse, strategy = PAIRS[kind]
    name = {"click": "clickstream", "order": "orders"}.get(kind, kind)
    validator = jsonschema.Draft202012Validator(contracts()[name].schema)

    @settings(LAW, max_examples=150)
    @given(strategy)
    def law(data: bytes) -> None:
        try:
            parse(data)
        except DecodeError:
            return
        assert validator.is_valid(json.loads(data, parse_int=wire._int))

    law()


CLICK = b'{"event_id":"e","type":"view","time":0,"product_id":"p"%s}'


@pytest.mark.parametrize(
    ("more", "reason", "field"),
    [
        (b',"quantity":0', "invalid", "quantity"),
        (b',"quantity":1000001', "invalid", "quantity"),
        (b',"quantity":true', "invalid", "quantity"),
        (b',"quantity":1.0', "invalid", "quantity"),
        (b',"quantity":"1"', "invalid", "quantity"),
        (b',"quantity":null', "invalid", "quantity"),
        (b',"quantity":2,"unit_price":9007199254740992', "invalid", "unit_price"),
        (b',"unit_price":-1', "invalid", "unit_price"),
        (b',"unit_price":9007199254740993', "invalid", "unit_price"),
        (b',"unit_price":1e400', "invalid", "unit_price"),
        (b',"unit_price":' + b"9" * 5_000, "invalid", "unit_price"),
        (b',"unit_price":12.5', "invalid", "unit_price"),
        (b',"currency":"eur"', "invalid", "currency"),
        (b',"currency":"EU1"', "invalid", "currency"),
        (b',"currency":"EURO"', "invalid", "currency"),
        (b',"currency":"\xc3\x84\xc3\x96\xc3\x9c"', "invalid", "currency"),
        (b',"type":"buy"', "invalid", "type"),
        (b',"type":null', "invalid", "type"),
        (b',"time":-1', "invalid", "time"),
        (b',"time":4102444800000', "invalid", "time"),
        (b',"time":0.5', "invalid", "time"),
        (b',"time":true', "invalid", "time"),
        (b',"time":"yesterday"', "invalid", "time"),
        (b',"event_id":""', "invalid", "event_id"),
        (b',"event_id":"a\\u0000b"', "invalid", "event_id"),
        (b',"user_id":"' + b"x" * 201 + b'"', "invalid", "user_id"),
        (b',"product_id":null', "invalid", "product_id"),
        (b',"query":"\\ud800"', "undecodable", ""),
        (b',"query":NaN', "undecodable", ""),
        (b',"stranger":NaN', "undecodable", ""),
        (b',"stranger":"\xff"', "undecodable", ""),
        (b',"stranger":' + b"[" * 5_000 + b"]" * 5_000, "undecodable", ""),
        (b',"query":"' + b"x" * (1 << 20) + b'"', "oversized", ""),
    ],
)
def test_a_refusal_names_reason_and_field(more: bytes, reason: str, field: str) -> None:
    """Both readers give the same reason, and both details name the field."""
    for read in (codec.decode_click, events.parse_click):
        with pytest.raises(DecodeError) as caught:
            read(CLICK % more)
        assert caught.value.reason == reason
        assert field in caught.value.detail


@pytest.mark.parametrize("field", ["event_id", "type", "time", "product_id"])
def test_a_missing_field_is_named(field: str) -> None:
    """A click without a required field is invalid, and the detail says which."""
    value = {"event_id": "e", "type": "view", "time": 0, "product_id": "p"}
    del value[field]
    for read in (codec.decode_click, events.parse_click):
        with pytest.raises(DecodeError, match=rf"^invalid.*{field}"):
            read(json.dumps(value).encode())


def test_a_wrong_value_that_is_repeated_right_is_right() -> None:
    """Of a repeated key the last value counts, even where an earlier one is wrong."""
    assert codec.decode_click(CLICK % b',"quantity":[],"quantity":3').quantity == 3


def test_an_unknown_field_is_ignored() -> None:
    """Producers may be newer than their readers, so long as what they send is JSON."""
    assert codec.decode_click(CLICK % b',"stranger":{"a":[1e400,"\\u0000"]}').product_id == "p"


@pytest.mark.parametrize("kind", PAIRS)
def test_encoding_is_undone_by_decoding(kind: str) -> None:
    """What was decoded, encoded and decoded again is the same event."""
    decode, _, strategy = PAIRS[kind]

    @settings(LAW, max_examples=150)
    @given(strategy)
    def law(data: bytes) -> None:
        try:
            event = decode(data)
        except DecodeError:
            return
        assert decode(codec.encode_event(event)) == event

    law()


def test_decoded_events_are_frozen() -> None:
    """Nobody changes an event once it was read."""
    with pytest.raises(AttributeError):
        codec.decode_click(CLICK % b"").time = 1  # type: ignore[misc]
