"""How the kernels are compiled: numba, without fastmath, cached on disk under the content of all of them.

They allocate nothing and own nothing, so they are compiled without numba's reference counting (`_nrt`): its atomic
operations on every slice took half of the time. Scratch space comes in as an argument.

numba's own cache looks only at the file that holds a function, yet ours call each other and freeze constants of the
layout; and it looks at file times, which an installation changes. So the stamp of every cached kernel here is a hash of
the sources that it can depend on: a cache that was compiled once can be shipped, and never goes stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

_HERE = Path(__file__).parent
_SOURCES = (
    "jit.py",
    "sets.py",
    "layout.py",
    "columns.py",
    "hashing.py",
    "log.py",
    "kernel.py",
    "product_kernel.py",
    "market.py",
    "vectors.py",
    "visitors.py",
    "bytes.py",
    "rows.py",
    "product_rows.py",
)
_STAMP = hashlib.blake2b(b"".join((_HERE / name).read_bytes() for name in _SOURCES), digest_size=16).hexdigest()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` on first use with ``njit(cache=True)``, cached under the content of all kernels."""
    dispatcher = njit(cache=True, error_model="numpy", _nrt=False)(function)
    dispatcher._cache._cache_file._source_stamp = _STAMP
    compiled: Callable[..., Any] = dispatcher
    return compiled


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a helper that only kernels call; it lives inside their cached code."""
    compiled: Callable[..., Any] = njit(error_model="numpy", _nrt=False)(function)
    return compiled
