"""Laws of packed vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from features.vectors import pack_vectors
from schemas.vectors import HEAD, ONE, unpack_vectors
from tests.schemas.strategies import LAW

_kinds = (
    st.floats(),
    st.integers(-3, 300).map(float),
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 1.0, float("nan"), -float("nan"), float("inf"), 255.0, 256.0, 0.5, 2.0**31]),
)
_matrices = st.one_of(
    *(
        arrays(np.float64, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=kind)
        for kind in _kinds
    )
)


@LAW
@given(_matrices, st.booleans())
def test_what_is_packed_comes_back_to_the_bit(vectors: np.ndarray, flip: bool) -> None:
    """Every float, negative zeros and the payloads of NaNs included, however the array is laid out."""
    given_ = np.asfortranarray(vectors) if flip else vectors
    found = unpack_vectors(pack_vectors(given_), len(vectors))
    assert found.view(np.int64).tolist() == vectors.view(np.int64).tolist()


def test_counts_are_small() -> None:
    """A column of counts takes a byte a row, and one that stands still takes none."""
    rows = np.tile([0.0, 1.0, 2.0, 0.5, 0.1], (100, 1))
    rows[:, 1:] *= np.arange(100)[:, None] % 7
    assert len(pack_vectors(rows)) == 8 + 5 + 8 + 2 * 100 + 4 * 100 + 8 * 100


@LAW
@given(
    st.binary(max_size=80)
    | _matrices.map(pack_vectors).flatmap(lambda data: st.integers(0, len(data)).map(lambda cut: data[:cut])),
    st.integers(0, 12),
)
def test_whatever_else_is_refused_or_means_something(data: bytes, count: int) -> None:
    """Bytes are as many vectors as were expected, or a ValueError; nothing else is raised, and nothing is huge."""
    try:
        found = unpack_vectors(data, count)
    except ValueError:
        return
    assert len(found) == count
    assert found.shape[1] <= len(data)


def test_columns_that_stand_still_take_no_more_than_a_message() -> None:
    """A few bytes cannot ask for gigabytes."""
    width, count = 60_000, 100_000
    with pytest.raises(ValueError, match="vectors expected"):
        unpack_vectors(HEAD.pack(count, width) + bytes([ONE]) * width + bytes(8 * width), count)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_is_nothing(shape: tuple[int, int]) -> None:
    """No vectors, or none with a feature."""
    assert unpack_vectors(pack_vectors(np.zeros(shape)), shape[0]).shape == shape
