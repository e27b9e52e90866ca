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
    return _digest("score-5", schema_hash)


def demand_layout() -> str:
    """Return the layout of the demand stage's rows."""
    return _digest("demand-3", ProductFeatures().schema_hash)


def user_partition(user_id: str, tasks: int) -> int:
    """Return the input partition, and so the score task, that Kafka's own partitioner (murmur2) gives a user's key.

    >>> user_partition("u1", 4), user_partition("u2", 4)
    (0, 2)
    """
    return (_murmur2(user_id.encode()) & 0x7FFFFFFF) % tasks


@lru_cache(maxsize=1 << 16)
def activity_partition(id_: str, tasks: int) -> int:
    """Return the activity partition, and so the demand task, of a product or a category.

    >>> activity_partition("p1", 1)
    0
    """
    return crc32(id_.encode()) % tasks


def demand_store_name(partition: int) -> str:
    """Return the store name of the demand task `partition`."""
    return f"{DEMAND_STAGE}.{_DEMAND_LAYOUT}-{partition}"


_DEMAND_LAYOUT = demand_layout()
_MASK = 0xFFFFFFFF


def _murmur2(data: bytes) -> int:
    """Return the 32-bit hash of a key, as `org.apache.kafka.common.utils.Utils.murmur2` has it, unsigned."""
    value = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _M & _MASK
        word = (word ^ (word >> 24)) * _M & _MASK
        value = (value * _M & _MASK) ^ word
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    value = (value ^ (value >> 13)) * _M & _MASK
    return value ^ (value >> 15)


_M = 0x5BD1E995
