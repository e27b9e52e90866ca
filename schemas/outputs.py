"""The hot path of the outputs: values to the bytes that `schemas.published` describes, and back.

What JSON cannot say is refused here, not published: a float that is not finite, a probability outside [0, 1], quantiles
that cross. Encoders raise EncodeError for it, decoders DecodeError.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, Literal

import msgspec

from schemas.messages import (
    Announcement,
    DeadLetter,
    DemandPayload,
    DemandPrediction,
    DemandStep,
    HistoryBucket,
    ModelRef,
    Prediction,
    PurchasePayload,
    PurchasePrediction,
)
from schemas.wire import DecodeError, decoded

__all__ = [
    "Announcement",
    "DeadLetter",
    "DecodeError",
    "DemandPrediction",
    "EncodeError",
    "HistoryBucket",
    "Prediction",
    "PurchasePrediction",
    "decode_announcement",
    "decode_dead_letter",
    "decode_history",
    "decode_prediction",
    "encode_announcement",
    "encode_dead_letter",
    "encode_demand",
    "encode_history",
    "encode_purchases",
]

VALUE_BYTES = 65_536
"""A dead letter holds a value, or a key, of up to this many bytes whole."""
HEAD_BYTES = 1_024
"""And this many first bytes of a longer one."""


class EncodeError(ValueError):
    """A value that must not be published; the message names the record, the field and the value."""


def encode_purchases(
    ids: Sequence[str],
    subjects: Sequence[str],
    as_of: Sequence[int],
    produced_at: int,
    model_name: str,
    model_version: str,
    horizon_s: int,
    probabilities: Sequence[float],
    event_ids: Sequence[str],
    session_ids: Sequence[str | None],
) -> list[bytes]:
    """Encode purchase predictions of one model; the key of each is its subject in UTF-8."""
    wrong = [place for place, probability in enumerate(probabilities) if not 0.0 <= probability <= 1.0]
    if wrong:
        raise EncodeError(f"prediction {ids[wrong[0]]}: probability is {probabilities[wrong[0]]}, not in [0, 1]")
    model = _model(model_name, model_version)
    payloads = map(PurchasePayload, probabilities, event_ids, session_ids)
    return [
        _encode(
            PurchasePrediction(
                id=id_,
                subject=subject,
                as_of=moment,
                produced_at=produced_at,
                model=model,
                horizon_s=horizon_s,
                payload=payload,
            )
        )
        for id_, subject, moment, payload in zip(ids, subjects, as_of, payloads, strict=True)
    ]


def encode_demand(
    *,
    id: str,
    subject: str,
    as_of: int,
    produced_at: int,
    model_name: str,
    model_version: str,
    horizon_s: int,
    revision: int,
    bucket: Literal["H", "D", "W"],
    starts: Sequence[int],
    mean: Sequence[float],
    quantiles: Sequence[Sequence[float]],
    levels: Sequence[float],
) -> bytes:
    """Encode a demand prediction; `quantiles` is (steps × levels), `levels` rises. Its key is the subject in UTF-8."""
    names = _level_names(tuple(levels))
    steps = []
    for number, (start, centre, row) in enumerate(zip(starts, mean, quantiles, strict=True), 1):
        if not isfinite(centre):
            raise EncodeError(f"prediction {id}: the mean of step {number} is {centre}")
        if not all(map(isfinite, row)) or list(row) != sorted(row):
            raise EncodeError(f"prediction {id}: the quantiles of step {number} are not finite and rising: {row}")
        steps.append(DemandStep(number, start, centre, dict(zip(names, row, strict=True))))
    if not steps:
        raise EncodeError(f"prediction {id}: no steps")
    return _encode(
        DemandPrediction(
            id=id,
            subject=subject,
            as_of=as_of,
            produced_at=produced_at,
            model=_model(model_name, model_version),
            horizon_s=horizon_s,
            revision=revision,
            payload=DemandPayload(bucket, steps),
        )
    )


def encode_history(
    *,
    id: str,
    product_id: str,
    bucket_start: int,
    freq: Literal["H", "D", "W"],
    quantity: int,
    value_minor: int,
    views: int,
    carts: int,
    price: int | None,
    covariates: Mapping[str, float],
    revision: int,
) -> bytes:
    """Encode a closed bucket; its key is "product|bucket start"."""
    _check_finite(f"history {id}: covariates", covariates)
    return _encode(
        HistoryBucket(
            id=id,
            product_id=product_id,
            bucket_start=bucket_start,
            freq=freq,
            quantity=quantity,
            value_minor=value_minor,
            views=views,
            carts=carts,
            price=price,
            covariates=dict(covariates),
            revision=revision,
        )
    )


def encode_announcement(
    *,
    model: Literal["purchase", "demand"],
    role: Literal["champion", "shadow"],
    name: str,
    version: str,
    params: Mapping[str, Any] | None,
    path: str | None,
    sha256: str | None,
    schema_hash: str,
    published_at: int,
    metrics: Mapping[str, float],
) -> bytes:
    """Encode a model announcement; its key is "model/role"."""
    if (params is None) == (path is None):
        raise EncodeError(f"announcement {name}:{version}: give either params or path")
    _check_finite(f"announcement {name}:{version}: params", params)
    _check_finite(f"announcement {name}:{version}: metrics", metrics)
    return _encode(
        Announcement(
            model=model,
            role=role,
            name=name,
            version=version,
            params=None if params is None else dict(params),
            path=path,
            sha256=sha256,
            schema_hash=schema_hash,
            published_at=published_at,
            metrics=dict(metrics),
        )
    )


def encode_dead_letter(
    *,
    topic: str,
    partition: int,
    offset: int,
    reason: str,
    detail: str,
    appended_at: int,
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]],
) -> bytes:
    """Encode a dead letter; never fails, and stays under 300 KB whatever it is about. Its key is the original one."""
    cut = False

    def kept(data: bytes | None, whole: int = VALUE_BYTES) -> str | None:
        nonlocal cut
        if data is None:
            return None
        if len(data) > whole:
            cut, data = True, data[:HEAD_BYTES]
        return base64.b64encode(data).decode()

    value_b64, key_b64 = kept(value), kept(key)
    pairs: list[tuple[str, str | None]] = []
    room = VALUE_BYTES
    for name, content in headers:
        room -= 64 + 4 * len(name) + len(content or b"")
        if room < 0:
            cut = True
            break
        pairs.append((_text(name), kept(content)))
    letter = DeadLetter(
        id=f"{topic}-{partition}-{offset}-deadletter",
        topic=topic,
        partition=partition,
        offset=offset,
        reason=reason,  # type: ignore[arg-type]  # the caller counts by the same slugs; the contract's test holds them
        detail=_text(detail[:1_000]),
        appended_at=appended_at,
        key_b64=key_b64,
        value_b64=value_b64,
        truncated=cut,
        size=0 if value is None else len(value),
        sha256=None if value is None else hashlib.sha256(value).hexdigest(),
        headers=pairs,
    )
    return _encode(letter)


def decode_prediction(data: bytes) -> Prediction:
    """Decode a prediction of either kind, or raise DecodeError."""
    return decoded(_prediction, data)


def decode_history(data: bytes) -> HistoryBucket:
    """Decode a closed bucket, or raise DecodeError."""
    return decoded(_history, data)


def decode_announcement(data: bytes) -> Announcement:
    """Decode a model announcement, or raise DecodeError."""
    return decoded(_announcement, data)


def decode_dead_letter(data: bytes) -> DeadLetter:
    """Decode a dead letter, or raise DecodeError."""
    return decoded(_dead_letter, data)


_encode = msgspec.json.Encoder().encode
_prediction: msgspec.json.Decoder[Prediction] = msgspec.json.Decoder(Prediction)
_history = msgspec.json.Decoder(HistoryBucket)
_announcement = msgspec.json.Decoder(Announcement)
_dead_letter = msgspec.json.Decoder(DeadLetter)


@lru_cache(maxsize=256)
def _model(name: str, version: str) -> ModelRef:
    return ModelRef(name, version)


@lru_cache(maxsize=16)
def _level_names(levels: tuple[float, ...]) -> tuple[str, ...]:
    # Names hold six digits.
    rounded = [round(level, 6) for level in levels]
    if not all(0.0 < level < 1.0 for level in rounded) or rounded != sorted(set(rounded)):
        raise EncodeError(f"quantile levels must rise within (0, 1), not {levels}")
    return tuple(f"{level:.6f}".rstrip("0") for level in levels)


def _check_finite(place: str, value: Any) -> None:
    if isinstance(value, float):
        if not isfinite(value):
            raise EncodeError(f"{place} is {value}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(f"{place}.{key}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_finite(f"{place}[{number}]", item)


def _text(text: str) -> str:
    # A dead letter about broken text must not break on it.
    return text.encode("utf-8", "replace").decode()
