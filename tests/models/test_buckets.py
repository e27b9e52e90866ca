"""Laws of the bucket calendar."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.buckets import CALENDAR_COLUMNS, SEASON, bucket_index, bucket_start, calendar, phase

ZONES = ["UTC", "Europe/London", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe"]
Freq = Literal["H", "D", "W"]


@given(index=st.integers(0, 40_000), freq=st.sampled_from(["H", "D", "W"]), zone=st.sampled_from(ZONES))
def test_start_and_index_are_inverse(index: int, freq: Freq, zone: str) -> None:
    """The start of a bucket lies in that bucket."""
    index = index // 10 if freq == "W" else index
    assert bucket_index([bucket_start(index, freq, zone)], freq, zone).tolist() == [index]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("freq", ["D", "W"])
def test_buckets_follow_each_other_without_a_gap(freq: Freq, zone: str) -> None:
    """The last millisecond before a bucket's start lies in the bucket before it, through every change of clocks."""
    first = 15_000 if freq == "D" else 2_140
    starts = [bucket_start(i, freq, zone) for i in range(first, first + 400)]
    assert all(later > earlier for earlier, later in pairwise(starts))
    assert bucket_index([s - 1 for s in starts], freq, zone).tolist() == list(range(first - 1, first + 399))


@pytest.mark.parametrize(("freq", "period"), [("D", 7), ("H", 168)])
def test_the_calendar_repeats_with_the_season(freq: Freq, period: int) -> None:
    """Weekly columns and phases are equal a season apart, and differ within it."""
    index = np.arange(20_000, 20_000 + 2 * period)
    places = phase(index, freq, "UTC")
    assert SEASON[freq] == period
    assert sorted(places[:period]) == list(range(period))
    assert places[:period].tolist() == places[period:].tolist()
    weekly = calendar(index, freq, "UTC", yearly=False)[:, : 6 if freq == "D" else CALENDAR_COLUMNS]
    np.testing.assert_allclose(weekly[:period], weekly[period:], atol=1e-12)
    assert len(np.unique(weekly[:period].round(9), axis=0)) == period


def test_monday_is_the_first_day() -> None:
    """1970-01-05 was a Monday: phase 0, and the first day of a week's bucket."""
    assert phase(np.array([4]), "D", "UTC").tolist() == [0]
    assert bucket_start(1, "W", "UTC") == 4 * 86_400_000
