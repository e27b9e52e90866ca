"""How rows are laid out and where they live: what one stage must know to read another's rows."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from zlib import crc32

from features.products import ProductFeatures

SCORE_STAGE = "score"
DEMAND_STAGE = "demand"
LEARN_STAGE = "learn"


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=3).hexdigest()


def score_layout(schema_hash: str) -> str:
    """Return the layout of the score stage's rows under a feature schema."""
    return _digest("score-3", schema_hash)


def demand_layout() -> str:
    """Return the layout of the demand stage's rows."""
    return _digest("demand-2", ProductFeatures().schema_hash)


@lru_cache(maxsize=1 << 16)
def product_partition(product_id: str, tasks: int) -> int:
    """Return the activity partition, and so the demand task, of a product.

    >>> product_partition("p1", 1)
    0
    """
    return crc32(product_id.encode()) % tasks


def product_store_name(partition: int) -> str:
    """Return the store name of the demand task `partition`."""
    return f"{DEMAND_STAGE}.{_DEMAND_LAYOUT}-{partition}"


_DEMAND_LAYOUT = demand_layout()
