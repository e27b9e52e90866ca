"""The compiled kernels that roles need, compiled or loaded from their cache on disk.

``python -m streams.kernels`` fills the cache once, after an installation.
"""

from __future__ import annotations

import numpy as np

from features.vectors import pack_vectors
from models import kernels
from streams.runtime.dedup import NEVER, Dedup

__all__ = ["load"]


def load(role: str) -> None:
    """Load a role's own kernels: those of the others bring libraries along that take seconds to import."""
    if role == "score":
        kernels.warm_up_scoring()
        _warm_up_door()
        _warm_up_examples()
    else:
        kernels.warm_up_demand()


def _warm_up_door() -> None:
    door = Dedup(0)
    ids = [str(n) for n in range(1_000)]  # more than an empty table has room for: growing is a kernel, too
    door.judge(door.digests(ids), np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_), NEVER, NEVER)
    rows = door.drain(None)
    Dedup(0).restore(door.span(), list(rows.values()))


def _warm_up_examples() -> None:
    pack_vectors(np.zeros((1, 1)))


if __name__ == "__main__":
    kernels.warm_up()
    _warm_up_door()
    _warm_up_examples()
