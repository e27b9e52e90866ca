"""The contract of what Tidecast publishes: predictions, dead letters, history and model announcements.

The published JSON Schemas come from here. The hot path writes the same bytes with `schemas.outputs`; a property test
shows that whatever it writes, these models accept.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, model_validator

from schemas.events import Contract, Finite, Id, explain
from schemas.wire import MAX_BYTES, MAX_INT, DecodeError, load_object


def _rising(quantiles: dict[str, float]) -> dict[str, float]:
    levels = sorted(quantiles, key=float)
    if not all(0.0 < float(level) < 1.0 for level in levels):
        raise ValueError("levels must lie within 0 and 1")
    if any(quantiles[low] > quantiles[high] for low, high in pairwise(levels)):
        raise ValueError("quantiles must not fall as their level rises")
    return quantiles


def _base64(text: str) -> str:
    base64.b64decode(text, validate=True)
    return text


Label = Annotated[str, Field(min_length=1, max_length=1_000)]
Moment = Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Signed = Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)]
Base64 = Annotated[str, AfterValidator(_base64), Field(json_schema_extra={"contentEncoding": "base64"})]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Quantiles = Annotated[
    dict[Annotated[str, Field(pattern=r"^0\.[0-9]{1,6}$")], Finite], Field(min_length=1), AfterValidator(_rising)
]
Version = Annotated[int, Field(ge=1, le=MAX_INT, description="version of this envelope")]
Bucket = Literal["H", "D", "W"]


class ModelRef(Contract):
    """Which model, which version of it."""

    name: Label = Field(description="such as online, seasonal or sequence")
    version: Label = Field(description="immutable: the same name and version are the same model for ever")


class _Envelope(Contract):
    schema_: Version = Field(alias="schema")
    id: Label = Field(description="a function of what caused the prediction: each occurs once")
    as_of: Moment = Field(description="event time that the prediction looks ahead from (UTC ms); nothing later counted")
    produced_at: Moment = Field(description="when it was computed, for measuring delay only (UTC ms)")
    model: ModelRef = Field(description="the model that made it")
    horizon_s: Annotated[int, Field(ge=1, le=MAX_INT)] = Field(description="how far it looks ahead (seconds)")
    revision: Count = Field(description="0 first; a greater one replaces the same subject's at the same `as_of`")


class PurchasePayload(Contract):
    """Will this user buy?"""

    probability: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = Field(
        description="of an order by the subject within the horizon"
    )
    event_id: Id = Field(description="the click that it was computed after")
    session_id: Id | None = Field(None, description="the visit of that click")


class PurchasePrediction(_Envelope):
    """The probability that a user buys, after each of the user's clicks; the record's key is the subject."""

    kind: Literal["purchase"] = Field(description="what is predicted")
    subject_type: Literal["user"] = Field(description="what the subject is")
    subject: Id = Field(description="the user's id")
    payload: PurchasePayload


class DemandStep(Contract):
    """One bucket ahead."""

    step: Annotated[int, Field(ge=1, le=10_000)] = Field(description="1 is the first bucket not yet closed")
    start: Moment = Field(description="when the bucket begins (UTC ms)")
    mean: Finite = Field(description="expected units sold")
    quantiles: Quantiles = Field(description="units sold by level, such as 0.1 and 0.9; never falling")


class DemandPayload(Contract):
    """How much will this product sell?"""

    bucket: Bucket = Field(description="an hour, a day or a week (from Monday) in the shop's time zone")
    steps: Annotated[tuple[DemandStep, ...], Field(strict=False)] = Field(min_length=1, description="in rising order")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if [step.step for step in self.steps] != list(range(1, len(self.steps) + 1)):
            raise ValueError("steps must count from 1")
        if any(one.start >= other.start for one, other in pairwise(self.steps)):
            raise ValueError("starts must rise")
        return self


class DemandPrediction(_Envelope):
    """A product's sales over the next buckets, each time one closes; the record's key is the subject."""

    kind: Literal["demand"] = Field(description="what is predicted")
    subject_type: Literal["product"] = Field(description="what the subject is")
    subject: Id = Field(description="the product's id")
    payload: DemandPayload


Prediction = Annotated[PurchasePrediction | DemandPrediction, Field(discriminator="kind")]
"""The envelope on `predictions`; `kind` says which payload it carries."""
PREDICTION: TypeAdapter[PurchasePrediction | DemandPrediction] = TypeAdapter(Prediction)


class DeadLetter(Contract):
    """A record that could not be taken; the record's key is the original one."""

    schema_: Version = Field(alias="schema")
    id: Label = Field(description="a function of the refused record's place")
    topic: Label = Field(description="where it stood")
    partition: Count = Field(description="where it stood")
    offset: Count = Field(description="where it stood")
    reason: Literal["undecodable", "invalid", "future", "late", "oversized"] = Field(description="why it was refused")
    detail: Annotated[str, Field(max_length=1_000)] = Field(description="the rule it broke, and where")
    appended_at: Moment = Field(description="the log's append time (UTC ms)")
    key_b64: Base64 | None = Field(description="the original key, cut like the value")
    value_b64: Base64 | None = Field(description="the original value: whole up to 64 KiB, else its first KiB")
    truncated: bool = Field(description="something was cut; the whole record is where it stood, while the log keeps it")
    size: Count = Field(description="of the original value (bytes)")
    sha256: Sha256 | None = Field(description="of the original value")
    headers: list[Annotated[tuple[str, Base64 | None], Field(strict=False)]] = Field(description="name and content")


class HistoryBucket(Contract):
    """A closed bucket of one product; the record's key is ``product|bucket_start``, the greatest revision counts."""

    schema_: Version = Field(alias="schema")
    id: Label = Field(description="a function of product, bucket and revision")
    product_id: Id = Field(description="the product")
    bucket_start: Moment = Field(description="when the bucket began (UTC ms)")
    freq: Bucket = Field(description="its length: an hour, a day or a week")
    quantity: Signed = Field(description="units sold, less those returned or cancelled")
    value_minor: Signed = Field(description="their value, in minor units")
    views: Count = Field(description="clicks of type view")
    carts: Count = Field(description="clicks of type add_to_cart")
    price: Count | None = Field(description="last price of one piece, in minor units; null: unknown")
    covariates: dict[str, Finite] = Field(description="what catalog and plan said of the bucket")
    revision: Count = Field(description="0 at the close; greater after a late but allowed change")


class ModelAnnouncement(Contract):
    """A model version to serve; the record's key is ``model/role``."""

    schema_: Version = Field(alias="schema")
    model: Literal["purchase", "demand"] = Field(description="what it predicts")
    role: Literal["champion", "shadow"] = Field(description="whether its predictions are published")
    name: Label = Field(description="of the model")
    version: Label = Field(description="immutable: the same name and version are the same model for ever")
    params: dict[str, Any] | None = Field(None, description="the whole model as plain data, where it is small")
    path: Label | None = Field(None, description="else its folder in the registry")
    sha256: Sha256 | None = Field(None, description="of the folder's card")
    schema_hash: Annotated[str, Field(max_length=200)] = Field(description="of the feature schema it was trained on")
    published_at: Moment = Field(description="event time of the announcement (UTC ms)")
    metrics: dict[str, Finite] = Field(default_factory=dict, description="how well it did when it was published")


def parse_prediction(data: bytes) -> PurchasePrediction | DemandPrediction:
    """Read a prediction by the contract, or raise DecodeError."""
    return _parse(PREDICTION, data)


def parse_dead_letter(data: bytes) -> DeadLetter:
    """Read a dead letter by the contract, or raise DecodeError."""
    return _parse(TypeAdapter(DeadLetter), data)


def parse_history(data: bytes) -> HistoryBucket:
    """Read a closed bucket by the contract, or raise DecodeError."""
    return _parse(TypeAdapter(HistoryBucket), data)


def parse_announcement(data: bytes) -> ModelAnnouncement:
    """Read a model announcement by the contract, or raise DecodeError."""
    return _parse(TypeAdapter(ModelAnnouncement), data)


_T = TypeVar("_T")


def _parse(adapter: TypeAdapter[_T], data: bytes) -> _T:
    value: Mapping[str, Any] | BaseModel = load_object(data, 16 * MAX_BYTES)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise DecodeError("invalid", explain(error)) from None
