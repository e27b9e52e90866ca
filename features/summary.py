"""What a packed row says, in features: for people who ask, and for tests that compare a store with raw events."""

from __future__ import annotations

import numpy as np

from features.engine import ScoreFeatures
from features.products import ProductFeatures
from features.sets import SCORE_SET


def user_summary(packed: bytes) -> dict[str, float]:
    """Return the user's and the session's features as of the newest stamp in a packed row, by name.

    Raises FeatureError for bytes that are no packed row.
    """
    features = ScoreFeatures()
    features.load_user("", packed)
    return _named(features.newest_vector(""), ("user", "session"))


def product_summary(packed: bytes, time: int) -> dict[str, float]:
    """Return a product's features as of `time` (ms) from its packed row, by name; the price ratio is that of no price.

    Raises FeatureError for bytes that are no packed row.
    """
    products = ProductFeatures()
    products.load("", packed)
    return _named(products.vector("", time), ("product",))


def _named(vector: np.ndarray[tuple[int], np.dtype[np.float64]], entities: tuple[str, ...]) -> dict[str, float]:
    return {
        feature.name: value
        for feature, value in zip(SCORE_SET, vector.tolist(), strict=True)
        if feature.entity in entities
    }
