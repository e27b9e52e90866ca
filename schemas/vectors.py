"""Many feature vectors as bytes, without loss: columns, each in the narrowest form that holds all of its values.

::

    0   uint32 n, uint32 F     little-endian, as is all that follows
    8   F bytes                of each column: 0 one value for all, 1 uint8, 2 float32, 3 float64
    ..  float64                the columns of forms 0 (one value) and 3 (n values), in their order
    ..  float32                those of form 2
    ..  uint8                  those of form 1

Most features are counts, and many stand still for a while: a fifth of the bytes, which nobody must compress, then.
"""

from __future__ import annotations

import struct

import numpy as np
from numba import njit
from numpy.typing import NDArray

_HEAD = struct.Struct("<II")
_ONE, _BYTE, _SINGLE, _DOUBLE = range(4)
_NEGATIVE_ZERO = np.int64(-(1 << 63))


def pack_vectors(vectors: NDArray[np.float64]) -> bytes:
    """Return `vectors` (n, F) as bytes.

    >>> vectors = np.array([[0.0, 3.0, 0.5], [0.0, 200.0, 0.1]])
    >>> packed = pack_vectors(vectors)
    >>> len(packed), unpack_vectors(packed, 2).tolist()
    (37, [[0.0, 3.0, 0.5], [0.0, 200.0, 0.1]])
    """
    rows = np.ascontiguousarray(vectors, "<f8")
    count, width = rows.shape
    forms = np.empty(width, np.uint8)
    wide, single, narrow = np.empty(count * width), np.empty(count * width, "<f4"), np.empty(count * width, np.uint8)
    ends = _pack(rows, rows.view(np.int64), forms, wide, single, narrow)
    parts = [part[:end].tobytes() for part, end in zip((wide, single, narrow), ends, strict=True)]
    return b"".join([_HEAD.pack(count, width), forms.tobytes(), *parts])


def unpack_vectors(data: bytes, count: int) -> NDArray[np.float64]:
    """Return the `count` vectors (n, F) in what `pack_vectors` wrote, to the bit.

    Raises ValueError for anything else, before there is room for it: columns that stand still are short whatever n.
    """
    if len(data) < _HEAD.size:
        raise ValueError(f"vectors of {len(data)} bytes have no head")
    told, width = _HEAD.unpack_from(data)
    if told != count or len(data) < _HEAD.size + width:
        raise ValueError(f"{told} vectors of {width} features in {len(data)} bytes, {count} vectors expected")
    forms = np.frombuffer(data, np.uint8, width, _HEAD.size)
    many = {form: int(np.count_nonzero(forms == form)) for form in range(4)}
    one = min(count, 1)
    wide = one * many[_ONE] + count * many[_DOUBLE]
    needed = _HEAD.size + width + 8 * wide + count * (4 * many[_SINGLE] + many[_BYTE])
    if sum(many.values()) < width or needed != len(data):
        raise ValueError(f"{count} vectors of {width} features in {len(data)} bytes: {needed} expected")
    out = np.empty((count, width))
    wide_at = _HEAD.size + width
    single_at = wide_at + 8 * wide
    narrow_at = single_at + 4 * count * many[_SINGLE]
    for form, dtype, start in ((_SINGLE, "<f4", single_at), (_BYTE, "u1", narrow_at)):
        columns = np.frombuffer(data, dtype, count * many[form], start)
        out[:, forms == form] = columns.reshape(many[form], count).T
    values = np.frombuffer(data, "<f8", wide, wide_at)
    lengths = np.where(forms == _ONE, one, np.where(forms == _DOUBLE, count, 0))
    starts = np.cumsum(lengths) - lengths
    if count:
        out[:, forms == _ONE] = values[starts[forms == _ONE]]
        out[:, forms == _DOUBLE] = values[starts[forms == _DOUBLE] + np.arange(count)[:, None]]
    return out


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]  # numba has no stubs
def _pack(
    rows: NDArray[np.float64],
    bits: NDArray[np.int64],
    forms: NDArray[np.uint8],
    wide: NDArray[np.float64],
    single: NDArray[np.float32],
    narrow: NDArray[np.uint8],
) -> tuple[int, int, int]:
    """Write the columns of `rows`, whose bits are `bits`; return how far each part is filled."""
    count, width = rows.shape
    first = np.empty(width, np.int64)
    same, byte, half = np.ones(width, np.bool_), np.ones(width, np.bool_), np.ones(width, np.bool_)
    for c in range(width):
        first[c] = bits[0, c] if count else 0
    for i in range(count):
        for c in range(width):
            value = rows[i, c]
            same[c] &= bits[i, c] == first[c]
            near = min(max(value, 0.0), 255.0)
            byte[c] &= (np.float64(np.int32(near)) == value) & (bits[i, c] != _NEGATIVE_ZERO)
            half[c] &= np.float64(np.float32(value)) == value
    starts = np.zeros(width, np.int64)
    wides, singles, narrows = 0, 0, 0
    for c in range(width):
        if same[c]:
            forms[c], starts[c] = _ONE, wides
            if count:
                wide[wides] = rows[0, c]
                wides += 1
        elif byte[c]:
            forms[c], starts[c] = _BYTE, narrows
            narrows += count
        elif half[c]:
            forms[c], starts[c] = _SINGLE, singles
            singles += count
        else:
            forms[c], starts[c] = _DOUBLE, wides
            wides += count
    for i in range(count):
        for c in range(width):
            form = forms[c]
            if form == _BYTE:
                narrow[starts[c] + i] = np.uint8(rows[i, c])
            elif form == _SINGLE:
                single[starts[c] + i] = np.float32(rows[i, c])
            elif form == _DOUBLE:
                wide[starts[c] + i] = rows[i, c]
    return wides, singles, narrows
