"""Hashes of ids: 64 bits, the same in every process and on every machine (Python's own are neither)."""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.jit import helper, kernel
from features.sets import SESSION_PERIOD_MS

_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_PERIOD = np.uint64(0x9E3779B97F4A7C15)
_ANONYMOUS = np.uint64(0xD6E8FEB86659FD93)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@helper
def mix(x):
    """Return the finaliser of splitmix64 of the uint64 `x`: every bit moves half of the others."""
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)


@helper
def session_key(session, time):
    """Return the key of the session with hash `session` in the period of `time`."""
    return np.int64(mix(np.uint64(session) ^ (np.uint64(time // SESSION_PERIOD_MS) * _PERIOD)))


@helper
def anonymous_key(time):
    """Return the key of a session without an id that begins at `time`."""
    return np.int64(mix(mix(np.uint64(time) ^ _ANONYMOUS)))


@kernel
def _fnv1a(text, lengths, out):
    at = 0
    for i in range(len(lengths)):
        value = _BASIS
        for _ in range(lengths[i]):
            value = (value ^ np.uint64(text[at])) * _PRIME
            at += 1
        # 0 stands for "none"
        out[i] = np.int64(mix(value)) if lengths[i] > 0 else 0


def visitors(users: Sequence[str | None]) -> list[int]:
    """Return 32 bits of the hash of each user id, never 0; 0 for None: unknown.

    >>> a, none, b = visitors(["u1", None, "u1"])
    >>> a == b > 0 == none
    True
    """
    whole = hash_texts(users)
    hashes = (whole >> 32) & 0xFFFFFFFF
    hashes[(hashes == 0) & (whole != 0)] = 1
    found: list[int] = hashes.tolist()
    return found


def hash_texts(texts: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the hash (n,) of each text: FNV-1a of its UTF-8 bytes, finalised with splitmix64; 0 for None and "".

    >>> a, none, b = hash_texts(["basket", None, "basket"])
    >>> bool(a == b != 0), int(none)
    (True, 0)
    """
    if not any(texts):
        return np.zeros(len(texts), np.int64)
    out = np.empty(len(texts), np.int64)
    plain = [text or "" for text in texts]
    joined = "".join(plain)
    data = joined.encode()
    if len(data) == len(joined):
        lengths = np.fromiter(map(len, plain), np.int64, len(plain))
    else:
        lengths = np.fromiter((len(text.encode()) for text in plain), np.int64, len(plain))
    _fnv1a(np.frombuffer(data, np.uint8), lengths, out)
    return out
