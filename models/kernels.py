"""All compiled kernels that serving needs, compiled or loaded from their cache on disk in one call.

``python -m models.kernels`` fills the cache once, after an installation.
"""

from __future__ import annotations

import numpy as np

from features import engine
from models.linear import prior
from models.scaling import Scaler, finite_logs
from models.seasonal import forecast

__all__ = ["warm_up"]


def warm_up() -> None:
    """Compile every kernel of features, the online model and the seasonal forecast; a second or two where cached."""
    engine.warm_up()
    names = engine.ScoreFeatures.names
    vector = np.zeros(len(names))
    prior(names, engine.ScoreFeatures().schema_hash).predict(vector.reshape(1, -1))
    scaler = Scaler.of(len(names))
    logs = finite_logs(vector)
    assert logs is not None
    scaler.learn_one(logs)
    scaler.transform_one(logs, 5.0)
    for length in (3, 30):
        forecast([1.0, 2.0, 0.0] * length, 7, 2)


if __name__ == "__main__":
    warm_up()
