"""The declaration is complete and honest, and what is derived from it agrees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from features.hashing import hash_texts
from features.layout import COLUMN, INTEREST_WEIGHTS, LEVEL_MS, LEVELS, POPULARITY_WEIGHTS, PRICE_LEVEL, WIDTH
from features.sets import MEMORY_MS, SCORE_FEATURES, SCORE_SET, USER_WINDOWS, memory_ms, schema_hash


def test_names_are_unique_and_described() -> None:
    """Every feature has its own name, a description and a unit."""
    assert len(set(SCORE_FEATURES)) == len(SCORE_FEATURES) == WIDTH == len(COLUMN) >= 40
    assert all(feature.description and feature.unit for feature in SCORE_SET)


def test_memory_is_the_longest() -> None:
    """No window looks back further than the declared memory."""
    assert memory_ms() == max(feature.memory_ms for feature in SCORE_SET) >= MEMORY_MS
    assert all(feature.memory_ms >= (feature.window.span_ms if feature.window else 0) for feature in SCORE_SET)


def test_hash_moves_with_every_field() -> None:
    """Any change of a definition, its order included, changes the schema hash."""
    changed = [
        schema_hash((replace(SCORE_SET[0], description="else"), *SCORE_SET[1:])),
        schema_hash((replace(SCORE_SET[0], window=USER_WINDOWS[1]), *SCORE_SET[1:])),
        schema_hash(SCORE_SET[::-1]),
        schema_hash(SCORE_SET[1:]),
        schema_hash(),
    ]
    assert len(set(changed)) == len(changed)


def test_kernels_fit_the_declaration() -> None:
    """The kernels unroll four levels whose tiles divide each other, and decays are cut where weights end."""
    assert LEVELS == 4
    assert not (LEVEL_MS[1:] % LEVEL_MS[:-1]).any()
    assert INTEREST_WEIGHTS[0] == POPULARITY_WEIGHTS[0] == 1 << 20
    assert (np.diff(INTEREST_WEIGHTS) < 0).all()
    assert SCORE_SET[COLUMN["user_mean_price_7d"]].window == USER_WINDOWS[PRICE_LEVEL]


def test_hashes_are_the_same_everywhere() -> None:
    """Ids hash to fixed numbers: packed rows of yesterday must mean the same today."""
    assert hash_texts(["session", "ü", None, ""]).tolist() == [plain("session"), plain("ü"), 0, 0]


def plain(text: str) -> int:
    """FNV-1a finalised with splitmix64, in plain Python."""
    mask, value = (1 << 64) - 1, 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    value ^= value >> 31
    return value - (1 << 64) if value >> 63 else value
