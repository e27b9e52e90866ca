"""What the stages tell each other comes back as it was sent, and anything else is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import internal
from schemas.internal import ActivityBatch, ActivityRow, EventKind, Example, ExampleBatch, Outcome
from schemas.wire import DecodeError
from tests.schemas.strategies import LAW

_text = st.text(max_size=8)
_integer = st.integers(-(2**63), 2**63 - 1)
_pair = st.tuples(_integer, _integer)
_rows = st.builds(
    ActivityRow,
    *(_text, st.none() | _text, st.sampled_from(EventKind).map(int), _integer, _integer, _integer, _integer),
    st.booleans(),
)
_examples = st.builds(
    Example,
    *(_text, _text, _integer, st.binary(max_size=16), _pair, st.none() | _pair, st.floats(0, 1), _text),
)
_outcomes = st.builds(Outcome, st.sampled_from(["order", "cancel", "session_end"]), _text, st.none() | _text, _integer)
_head = (_integer, _integer, st.none() | _integer)
activities = st.builds(ActivityBatch, *_head, st.lists(_rows, max_size=4))
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


def test_every_click_type_has_its_kind() -> None:
    """The kinds of clicks are named as their types are."""
    assert list(internal.CLICK_KINDS) == ["view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase"]
