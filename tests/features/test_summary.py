"""Packed rows against raw events, without the engine that wrote them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import Event
from features.documentation import listed
from features.oracle import oracle_user_summary
from features.oracle_products import category_values, product_values
from features.sets import DAY, HOUR, LOG_LENGTH, MINUTE
from features.summary import (
    PRODUCT_BEHIND_MS,
    NotTold,
    product_summary,
    read_category,
    read_product,
    read_user,
    user_summary,
)
from schemas.internal import ActivityRow, EventKind
from tests.features.strategies import activities, columns, histories, in_category
from tests.features.test_engine import loaded, packed

T0 = 1_700_000_000_000


@settings(deadline=None)
@given(histories())
def test_user_rows_say_what_the_events_say(events: list[Event]) -> None:
    """The features in a stored row equal those of the raw events as of the user's newest stamp."""
    features = loaded(events)
    features.apply(columns(events))
    found = user_summary(features.drain_users()["u1"])
    assert found == pytest.approx(oracle_user_summary(events), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(activities())
def test_product_rows_say_what_the_activity_says(activity: list[ActivityRow]) -> None:
    """The features in a stored product row equal those of the raw activity."""
    row = packed(activity)
    now = max((one.time for one in activity), default=0)
    if row is not None:
        expected = product_values(activity, now, -1)
        assert np.allclose([product_summary(row, now)[name] - value for name, value in expected.items()], 0, atol=1e-9)


@settings(deadline=None)
@given(activities())
def test_category_rows_say_what_the_activity_says(activity: list[ActivityRow]) -> None:
    """The features in a stored category row equal those of the raw activity."""
    row = packed(activity, "category")
    now = max((one.time for one in activity), default=0)
    if row is not None:
        expected = category_values(in_category(activity), now, -1)
        assert read_category(row, now).features == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(histories(late=False), st.data())
def test_a_row_looks_back_along_its_log(events: list[Event], data: st.DataObject) -> None:
    """As of a logged event, a row says what a row says that never saw what is stamped later.

    Of the last events only where none left the log.
    """
    features = loaded(events)
    features.apply(columns(events))
    row = features.drain_users()["u1"]
    log = read_user(row).log
    stamps = sorted(event.time for event in events)
    assert [event.time for event in log] == stamps[-len(log) :]
    assert len(log) == min(len(stamps), LOG_LENGTH)
    time = data.draw(st.sampled_from(stamps[-len(log) :]))
    told = read_user(row, time + data.draw(st.integers(0, 1)))
    assert told.later == sum(event.time > told.as_of for event in log)
    before = [event for event in events if event.time <= told.as_of]
    expected = oracle_user_summary(before)
    whole = len(events) <= LOG_LENGTH
    names = [feature.name for feature in listed() if feature.name in expected and (whole or feature.last is None)]
    assert {name: told.features[name] for name in names} == pytest.approx(
        {name: expected[name] for name in names}, rel=1e-9, abs=1e-9
    )


def test_a_log_says_what_happened() -> None:
    """Kind, money, the purchase taken back, and where the session began."""
    bought = T0 // (5 * MINUTE) * 5 * MINUTE
    events = [
        Event("u1", EventKind.VIEW, bought - HOUR, "p", "a", price_minor=2_099),
        Event("u1", EventKind.PURCHASE, bought + 1, "p", "b", 1, 1_999, 1_999),
        Event("u1", EventKind.RETURN, bought + 9 * MINUTE, "p", "b", 1, 999, -1, bought + 1),
    ]
    features = loaded(events)
    features.apply(columns(events))
    told = read_user(features.drain_users()["u1"])
    assert [(e.time, e.kind, e.value_minor, e.undo_time, e.price_minor) for e in told.log] == [
        (bought - HOUR, EventKind.VIEW, 0, 0, 2_099),
        (bought + 1, EventKind.PURCHASE, 1_999, 0, -1),
        (bought + 9 * MINUTE, EventKind.RETURN, 999, bought, -1),
    ]
    assert told.in_session == 2


@settings(deadline=None)
@given(activities(), st.integers(0, 40 * DAY))
def test_a_product_row_looks_back_as_far_as_it_says(activity: list[ActivityRow], ahead: int) -> None:
    """From PRODUCT_BEHIND_MS behind its newest event on, later events change nothing; before that it is refused."""
    row = packed(activity)
    if row is None:
        return
    newest = max(one.time for one in activity) // (5 * MINUTE) * 5 * MINUTE
    for time in (newest - PRODUCT_BEHIND_MS, newest - PRODUCT_BEHIND_MS + ahead):
        before = [one for one in activity if one.time < time // (5 * MINUTE) * 5 * MINUTE]
        expected = product_values(before, time, -1)
        assert read_product(row, time).features == pytest.approx(expected, rel=1e-9, abs=1e-9)
    with pytest.raises(NotTold, match="or later"):
        read_product(row, newest - PRODUCT_BEHIND_MS - 1)


def test_no_user_row_tells_what_was_before_its_log() -> None:
    """A time before the oldest event kept is refused, and the message says from when on the row tells."""
    features = loaded([Event("u1", 0, T0)])
    features.apply(columns([Event("u1", 0, T0)]))
    row = features.drain_users()["u1"]
    with pytest.raises(NotTold, match=str(T0)):
        read_user(row, T0 - 1)
    assert read_user(row, T0 + DAY).as_of == T0
