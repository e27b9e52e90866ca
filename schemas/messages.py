"""What Tidecast publishes, as frozen structs: what `schemas.outputs` encodes and decodes.

`schemas.published` is their contract. Times are UTC milliseconds, money is in minor units.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.wire import MAX_INT, MAX_TEXT, TIME_END

SCHEMA = 1
"""Version of every envelope here."""

Id = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Label = Annotated[str, Meta(min_length=1, max_length=1_000)]
Signed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
# The week of 1970-01-01 began before it.
BucketStart = Annotated[int, Meta(ge=-7 * 86_400_000, lt=TIME_END)]


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """Which model, which version of it."""

    name: str
    version: str


class PurchasePayload(msgspec.Struct, frozen=True, gc=False):
    """The probability that the subject buys within the horizon after the click `event_id`."""

    probability: float
    event_id: str
    session_id: str | None = None


class PurchasePrediction(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="purchase", kw_only=True):
    """A prediction of the kind purchase; times in UTC ms, the horizon in seconds."""

    schema: int = SCHEMA
    id: str
    subject_type: Literal["user"] = "user"
    subject: str
    as_of: int
    produced_at: int
    model: ModelRef
    horizon_s: int
    revision: int = 0
    payload: PurchasePayload


class DemandStep(msgspec.Struct, frozen=True, gc=False):
    """Units sold in the bucket that begins at `start` (UTC ms); quantiles by level, as in ``{"0.1": 3.0}``."""

    step: int
    start: int
    mean: float
    quantiles: dict[str, float]


class DemandPayload(msgspec.Struct, frozen=True, gc=False):
    """Steps ahead, the first the bucket after `as_of`; the bucket is an hour, a day or a week."""

    bucket: Literal["H", "D", "W"]
    steps: list[DemandStep]


class DemandPrediction(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="demand", kw_only=True):
    """A prediction of the kind demand; times in UTC ms, the horizon in seconds."""

    schema: int = SCHEMA
    id: str
    subject_type: Literal["product"] = "product"
    subject: str
    as_of: int
    produced_at: int
    model: ModelRef
    horizon_s: int
    revision: int
    payload: DemandPayload


class DeadLetter(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A record that was refused: where it stood, why, and its bytes (base64), cut where `truncated`."""

    schema: int = SCHEMA
    id: str
    topic: str
    partition: int
    offset: int
    reason: Literal["undecodable", "invalid", "future", "late", "oversized"]
    detail: str
    appended_at: int
    key_b64: str | None
    value_b64: str | None
    truncated: bool
    size: int
    sha256: str | None
    headers: list[tuple[str, str | None]]

    def key(self) -> bytes | None:
        """Return the original key, or its first bytes where it was too long."""
        return None if self.key_b64 is None else base64.b64decode(self.key_b64, validate=True)

    def value(self) -> bytes | None:
        """Return the original value, or its first bytes where it was too long."""
        return None if self.value_b64 is None else base64.b64decode(self.value_b64, validate=True)


class HistoryBucket(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A closed bucket of one product: what sold (net of cancellations), for how much, and what was known of it."""

    schema: int = SCHEMA
    id: Label
    product_id: Id
    bucket_start: BucketStart
    freq: Literal["H", "D", "W"]
    quantity: Signed
    value_minor: Signed
    views: Count
    carts: Count
    price: Count | None
    covariates: dict[str, float]
    revision: Count


class Announcement(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A model version to serve: its parameters inline, or its folder in the registry."""

    schema: int = SCHEMA
    model: Literal["purchase", "demand"]
    role: Literal["champion", "shadow"]
    name: Label
    version: Label
    params: dict[str, Any] | None = None
    path: str | None = None
    sha256: str | None = None
    schema_hash: str
    published_at: int
    metrics: dict[str, float] = {}


Prediction = PurchasePrediction | DemandPrediction
"""The envelope on `predictions`, of either kind."""
