"""Whatever the output codec writes, the published contract accepts, and means the same by it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import outputs, published
from schemas.contracts import contracts
from schemas.outputs import DecodeError, EncodeError
from schemas.wire import TIME_END
from tests.schemas.strategies import LAW, mutated

_id = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
_moment = st.integers(0, 2**42)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_bytes = st.binary(max_size=40) | st.sampled_from([65_536, 65_537, 5_000_000]).map(lambda size: b"\xff" * size)
_envelope = {
    "id": _id,
    "subject": _id,
    "as_of": _moment,
    "produced_at": _moment,
    "model_name": _id,
    "model_version": _id,
    "horizon_s": st.integers(1, 10**9),
}
_purchases = st.fixed_dictionaries(
    {**_envelope, "probability": st.floats(0, 1), "event_id": _id, "session_id": st.none() | _id}
)
LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)


@st.composite
def _demands(draw: st.DrawFn) -> dict[str, Any]:
    steps = draw(st.integers(1, 5))
    row = st.lists(_finite, min_size=len(LEVELS), max_size=len(LEVELS)).map(sorted)
    return {
        **{name: draw(strategy) for name, strategy in _envelope.items()},
        "revision": draw(st.integers(0, 9)),
        "bucket": draw(st.sampled_from(["H", "D", "W"])),
        "starts": sorted(draw(st.sets(_moment, min_size=steps, max_size=steps))),
        "mean": draw(st.lists(_finite, min_size=steps, max_size=steps)),
        "quantiles": draw(st.lists(row, min_size=steps, max_size=steps)),
        "levels": LEVELS,
    }


_histories = st.fixed_dictionaries(
    {
        "id": _id,
        "product_id": _id,
        "bucket_start": st.integers(-7 * 86_400_000, TIME_END - 1),
        "freq": st.sampled_from(["H", "D", "W"]),
        "quantity": st.integers(-(2**53), 2**53),
        "value_minor": st.integers(-(2**63), 2**63 - 1),
        "views": _moment,
        "carts": _moment,
        "price": st.none() | _moment,
        "revision": st.integers(0, 9),
        "covariates": st.dictionaries(_id, _finite, max_size=3),
    }
)
_announcements = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["purchase", "demand"]),
        "role": st.sampled_from(["champion", "shadow"]),
        "name": _id,
        "version": _id,
        "schema_hash": _id,
        "published_at": _moment,
        "metrics": st.dictionaries(_id, _finite, max_size=3),
        "params": st.just({"weights": [0.1, 1e300], "intercept": -0.0, "features": ["a"]}),
        "path": st.none(),
        "sha256": st.none() | st.just("0" * 64),
    }
)
_dead_letters = st.fixed_dictionaries(
    {
        "topic": st.just("orders"),
        "partition": st.integers(0, 99),
        "offset": _moment,
        "appended_at": _moment,
        "reason": st.sampled_from(["undecodable", "invalid", "future", "late", "oversized"]),
        "detail": st.text(max_size=2_000),
        "key": st.none() | _bytes,
        "value": st.none() | _bytes,
        "headers": st.lists(st.tuples(st.text(max_size=5), st.none() | _bytes), max_size=4),
    }
)


def _encode_purchase(**values: Any) -> bytes:
    """Encode one of many."""
    listed = {"id": "ids", "subject": "subjects", "as_of": "as_of", "probability": "probabilities"}
    listed |= {"event_id": "event_ids", "session_id": "session_ids"}
    return outputs.encode_purchases(
        **{listed.get(name, name): [value] if name in listed else value for name, value in values.items()}
    )[0]


KINDS: dict[str, tuple[Any, Callable[..., bytes], Callable[[bytes], Any], Callable[[bytes], Any], str]] = {
    "purchase": (
        *(_purchases, _encode_purchase, outputs.decode_prediction, published.parse_prediction),
        "predictions",
    ),
    "demand": (_demands(), outputs.encode_demand, outputs.decode_prediction, published.parse_prediction, "predictions"),
    "history": (_histories, outputs.encode_history, outputs.decode_history, published.parse_history, "history"),
    "announcement": (
        *(_announcements, outputs.encode_announcement, outputs.decode_announcement, published.parse_announcement),
        "models",
    ),
    "dead letter": (
        *(_dead_letters, outputs.encode_dead_letter, outputs.decode_dead_letter, published.parse_dead_letter),
        "deadletters",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_the_contract(kind: str) -> None:
    """Model, JSON Schema and struct all read what was written, with the values it was written from."""
    strategy, encode, decode, parse, name = KINDS[kind]
    validator = jsonschema.Draft202012Validator(contracts()[name].schema)

    @settings(LAW, max_examples=60)
    @given(strategy)
    def law(values: dict[str, Any]) -> None:
        data = encode(**values)
        value = json.loads(data)
        assert validator.is_valid(value)
        assert json.loads(parse(data).model_dump_json(by_alias=True)) == value
        decoded = decode(data)
        fields = {**value, **value.get("payload", {}), **{f"model_{key}": item for key, item in _model(value)}}
        for field in values.keys() & fields.keys() - {"detail", "headers"}:
            assert fields[field] == values[field]
        assert outputs._encode(decoded) == data

    law()


@pytest.mark.parametrize("kind", KINDS)
def test_any_other_bytes_are_refused_with_a_reason(kind: str) -> None:
    """Whatever the bytes, struct and model give a value or a DecodeError, and nothing else."""
    strategy, encode, decode, parse, _ = KINDS[kind]
    good = strategy.map(lambda values: encode(**values)).filter(lambda data: len(data) < 100_000)

    @settings(LAW, max_examples=60)
    @given(st.binary(max_size=30) | mutated(good))
    def law(data: bytes) -> None:
        for read in (decode, parse):
            with contextlib.suppress(DecodeError):
                read(data)

    law()
    for read in (decode, parse):
        with pytest.raises(DecodeError, match="undecodable"):
            read(b'{"stranger":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def _model(value: dict[str, Any]) -> Any:
    return value["model"].items() if isinstance(value.get("model"), dict) else ()


@settings(LAW, max_examples=60)
@given(_dead_letters)
def test_a_dead_letter_holds_what_it_can(values: dict[str, Any]) -> None:
    """Size and hash are the original's, the bytes are its beginning, and `truncated` says whether anything is gone."""
    data = outputs.encode_dead_letter(**values)
    assert len(data) < 300_000
    letter = outputs.decode_dead_letter(data)
    value, key = values["value"], values["key"]
    assert letter.size == len(value or b"")
    assert letter.sha256 == (None if value is None else hashlib.sha256(value).hexdigest())
    assert letter.value() == (value if value is None or len(value) <= 65_536 else value[:1_024])
    assert letter.key() == (key if key is None or len(key) <= 65_536 else key[:1_024])
    whole = letter.value() == value and letter.key() == key and len(letter.headers) == len(values["headers"])
    assert whole or letter.truncated


def test_a_dead_letter_about_broken_text_is_written() -> None:
    """A dead letter is the last resort: surrogates in a detail or a header's name do not stop it."""
    values = {"topic": "orders", "partition": 0, "offset": 1, "reason": "invalid", "appended_at": 0}
    data = outputs.encode_dead_letter(**values, detail="\ud800", key=None, value=b"", headers=[("\udfff", None)])
    assert published.parse_dead_letter(data).detail == "?"


BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("probability", [*BAD, -1e-9, 1.0000001])
def test_no_impossible_probability_is_published(probability: float) -> None:
    """A probability outside [0, 1] is refused where it would be written."""
    with pytest.raises(EncodeError, match=r"p1.*probability"):
        _encode_purchase(**_purchase(probability=probability))


def _purchase(**changes: Any) -> dict[str, Any]:
    values = {"id": "p1", "subject": "u", "as_of": 1, "produced_at": 2, "model_name": "m", "model_version": "1"}
    return {**values, "horizon_s": 60, "probability": 0.5, "event_id": "e", "session_id": None, **changes}


def _demand(**changes: Any) -> dict[str, Any]:
    values = {"id": "p1", "subject": "p", "as_of": 1, "produced_at": 2, "model_name": "m", "model_version": "1"}
    more = {"horizon_s": 60, "revision": 0, "bucket": "D", "starts": [1, 2], "mean": [1.0, 1.0], "levels": [0.1, 0.9]}
    return {**values, **more, "quantiles": [[0.0, 2.0], [0.0, 2.0]], **changes}


@pytest.mark.parametrize(
    "changes",
    [
        *({"mean": [1.0, value]} for value in BAD),
        *({"quantiles": [[0.0, 2.0], [value, 2.0]]} for value in BAD),
        *({"quantiles": [[0.0, 2.0], [0.0, value]]} for value in BAD),
        *({"levels": levels} for levels in ([0.9, 0.1], [0.1, 0.1], [0.0, 0.9], [0.1, 1.0], [0.1, 0.1000000001])),
        {"quantiles": [[2.0, 0.0], [0.0, 2.0]]},
        {"starts": [], "mean": [], "quantiles": []},
    ],
)
def test_no_impossible_forecast_is_published(changes: dict[str, Any]) -> None:
    """A forecast that is not finite, has no steps or whose quantiles cross is refused where it would be written."""
    outputs.encode_demand(**_demand())
    with pytest.raises(EncodeError):
        outputs.encode_demand(**_demand(**changes))


@pytest.mark.parametrize("value", BAD)
def test_no_model_or_covariate_is_published_that_json_cannot_hold(value: float) -> None:
    """JSON would turn it into null; the error names where it stands."""
    announced = {"model": "purchase", "role": "champion", "name": "m", "version": "1", "path": None, "sha256": None}
    with pytest.raises(EncodeError, match=r"params\.weights\[1\]"):
        outputs.encode_announcement(
            **announced, params={"weights": [0.0, value]}, schema_hash="h", published_at=0, metrics={}
        )
    bucket = {"id": "h", "product_id": "p", "bucket_start": 0, "freq": "D", "quantity": 0, "value_minor": 0}
    with pytest.raises(EncodeError, match="promotion"):
        outputs.encode_history(**bucket, views=0, carts=0, price=None, revision=0, covariates={"promotion": value})


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "wish"},
        {"kind": "demand"},
        {"subject_type": "product"},
        {"payload": {"probability": 1.5, "event_id": "e"}},
        {"payload": {"event_id": "e"}},
        {"horizon_s": 0},
        {"revision": -1},
        {"as_of": "2014-04-01T03:00:00Z"},
        {"model": None},
    ],
)
def test_the_contract_refuses_other_predictions(change: dict[str, Any]) -> None:
    """What a reader could not understand is refused."""
    value = json.loads(_encode_purchase(**_purchase()))
    published.parse_prediction(json.dumps(value).encode())
    with pytest.raises(DecodeError, match="invalid"):
        published.parse_prediction(json.dumps({**value, **change}).encode())


def test_the_contract_refuses_crossing_quantiles() -> None:
    """Quantiles never fall as their level rises, and steps count from 1."""
    value = json.loads(outputs.encode_demand(**_demand()))
    crossing = json.loads(json.dumps(value))
    crossing["payload"]["steps"][0]["quantiles"] = {"0.9": 1.0, "0.1": 2.0}
    shuffled = json.loads(json.dumps(value))
    shuffled["payload"]["steps"].reverse()
    for broken in (crossing, shuffled):
        with pytest.raises(DecodeError, match="invalid"):
            published.parse_prediction(json.dumps(broken).encode())
