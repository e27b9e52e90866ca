"""Packed rows against raw events, without the engine that wrote them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from features.columns import Event
from features.oracle import oracle_user_summary
from features.oracle_products import product_values
from features.summary import product_summary, user_summary
from schemas.internal import ActivityRow
from tests.features.strategies import activities, columns, histories
from tests.features.test_engine import loaded, packed


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
