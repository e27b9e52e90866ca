"""Many feature vectors as bytes, without loss: columns, each in the narrowest form that holds all of its values.

::

    0   uint32 n, uint32 F     little-endian, as is all that follows
    8   F bytes                of each column: 0 one value for all, 1 uint8, 2 float32, 3 float64
    ..  float64                the columns of forms 0 (one value) and 3 (n values), in their order
    ..  float32                those of form 2
    ..  uint8                  those of form 1

Most features are counts, and many stand still for a while: a fifth of the bytes, which nobody must compress, then.
`features.vectors` writes them.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

HEAD = struct.Struct("<II")
ONE, BYTE, SINGLE, DOUBLE = range(4)
"""Forms of a column."""
_MOST_VALUES = 1 << 22


def unpack_vectors(data: bytes, count: int) -> NDArray[np.float64]:
    """Return the `count` vectors (n, F) in what `pack_vectors` wrote, to the bit.

    Raises ValueError for anything else, and for more than fit a message: columns that stand still are short whatever n.

    >>> unpack_vectors(HEAD.pack(2, 2) + bytes([ONE, BYTE]) + np.array(0.5).tobytes() + bytes([3, 200]), 2).tolist()
    [[0.5, 3.0], [0.5, 200.0]]
    """
    if len(data) < HEAD.size:
        raise ValueError(f"vectors of {len(data)} bytes have no head")
    told, width = HEAD.unpack_from(data)
    if told != count or len(data) < HEAD.size + width or count * width > _MOST_VALUES:
        raise ValueError(f"{told} vectors of {width} features in {len(data)} bytes, {count} vectors expected")
    forms = np.frombuffer(data, np.uint8, width, HEAD.size)
    many = {form: int(np.count_nonzero(forms == form)) for form in range(4)}
    one = min(count, 1)
    wide = one * many[ONE] + count * many[DOUBLE]
    needed = HEAD.size + width + 8 * wide + count * (4 * many[SINGLE] + many[BYTE])
    if sum(many.values()) < width or needed != len(data):
        raise ValueError(f"{count} vectors of {width} features in {len(data)} bytes: {needed} expected")
    out = np.empty((count, width))
    wide_at = HEAD.size + width
    single_at = wide_at + 8 * wide
    narrow_at = single_at + 4 * count * many[SINGLE]
    for form, dtype, start in ((SINGLE, "<f4", single_at), (BYTE, "u1", narrow_at)):
        columns = np.frombuffer(data, dtype, count * many[form], start)
        out[:, forms == form] = columns.reshape(many[form], count).T
    values = np.frombuffer(data, "<f8", wide, wide_at)
    lengths = np.where(forms == ONE, one, np.where(forms == DOUBLE, count, 0))
    starts = np.cumsum(lengths) - lengths
    if count:
        out[:, forms == ONE] = values[starts[forms == ONE]]
        out[:, forms == DOUBLE] = values[starts[forms == DOUBLE] + np.arange(count)[:, None]]
    return out
