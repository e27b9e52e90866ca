"""Vectors on their way to the wire: what `schemas.vectors` reads, written by a kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.jit import kernel
from schemas.vectors import BYTE, DOUBLE, HEAD, ONE, SINGLE

_NEGATIVE_ZERO = np.int64(-(1 << 63))
_SAME, _SMALL, _HALF = 1, 2, 4


def pack_vectors(vectors: NDArray[np.float64]) -> bytes:
    """Return `vectors` (n, F) as bytes, without loss.

    >>> from schemas.vectors import unpack_vectors
    >>> vectors = np.array([[0.0, 3.0, 0.5], [0.0, 200.0, 0.1]])
    >>> packed = pack_vectors(vectors)
    >>> len(packed), unpack_vectors(packed, 2).tolist()
    (37, [[0.0, 3.0, 0.5], [0.0, 200.0, 0.1]])
    """
    rows = np.ascontiguousarray(vectors, "<f8")
    count, width = rows.shape
    forms, first, starts = np.empty(width, np.uint8), np.empty(width, np.int64), np.zeros(width, np.int64)
    wide, single, narrow = np.empty(count * width), np.empty(count * width, "<f4"), np.empty(count * width, np.uint8)
    ends = _pack(rows, rows.view(np.int64), forms, first, starts, wide, single, narrow)
    parts = [part[:end].tobytes() for part, end in zip((wide, single, narrow), ends, strict=True)]
    return b"".join([HEAD.pack(count, width), forms.tobytes(), *parts])


@kernel
def _pack(rows, bits, forms, first, starts, wide, single, narrow):  # type: ignore[no-untyped-def]  # numba infers the types
    """Write the columns of `rows`, whose bits are `bits`; return how far each part is filled."""
    count, width = rows.shape
    for c in range(width):
        first[c] = bits[0, c] if count else 0
        forms[c] = _SAME | _SMALL | _HALF
    for i in range(count):
        for c in range(width):
            value = rows[i, c]
            near = min(max(value, 0.0), 255.0)
            small = (np.float64(np.int32(near)) == value) & (bits[i, c] != _NEGATIVE_ZERO)
            half = np.float64(np.float32(value)) == value
            forms[c] &= (bits[i, c] == first[c]) * _SAME | small * _SMALL | half * _HALF
    wides, singles, narrows = 0, 0, 0
    for c in range(width):
        if forms[c] & _SAME:
            forms[c], starts[c] = ONE, wides
            if count:
                wide[wides] = rows[0, c]
                wides += 1
        elif forms[c] & _SMALL:
            forms[c], starts[c] = BYTE, narrows
            narrows += count
        elif forms[c] & _HALF:
            forms[c], starts[c] = SINGLE, singles
            singles += count
        else:
            forms[c], starts[c] = DOUBLE, wides
            wides += count
    for i in range(count):
        for c in range(width):
            form = forms[c]
            if form == BYTE:
                narrow[starts[c] + i] = np.uint8(rows[i, c])
            elif form == SINGLE:
                single[starts[c] + i] = np.float32(rows[i, c])
            elif form == DOUBLE:
                wide[starts[c] + i] = rows[i, c]
    return wides, singles, narrows
