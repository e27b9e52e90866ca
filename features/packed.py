"""Between packed rows as the store has them (a bytes object each) and as the kernels do (one buffer)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from features.columns import FeatureError

_CHUNK = 512
_VERSION_AT = 8

Pack = Callable[[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]], None]


def check(rows: Mapping[str, bytes | None], version: int) -> None:
    """Raise FeatureError unless all packed rows have the format `version`."""
    for key, packed in rows.items():
        if packed is not None and (len(packed) <= _VERSION_AT or packed[_VERSION_AT] != version):
            found = packed[_VERSION_AT] if len(packed) > _VERSION_AT else "none"
            raise FeatureError(f"row of {key!r}: format {found}, expected {version}; rebuild the rows from the log")


def joined(rows: Mapping[str, bytes | None]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all rows in one buffer, and where each ends (None and the row before it at the same place)."""
    packed = [row or b"" for row in rows.values()]
    ends = np.cumsum(np.fromiter(map(len, packed), np.int64, len(packed)))
    return np.frombuffer(b"".join(packed), np.uint8), ends


def split(keys: Sequence[str | None], slots: NDArray[np.int64], pack: Pack, longest: int) -> dict[str, bytes]:
    """Return the packed row of each key, calling ``pack(slots, buffer, ends)`` on some at a time."""
    rows: dict[str, bytes] = {}
    buffer = np.empty(longest * min(len(slots), _CHUNK), np.uint8)
    for first in range(0, len(slots), _CHUNK):
        part = slots[first : first + _CHUNK]
        ends = np.empty(len(part), np.int64)
        pack(part, buffer, ends)
        data = buffer[: int(ends[-1])].tobytes()
        start = 0
        for key, end in zip(keys[first : first + _CHUNK], ends.tolist(), strict=True):
            assert key is not None, "a slot in use has a key"
            rows[key] = data[start:end]
            start = end
    return rows
