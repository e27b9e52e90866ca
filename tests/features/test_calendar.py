"""Laws of the shop's calendar: whole columns say what one time after the other would, in any zone, at any change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.calendar import ShopCalendar
from features.columns import EventColumns
from features.engine import ScoreFeatures
from features.oracle import UserOracle
from features.sets import SCORE_SET
from features.shop import Shop

_ZONES = ("UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")
_COUNTRIES = (None, "DE-BY", "GB-ENG", "US", "IN")
_HOUR = 3_600_000
# Clocks changed: London forward and back, Lord Howe by half an hour, Apia skipped a whole day.
_CHANGES = (1_711_846_800_000, 1_698_541_200_000, 1_696_087_800_000, 1_325_239_200_000)
_times = st.one_of(
    st.builds(int.__add__, st.sampled_from(_CHANGES), st.integers(-2 * _HOUR, 2 * _HOUR)),
    st.integers(0, 4_000_000_000_000),
)


@settings(deadline=None)  # holidays are computed, and kernels loaded, at the first
@given(st.lists(_times, min_size=1, max_size=8), st.sampled_from(_ZONES), st.sampled_from(_COUNTRIES))
@example([1_703_462_399_999, 1_703_462_400_000], "UTC", "GB-ENG")
def test_the_engine_equals_the_oracle(times: list[int], zone: str, country: str | None) -> None:
    """In every column of what the event itself says: integers to the bit, floats to 1e-9."""
    features = ScoreFeatures(Shop(ShopCalendar(zone, country)))
    features.load_user("u", None)
    features.load_product("p", None)
    events = EventColumns()
    for place, time in enumerate(times):
        events.append("u", 0, time, "p", country=(None, "DE", "gb", "IN-MH", "")[place % 5])
    columns = [i for i, feature in enumerate(SCORE_SET) if feature.entity == "context"]
    oracle = UserOracle(zone, country)
    expected = [oracle.vector(event, []) for event in events.events()]
    np.testing.assert_allclose(features.apply(events)[:, columns], np.array(expected)[:, columns], rtol=0, atol=1e-9)


@settings(deadline=None)
@given(st.lists(_times, min_size=1, max_size=50), st.sampled_from(_ZONES))
def test_local_time_is_the_wall_clock(times: list[int], zone: str) -> None:
    """What the column says is what a clock on the shop's wall shows."""
    local = ShopCalendar(zone).local(np.array(times, np.int64))
    for time, shown in zip(times, local.tolist(), strict=True):
        wall = datetime.fromtimestamp(time // 1_000, UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=UTC)
        assert wall.timestamp() == shown // 1_000


def test_another_calendar_is_another_definition() -> None:
    """Zone and holidays are part of the hash that says which vectors belong together."""
    calendars = [
        ShopCalendar(),
        ShopCalendar("Europe/Paris"),
        ShopCalendar("Europe/Paris", "FR"),
        ShopCalendar("UTC", "FR"),
    ]
    assert len({ScoreFeatures(Shop(calendar)).schema_hash for calendar in calendars}) == len(calendars)
    once, again = (ScoreFeatures(Shop(ShopCalendar("UTC", "FR"))) for _ in range(2))
    assert once.schema_hash == again.schema_hash


@pytest.mark.parametrize(("zone", "country"), [("Mars/Base", None), ("UTC", "XX"), ("UTC", "DE-XX")])
def test_an_unknown_place_is_refused(zone: str, country: str | None) -> None:
    """By its name, with the allowed form."""
    with pytest.raises(ValueError, match="such as"):
        ShopCalendar(zone, country)
