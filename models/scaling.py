"""What every linear model does to a vector first: a signed logarithm, then standardisation, then a clip.

`Scaler` is River's StandardScaler over arrays: the same recurrence, the same bits, at a twentieth of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(slots=True)
class Scaler:
    """Running means and variances of F values.

    >>> scaler = Scaler.of(1)
    >>> for value in (1.0, 3.0):
    ...     scaler.learn_one(np.array([value]))
    >>> scaler.transform_one(np.array([3.0]), clip=5.0).tolist()
    [1.0]
    """

    count: int
    mean: Vector
    variance: Vector

    @classmethod
    def of(cls, size: int) -> Scaler:
        """Return a scaler of `size` values that has seen nothing."""
        return cls(0, np.zeros(size), np.zeros(size))

    def learn_one(self, values: Vector) -> None:
        """Take one vector (F,) into the statistics."""
        self.count += 1
        _welford(values, self.count, self.mean, self.variance)

    def transform_one(self, values: Vector, clip: float) -> Vector:
        """Return `values` (F,) in standard deviations from the mean, within ``[-clip, clip]``; 0 where none varied."""
        out = np.empty_like(values)
        _standardise(values, self.mean, self.variance, clip, out)
        return out


def finite_logs(vector: Vector) -> Vector | None:
    """Return the signed logarithms of a vector (F,), or None if one of its values is not finite."""
    out = np.empty(len(vector))
    return out if _finite_logs(vector, out) else None


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def signed_log(value: float) -> float:
    """Return sign(value) * log(1 + abs(value)): counts and money spread over decades come close together."""
    return math.log1p(value) if value >= 0.0 else -math.log1p(-value)


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def _finite_logs(vector: Vector, out: Vector) -> bool:
    for column in range(len(vector)):
        if not math.isfinite(vector[column]):
            return False
        out[column] = signed_log(vector[column])
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def _welford(values: Vector, count: int, mean: Vector, variance: Vector) -> None:
    for column in range(len(values)):
        before = mean[column]
        mean[column] += (values[column] - before) / count
        spread = (values[column] - before) * (values[column] - mean[column])
        variance[column] += (spread - variance[column]) / count


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no stubs
def _standardise(values: Vector, mean: Vector, variance: Vector, clip: float, out: Vector) -> None:
    for column in range(len(values)):
        standard = 0.0
        if variance[column] > 0.0:
            standard = (values[column] - mean[column]) / math.sqrt(variance[column])
        out[column] = min(max(standard, -clip), clip)
