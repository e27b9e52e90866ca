"""The compiled kernels that serving needs, compiled or loaded from their cache on disk in one call a role."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from features import engine
from models.linear import prior

__all__ = ["warm_up", "warm_up_demand", "warm_up_scoring"]


def warm_up() -> None:
    """Compile every kernel of features, the online model and the seasonal forecast; a second or two where cached."""
    warm_up_scoring()
    warm_up_demand()
    _warm_up_learning()


def warm_up_scoring() -> None:
    """Compile what scoring calls: features and the online model's prediction."""
    with _without_blas():
        engine.warm_up()
        names = engine.ScoreFeatures.names
        prior(names, engine.ScoreFeatures().schema_hash).predict(np.zeros((1, len(names))))


@contextmanager
def _without_blas() -> Iterator[None]:
    """Hide scipy's linear algebra: no kernel here calls it, and numba takes a third of the time to import it."""
    name = "scipy.linalg"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def warm_up_demand() -> None:
    """Compile what forecasting demand calls: features and the seasonal forecast."""
    # Here, not at the top: River's time series take two seconds to import, which scoring does not need.
    from models.seasonal import forecast

    engine.warm_up()
    for length in (3, 30):
        forecast([1.0, 2.0, 0.0] * length, 7, 2)


def _warm_up_learning() -> None:
    from models.scaling import Scaler, finite_logs

    vector = np.zeros(len(engine.ScoreFeatures.names))
    scaler = Scaler.of(len(vector))
    logs = finite_logs(vector)
    assert logs is not None
    scaler.learn_one(logs)
    scaler.transform_one(logs, 5.0)
