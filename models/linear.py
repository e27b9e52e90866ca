"""The linear model that serves: plain data in, probabilities out, the same bytes whatever the batch.

A prediction is a logistic regression on standardised features: each value goes through a signed logarithm, is
standardised, and clipped, so that one absurd count cannot decide alone. Rows are scored one by one in a fixed order of
summation: batches move after a crash, and a BLAS product would change bits with their size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.scaling import Vector, probabilities

CLIP = 3.0
"""Standardised values are cut at this many standard deviations unless a model says otherwise."""

_TRANSFORM = "log1p"


class ModelDataError(ValueError):
    """Parameters that are no usable model; the message names the field, its value and what was expected."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """A logistic regression as data.

    `mean`, `scale` and `weights` hold one float64 per feature, in the order of `features`, and apply after the signed
    logarithm. A scale of 0 (a feature that never varied) mutes its feature. `horizon_ms` says what was learnt: a
    purchase within so many milliseconds (None: of whatever is asked).

    >>> model = LinearModel("purchase", "7", ("clicks",), "abc", mean=[0.0], scale=[1.0], weights=[2.0], intercept=-1.0)
    >>> model.predict(np.array([[0.0], [math.e - 1]])).round(3).tolist()
    [0.269, 0.731]
    >>> LinearModel.from_params(model.to_params()).to_params() == model.to_params()
    True
    """

    name: str
    version: str
    features: tuple[str, ...]
    schema_hash: str
    mean: Vector
    scale: Vector
    weights: Vector
    intercept: float
    clip: float = CLIP
    transform: str = _TRANSFORM
    horizon_ms: int | None = None
    _inverse: Vector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        place = f"model {self.name}:{self.version}"
        if self.transform != _TRANSFORM:
            raise ModelDataError(f"{place}: transform {self.transform!r} is unknown; expected {_TRANSFORM!r}")
        put = object.__setattr__  # the way to normalise fields of a frozen dataclass
        put(self, "features", tuple(self.features))
        for key in ("mean", "scale", "weights"):
            put(self, key, _floats(f"{place}: {key}", getattr(self, key), len(self.features)))
        for key in ("intercept", "clip"):
            put(self, key, float(_floats(f"{place}: {key}", [getattr(self, key)], 1)[0]))
        if self.horizon_ms is not None and (type(self.horizon_ms) is not int or self.horizon_ms <= 0):
            raise ModelDataError(f"{place}: horizon_ms {self.horizon_ms!r}; a positive number of milliseconds expected")
        if self.clip <= 0 or (self.scale < 0).any():
            raise ModelDataError(f"{place}: clip must be positive and no scale negative; publish the model again")
        inverse = np.divide(1.0, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)
        put(self, "_inverse", _floats(f"{place}: 1 / scale", inverse, len(self.features)))

    def predict(self, vectors: Vector) -> Vector:
        """Return the probability (n,) of each row of `vectors` (n, F); a value that is not finite says nothing."""
        rows = np.ascontiguousarray(vectors, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise ModelDataError(
                f"model {self.name}:{self.version}: vectors of shape {rows.shape} given, (n, {len(self.features)}) "
                "expected; the vectors and the model must share one feature schema"
            )
        out = np.empty(len(rows))
        probabilities(rows, self.mean, self._inverse, self.weights, self.intercept, self.clip, out)
        return out

    def to_params(self) -> dict[str, Any]:
        """Return plain JSON data; floats survive a round trip to the bit."""
        return {
            "name": self.name,
            "version": self.version,
            "features": list(self.features),
            "schema_hash": self.schema_hash,
            "transform": self.transform,
            "clip": self.clip,
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "weights": self.weights.tolist(),
            "intercept": self.intercept,
            "horizon_ms": self.horizon_ms,
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> LinearModel:
        """Read what `to_params` wrote; raises ModelDataError for anything else."""
        try:
            return cls(
                name=str(params["name"]),
                version=str(params["version"]),
                features=tuple(str(feature) for feature in params["features"]),
                schema_hash=str(params["schema_hash"]),
                transform=str(params["transform"]),
                clip=params["clip"],
                mean=params["mean"],
                scale=params["scale"],
                weights=params["weights"],
                intercept=params["intercept"],
                horizon_ms=params["horizon_ms"],
            )
        except KeyError as error:
            raise ModelDataError(f"linear model: {error.args[0]!r} is missing; publish the model again") from error
        except TypeError as error:
            raise ModelDataError(f"linear model: {error}; publish the model again") from error


def prior(features: Sequence[str], schema_hash: str, probability: float = 0.05) -> LinearModel:
    """Return the model that answers `probability` to everything, for as long as nothing has been learnt.

    >>> prior(["clicks"], "abc").predict(np.array([[1e9], [-3.0]])).round(12).tolist()
    [0.05, 0.05]
    """
    if not 0 < probability < 1:
        raise ModelDataError(f"prior: probability {probability} is outside (0, 1)")
    nothing = np.zeros(len(features))
    intercept = math.log(probability / (1 - probability))
    return LinearModel("purchase-prior", "0", tuple(features), schema_hash, nothing, nothing, nothing, intercept)


def _floats(place: str, values: Any, length: int) -> Vector:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelDataError(f"{place} holds {values!r:.80}; numbers expected") from error
    if array.shape != (length,) or not np.isfinite(array).all():
        raise ModelDataError(f"{place} has shape {array.shape}; {length} finite numbers expected")
    array.setflags(write=False)
    return array
