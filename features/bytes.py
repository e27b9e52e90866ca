"""Small integers as few bytes: LEB128 varints and zigzag (kernels)."""

# mypy: allow-untyped-defs, allow-untyped-calls
# (numba infers the types of kernels)

from __future__ import annotations

import numpy as np

from features.jit import helper


@helper
def put_varint(buffer, at, value):
    """Write `value` >= 0, and return the place behind it."""
    while value >= 128:
        buffer[at] = (value & 127) | 128
        value >>= 7
        at += 1
    buffer[at] = value
    return at + 1


@helper
def put_signed(buffer, at, value):
    """Write `value`, small ones of either sign in few bytes, and return the place behind it."""
    return put_varint(buffer, at, (value << 1) ^ (value >> 63))


@helper
def put_fixed(buffer, at, value, size):
    """Write the low `size` bytes of `value`, little-endian, and return the place behind them."""
    for i in range(size):
        buffer[at + i] = (value >> (8 * i)) & 255
    return at + size


@helper
def get_varint(buffer, at, end):
    """Read a varint; return (value, place behind it). Behind `end` all bytes are 0, and the place tells."""
    value = np.int64(0)
    shift = 0
    while at < end and buffer[at] >= 128 and shift < 63:
        value |= np.int64(buffer[at] & 127) << shift
        shift += 7
        at += 1
    if at < end:
        value |= np.int64(buffer[at] & 127) << shift
    return value, at + 1


@helper
def get_signed(buffer, at, end):
    """Read what `put_signed` wrote; return (value, place behind it)."""
    value, at = get_varint(buffer, at, end)
    return (value >> 1) ^ -(value & 1), at


@helper
def get_fixed(buffer, at, end, size):
    """Read `size` bytes, little-endian; return (value, place behind them)."""
    value = np.int64(0)
    for i in range(size):
        if at + i < end:
            value |= np.int64(buffer[at + i]) << (8 * i)
    return value, at + size
