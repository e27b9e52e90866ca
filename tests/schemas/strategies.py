"""Bytes that are nearly events: JSON written by hand, so that it can repeat keys and hold what no encoder would."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# How fast examples are drawn says how busy the machine is, and nothing about a law.
LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HARD_TIMES = [
    "2014-04-01T03:00:00Z",
    "2014-04-01T03:00:00.123Z",
    "2014-04-01t03:00:00.1239z",
    "2014-04-01T03:00:00+02:00",
    "2014-04-01T03:00:00-00:00",
    "2014-04-01T03:00:00.5+23:59",
    "2014-04-01T03:00:00+24:00",
    "2014-04-01T24:00:00Z",
    "2014-04-01 03:00:00Z",
    "2014-04-01T03:00:00",
    "2014-04-01T03:00:00,123Z",
    "2014-04-01T03:00Z",
    "2014-02-29T03:00:00Z",
    "2016-12-31T23:59:60Z",
    "2017-01-01T00:59:60.5+01:00",
    "2016-12-31T22:59:60Z",
    "1970-01-01T00:00:00+00:01",
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59-01:00",
    "2099-12-31T23:59:59.999Z",
    "2100-01-01T00:00:00Z",
    "２014-04-01T03:00:00Z",
    "2014-W14-2T03:00:00Z",
    "1396321200000",
    "",
]
HARD_TOKENS = [
    *("null", "true", "false", "NaN", "Infinity", "-Infinity", "nan", "{}", "[]", "[{}]", "[[]]", '{"a":1}'),
    *("0", "-0", "1", "-1", "1.0", "1e0", "1E2", "1e400", "-1e400", "1e-400", "0.1", "01", "1.", ".5", "+1", "0x1"),
    *(str(2**53), str(2**53 + 1), str(2**63), str(2**64), "9" * 30, "9" * 400, "9" * 5000, "-" + "9" * 5000),
    *("1000000", "1000001", "4102444799999", "4102444800000", "1396321200000", "1396321200000.5"),
    *(
        '""',
        '"\\u0000"',
        '"\\\\u0000"',
        '"a\\u0000b"',
        '"\\ud800"',
        '"\\udc00"',
        '"\\ud83d\\ude00"',
        '"\\ude00\\ud83d"',
    ),
    *('"😀"', '"é"', '"\\n"', '"\n"', '"\x7f"', '"\\q"', '"1"', '"EUR"', '"eur"', '"EURO"', '"ÄÖÜ"', '"EU\\n"'),
    *(
        '"view"',
        '"search"',
        '"placed"',
        '"VIEW"',
        f'"{"x" * 200}"',
        f'"{"x" * 201}"',
        f'"{"😀" * 200}"',
        f'"{"é" * 201}"',
    ),
    *("[" * 40 + "]" * 40, "[" * 70 + "]" * 70, "[" * 3000 + "]" * 3000, '{"a":' * 70 + "1" + "}" * 70),
]

_texts = st.text(max_size=8).map(json.dumps) | st.text(max_size=8).map(lambda s: json.dumps(s, ensure_ascii=False))
_numbers = st.integers(-(2**70), 2**70).map(str) | st.floats().map(json.dumps)
tokens = st.sampled_from(HARD_TOKENS) | _texts | _numbers | st.sampled_from(HARD_TIMES).map(json.dumps)

_id = st.sampled_from(['"a"', '"b-1"', "null"])
_price = st.sampled_from(["null", "0", "1299", str(2**53)])
_time = st.sampled_from(["0", "1396321200123", '"2014-04-01T03:00:00Z"', '"2014-04-01T03:00:00.123+02:00"'])
_currency = st.sampled_from(["null", '"EUR"', '"USD"'])
_text = st.sampled_from(["null", '""', '"web"', '"\\u00e9\\u0000"', '"\\\\u0000"'])
_quantity = st.sampled_from(["1", "2", "1000000"])


def _members(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[str]], required: set[str]) -> str:
    chosen = []
    for name, values in fields.items():
        if name in required or draw(st.booleans()):
            chosen.append((name, draw(values)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):  # something odd: a wrong value, a repeat, a stranger
        name = draw(st.sampled_from([*fields, "stranger", "\\u0074ime"]))
        member = (name, draw(tokens | fields.get(name, tokens)))
        chosen.insert(draw(st.integers(0, len(chosen))), member)
    return "{" + ",".join(f'"{name}":{value}' for name, value in chosen) + "}"


@st.composite
def clicks(draw: st.DrawFn) -> bytes:
    """Draw a click, perhaps spoilt."""
    types = st.sampled_from(["view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase"])
    fields = {
        "event_id": st.just('"e1"'),
        "type": types.map(json.dumps),
        "time": _time,
        "product_id": _id,
        "user_id": _id,
        "session_id": _id,
        "category_id": _id,
        "quantity": _quantity,
        "unit_price": _price,
        "currency": _currency,
        "query": _text,
        "country": _text,
        "channel": _text,
    }
    return _members(draw, fields, {"event_id", "type", "time", "product_id"}).encode("utf-8", "surrogatepass")


@st.composite
def orders(draw: st.DrawFn) -> bytes:
    """Draw an order, perhaps spoilt."""
    line = {
        "product_id": st.just('"p"'),
        "category_id": _id,
        "quantity": _quantity,
        "unit_price": _price,
        "amount": _price,
    }
    lines = [_members(draw, line, {"product_id"}) for _ in range(draw(st.integers(0, 3)))]
    if draw(st.integers(0, 20)) == 0:
        lines = ['{"product_id":"p"}'] * draw(st.sampled_from([65, 1000, 1001]))
    fields = {
        "event_id": st.just('"e1"'),
        "order_id": st.just('"o1"'),
        "time": _time,
        "user_id": _id,
        "session_id": _id,
        "status": st.sampled_from(["placed", "paid", "cancelled", "returned"]).map(json.dumps),
        "lines": st.just("[" + ",".join(lines) + "]"),
        "currency": _currency,
        "country": _text,
        "channel": _text,
    }
    return _members(draw, fields, {"event_id", "order_id", "status", "time", "lines"}).encode("utf-8", "surrogatepass")


@st.composite
def catalog(draw: st.DrawFn) -> bytes:
    """Draw a catalog entry, perhaps spoilt."""
    fields = {
        "event_id": st.just('"e1"'),
        "product_id": st.just('"p"'),
        "time": _time,
        "name": _text,
        "category_id": _id,
        "unit_price": _price,
        "currency": _currency,
        "stock": _price,
    }
    return _members(draw, fields, {"event_id", "product_id", "time"}).encode("utf-8", "surrogatepass")


@st.composite
def plans(draw: st.DrawFn) -> bytes:
    """Draw a plan entry, perhaps spoilt."""
    names = st.sampled_from(['"a"', '"b"', '""', '"\\u0000"', '"é"', f'"{"k" * 201}"'])
    values = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers(-9, 9).map(str)
    pairs = draw(st.lists(st.tuples(names, values | values | values | tokens), max_size=3))
    covariates = ",".join(f"{name}:{value}" for name, value in pairs)
    if draw(st.integers(0, 20)) == 0:
        covariates = ",".join(f'"k{n}":{n}' for n in range(draw(st.sampled_from([100, 101]))))
    fields = {
        "event_id": st.just('"e1"'),
        "product_id": _id,
        "time": _time,
        "unit_price": _price,
        "currency": _currency,
        "covariates": st.just("{" + covariates + "}"),
    }
    return _members(draw, fields, {"event_id", "time"}).encode("utf-8", "surrogatepass")


@st.composite
def markers(draw: st.DrawFn) -> bytes:
    """Draw a time marker, perhaps spoilt."""
    return _members(draw, {"time": _time, "source": _id}, {"time", "source"}).encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw: st.DrawFn, events: st.SearchStrategy[bytes]) -> bytes:
    """Draw an event and damage up to three places of it."""
    data = bytearray(draw(events))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["replace", "delete", "insert", "copy", "cut"])):
            case "replace":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=2))
            case "delete":
                del data[at : at + draw(st.integers(1, 5))]
            case "insert":
                pieces = st.sampled_from(
                    [b'"', b",", b"{", b"[", b"}", b"]", b"\\", b"\xff", b"\xed\xa0\x80", b"\0", b" "]
                )
                data[at:at] = draw(pieces | st.binary(max_size=3) | tokens.map(lambda t: t.encode("utf-8", "replace")))
            case "copy":
                data[at:at] = data[at : at + draw(st.integers(1, 30))]
            case "cut":
                del data[at:]
    return bytes(data)
