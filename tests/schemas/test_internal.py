"""What the stages tell each other comes back as it was sent, and anything else is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.vectors import pack_vectors
from schemas import internal
from schemas.internal import (
    ActivityBatch,
    ActivityColumns,
    ActivityRow,
    CategoryColumns,
    CategoryRow,
    EventKind,
    Example,
    ExampleBatch,
    ExampleColumns,
    Outcome,
)
from schemas.wire import MAX_INT, TIME_END, DecodeError
from tests.schemas.strategies import LAW

_text = st.text(max_size=8)
_id = st.text(min_size=1, max_size=200)
_time = st.integers(0, TIME_END - 1)
_amount = st.integers(-MAX_INT, MAX_INT)
_count = st.integers(0, 2**63 - 1)
_pair = st.tuples(_count, _count)
_rows = st.builds(
    ActivityRow,
    *(_id, st.none() | _text, st.sampled_from(EventKind).map(int), _time, _amount, _amount, st.integers(-1, MAX_INT)),
    st.booleans(),
    _time,
    st.integers(0, (1 << 32) - 1),
)
_categories = st.builds(CategoryRow, _id, st.sampled_from(EventKind).map(int), _time, st.integers(-1, MAX_INT))
_examples = st.builds(
    Example,
    *(_text, _text, _time, st.binary(max_size=16), _pair, st.none() | _pair, st.floats(0, 1), _text),
    *(_pair, st.none() | _pair),
)
_outcomes = st.builds(Outcome, st.sampled_from(["order", "cancel", "session_end"]), _text, st.none() | _text, _time)
_head = (_count, _count, st.none() | st.integers(-TIME_END, TIME_END - 1))
activities = st.builds(ActivityBatch, *_head, st.lists(_rows, max_size=4), st.lists(_categories, max_size=4))
examples = st.builds(ExampleBatch, *_head, _text, st.lists(_examples, max_size=3), st.lists(_outcomes, max_size=3))


@LAW
@given(activities)
def test_activity_comes_back(batch: ActivityBatch) -> None:
    """Decoding undoes encoding."""
    assert internal.decode_activity(internal.encode_activity(batch)) == batch


@LAW
@given(examples)
def test_examples_come_back(batch: ExampleBatch) -> None:
    """Decoding undoes encoding, to the last bit of a vector."""
    assert internal.decode_examples(internal.encode_examples(batch)) == batch


@pytest.mark.parametrize("decode", [internal.decode_activity, internal.decode_examples])
def test_any_other_bytes_are_refused_with_a_reason(decode: Callable[[bytes], Any]) -> None:
    """Whatever the bytes, the answer is a batch or a DecodeError."""

    @LAW
    @given(st.binary(max_size=60) | activities.map(internal.encode_activity).map(lambda data: data[:-1]))
    def law(data: bytes) -> None:
        try:
            decode(data)
        except DecodeError as error:
            assert error.reason in ("undecodable", "invalid")  # noqa: PT017  # either outcome is right

    law()
    with pytest.raises(DecodeError, match="undecodable"):
        decode(b"\x81\xa1x" + b"\x91" * 100_000)


@LAW
@given(st.lists(_rows, max_size=6), st.lists(_categories, max_size=4), st.lists(_rows, max_size=2))
def test_columns_are_read_as_rows(
    rows: list[ActivityRow], categories: list[CategoryRow], others: list[ActivityRow]
) -> None:
    """Whatever is told in columns stands behind what is told in rows."""
    columns = _transposed(ActivityColumns(), rows)
    named = _transposed(CategoryColumns(), categories)
    batch = ActivityBatch(0, 1, None, others, [], columns, named)
    assert internal.decode_activity(internal.encode_activity(batch)) == ActivityBatch(
        0, 1, None, others + rows, categories
    )
    told = [CategoryRow(row.category_id, row.kind, row.time, row.price) for row in rows if row.category_id is not None]
    assert columns.categories().rows() == told
    assert columns.part(1, 3).rows() == rows[1:3]


@LAW
@given(st.lists(_examples, min_size=1, max_size=4), st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=4))
def test_examples_in_columns_are_read_as_rows(rows: list[Example], values: list[list[float]]) -> None:
    """Each with its own vector, to the bit; those of one message share model and facts."""
    vectors = np.array(values[: len(rows)])
    first = rows[0]
    rows = [
        msgspec.structs.replace(row, vector=vector.tobytes(), model=first.model, facts=first.facts)
        for row, vector in zip(rows, vectors, strict=True)
    ]
    columns = _example_columns(rows, pack_vectors(vectors))
    batch = ExampleBatch(0, 1, None, "h", columns=columns)
    assert internal.decode_examples(internal.encode_examples(batch)) == ExampleBatch(0, 1, None, "h", rows, [])


def test_columns_that_an_older_writer_did_not_know_have_their_default() -> None:
    """As rows that are shorter have."""
    columns = _transposed(ActivityColumns(), [msgspec.structs.replace(ROW, at=0, visitor=0)] * 2)
    told = {"task": 0, "tasks": 1, "watermark": 5, "columns": msgspec.structs.astuple(columns)[:-2]}
    assert internal.decode_activity(msgspec.msgpack.encode(told)).rows == [ROW, ROW]


def test_columns_of_different_lengths_are_refused() -> None:
    """Nobody can tell which row lacks what."""
    columns = _transposed(ActivityColumns(), [ROW, ROW])
    columns.price.pop()
    with pytest.raises(DecodeError, match=r"invalid: columns of \[1, 2\] rows"):
        internal.decode_activity(internal.encode_activity(ActivityBatch(0, 1, None, columns=columns)))
    for damaged in (
        _example_columns([EXAMPLE, EXAMPLE], pack_vectors(np.zeros((3, 2)))),
        _example_columns([EXAMPLE], pack_vectors(np.zeros((1, 2)))[:-1]),
        msgspec.structs.replace(_example_columns([EXAMPLE], pack_vectors(np.zeros((1, 2)))), orders=[]),
    ):
        with pytest.raises(DecodeError, match="invalid"):
            internal.decode_examples(internal.encode_examples(ExampleBatch(0, 1, None, "h", columns=damaged)))


def _transposed(columns: Any, rows: list[Any]) -> Any:
    for row in rows:
        columns.extend([value] for value in msgspec.structs.astuple(row))
    return columns


def _example_columns(rows: list[Example], vectors: bytes) -> ExampleColumns:
    return ExampleColumns(
        [row.id for row in rows],
        [row.user for row in rows],
        [row.as_of for row in rows],
        vectors,
        [row.offsets[0] for row in rows],
        [row.offsets[1] for row in rows],
        [row.product_version for row in rows],
        [row.probability for row in rows],
        rows[0].model,
        rows[0].facts,
        [row.category_version for row in rows],
    )


ROW = ActivityRow("p", None, 0, 5, 1, 0, -1, True)
EXAMPLE = Example("i", "u", 5, b"", (0, 0), None, 0.5, "m")
OUTCOME = Outcome("order", "u", None, 5)
CATEGORY = CategoryRow("c", 0, 5, -1)


def test_what_was_written_before_categories_can_be_read() -> None:
    """Activity without categories says nothing of any, and an example without the version of one read none."""
    head = {"task": 0, "tasks": 1, "watermark": 5}
    old = msgspec.msgpack.encode(head | {"rows": [msgspec.structs.astuple(ROW)]})
    assert internal.decode_activity(old) == ActivityBatch(0, 1, 5, [ROW], [])
    example = msgspec.structs.astuple(EXAMPLE)[:-1]
    told = head | {"schema_hash": "h", "examples": [example], "outcomes": []}
    [found] = internal.decode_examples(msgspec.msgpack.encode(told)).examples
    assert found == EXAMPLE
    assert found.category_version is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", 8), ("time", -1), ("time", TIME_END), ("price", -2), ("category_id", ""), ("category_id", "x" * 201)],
)
def test_a_category_row_out_of_range_is_refused(field: str, value: Any) -> None:
    """What no stage writes reaches no stage."""
    row = msgspec.structs.replace(CATEGORY, **{field: value})
    with pytest.raises(DecodeError, match=r"invalid|undecodable"):
        internal.decode_activity(internal.encode_activity(ActivityBatch(0, 1, None, [], [row])))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("kind", bad) for bad in (-1, 8, 1 << 40)),
        *(("time", bad) for bad in (-1, TIME_END, (1 << 64) - 1)),
        *(("at", bad) for bad in (-1, 1 << 62)),
        *(("visitor", bad) for bad in (-1, 1 << 32)),
        *(("quantity", bad) for bad in (MAX_INT + 1, -MAX_INT - 1)),
        *(("price", bad) for bad in (-2, (1 << 64) - 1)),
        *(("product_id", bad) for bad in ("", "x" * 201)),
    ],
)
def test_a_row_out_of_range_is_refused(field: str, value: Any) -> None:
    """What no stage writes reaches no stage."""
    row = msgspec.structs.replace(ROW, **{field: value})
    with pytest.raises(DecodeError, match=r"invalid|undecodable"):
        internal.decode_activity(internal.encode_activity(ActivityBatch(0, 1, None, [row])))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 7.0])
def test_a_probability_out_of_range_is_refused(bad: float) -> None:
    """msgpack can carry NaN; an example cannot."""
    example = msgspec.structs.replace(EXAMPLE, probability=bad)
    with pytest.raises(DecodeError, match="invalid"):
        internal.decode_examples(internal.encode_examples(ExampleBatch(0, 1, None, "h", [example], [])))


@pytest.mark.parametrize("bad", [-1, TIME_END])
def test_a_time_out_of_range_is_refused(bad: int) -> None:
    """Of examples, outcomes and watermarks alike."""
    for batch in (
        ExampleBatch(0, 1, None, "h", [msgspec.structs.replace(EXAMPLE, as_of=bad)], []),
        ExampleBatch(0, 1, None, "h", [], [msgspec.structs.replace(OUTCOME, time=bad)]),
        ExampleBatch(0, 1, TIME_END, "h", [], []),
    ):
        with pytest.raises(DecodeError, match="invalid"):
            internal.decode_examples(internal.encode_examples(batch))


def test_every_click_type_has_its_kind() -> None:
    """The kinds of clicks are named as their types are."""
    assert list(internal.CLICK_KINDS) == ["view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase"]
