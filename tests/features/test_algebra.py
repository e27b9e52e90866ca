"""The laws that every aggregate obeys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.algebra import (
    Aggregate,
    Decayed,
    Distinct,
    Extreme,
    HyperLogLog,
    Last,
    Latest,
    Mean,
    Ratio,
    Span,
    Top,
    Total,
    fold,
)

NOW = 1_700_000_000_000
AGGREGATES: tuple[Aggregate[Any], ...] = (
    Total(),
    Total(scale=100),
    Latest(NOW, 30 * 86_400_000),
    Last(NOW, 30 * 86_400_000, scale=100),
    Extreme(),
    Extreme(lowest=True, scale=100),
    Mean(scale=100),
    Span(NOW),
    Span(NOW, mean=True),
    Distinct(8),
    Top(3),
    Top(3, k=2),
    HyperLogLog(register_bits=2, rank_bits=3),
    Decayed(NOW, 21_600_000, 28, 86_400_000),
    Ratio(1.0, 50.0),
)
every = pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda aggregate: type(aggregate).__name__)
items = st.lists(
    st.tuples(st.sampled_from((-3, -1, 1, 2, 3, 250)), st.integers(NOW - 31 * 86_400_000, NOW)), max_size=20
)
law = settings(deadline=None, max_examples=40)


@every
@law
@given(left=items, right=items)
def test_halves_make_the_whole(
    aggregate: Aggregate[Any], left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    """Merging two halves equals updating with the whole."""
    assert aggregate.merge(fold(aggregate, left), fold(aggregate, right)) == fold(aggregate, left + right)


@every
@law
@given(whole=items, data=st.data())
def test_order_does_not_matter(aggregate: Aggregate[Any], whole: list[tuple[int, int]], data: st.DataObject) -> None:
    """Any order leaves the same state, bit for bit."""
    assert fold(aggregate, data.draw(st.permutations(whole))) == fold(aggregate, whole)


@every
@law
@given(a=items, b=items, c=items)
def test_merge_is_a_commutative_monoid(
    aggregate: Aggregate[Any], a: list[tuple[int, int]], b: list[tuple[int, int]], c: list[tuple[int, int]]
) -> None:
    """Merge is associative and commutative, and zero is its unit."""
    x, y, z = fold(aggregate, a), fold(aggregate, b), fold(aggregate, c)
    assert aggregate.merge(aggregate.merge(x, y), z) == aggregate.merge(x, aggregate.merge(y, z))
    assert aggregate.merge(x, y) == aggregate.merge(y, x)
    assert aggregate.merge(x, aggregate.zero()) == x
