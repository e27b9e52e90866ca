"""Laws of the seasonal forecast; its figures on real demand are printed by the test marked `realdata`."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import evaluation as ev
from models.buckets import MEMORY
from models.seasonal import QUANTILES, forecast

histories = st.lists(st.one_of(st.none(), st.integers(-5, 50), st.floats(0, 1e9)), max_size=130)


@given(histories, st.sampled_from([1, 7, 24, 52, 168]), st.integers(1, 30))
@settings(deadline=None, max_examples=200)
def test_every_history_has_a_forecast(history: list[float | None], season: int, horizon: int) -> None:
    """Whatever the history: finite, non-negative, monotone in the level, within reach of what was seen."""
    found = forecast(history, season, horizon)
    assert found.mean.shape == (horizon,)
    assert found.quantiles.shape == (horizon, len(QUANTILES))
    for part in (found.mean, found.quantiles):
        assert np.isfinite(part).all()
        assert (part >= 0).all()
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    most = max([value for value in history if value is not None], default=0)
    assert found.quantiles.max() <= 100 * max(most, 0)


@given(histories, st.integers(1, 20))
@settings(deadline=None)
def test_it_is_a_function_of_the_last_buckets(history: list[float | None], horizon: int) -> None:
    """The same bytes again; what lies before the memory does not matter, nor how unknown buckets are written."""
    kept = max(MEMORY, 14)
    first = forecast(history, 7, horizon)
    again = forecast(np.array(history, dtype=np.float64), 7, horizon)
    longer = forecast([1e6, *history] if len(history) >= kept else history, 7, horizon)
    for other in (again, longer):
        assert other.mean.tobytes() == first.mean.tobytes()
        assert other.quantiles.tobytes() == first.quantiles.tobytes()


@given(st.lists(st.integers(0, 30), min_size=56, max_size=56), st.integers(1, 6))
@settings(deadline=None)
def test_the_season_keeps_its_phase(history: list[int], shift: int) -> None:
    """Forecasting further is forecasting the same: the first steps do not depend on the horizon."""
    far, near = forecast(history, 7, 28), forecast(history, 7, shift)
    assert far.mean[:shift].tolist() == near.mean.tolist()
    assert far.quantiles[:shift].tolist() == near.quantiles.tolist()


def test_nothing_known_is_nothing_forecast() -> None:
    """No history, only unknown buckets, or only zeros: zero."""
    for history in ([], [None] * 20, [0] * 40, [-3, None, 0]):
        assert not forecast(history, 7, 3).quantiles.any()


def test_a_closed_day_stays_closed() -> None:
    """Where eight Saturdays sold nothing and other days hardly missed, Saturdays are zero and others are not less."""
    random = np.random.default_rng(1)
    weeks = random.poisson(20, (8, 7))
    weeks[:, 5] = 0
    found = forecast(weeks.ravel(), 7, 14)
    assert found.quantiles[[5, 12]].max() < 0.5
    assert np.delete(found.mean, [5, 12]).min() > 17


def test_rare_zeros_of_a_slow_product_close_nothing() -> None:
    """A product that sells one day in ten had silent Saturdays by chance: they stay open."""
    history = [0.0] * 56
    for day in (3, 17, 22, 36, 44):
        history[day] = 4.0
    assert forecast(history, 7, 7).mean.min() > 0.15


def test_a_season_is_found_and_noise_is_not() -> None:
    """A weekly pattern shows in the means; without one, the days of a week differ little."""
    random = np.random.default_rng(2)
    pattern = np.array([10, 10, 10, 10, 40, 40, 10])
    seasonal = forecast(random.poisson(np.tile(pattern, 8)), 7, 7).mean
    assert seasonal[[4, 5]].min() > 1.8 * seasonal[[0, 1, 2, 3, 6]].max()
    flat = forecast(random.poisson(16, 56), 7, 7).mean
    assert flat.max() < 1.25 * flat.min()


def test_hours_follow_the_day() -> None:
    """An hourly series closes at night, by the hour of the day, with two weeks of history."""
    random = np.random.default_rng(3)
    rate = np.where(np.arange(336) % 24 >= 8, 5, 0)
    found = forecast(random.poisson(rate), 168, 24)
    assert found.mean[:8].max() < 0.1
    assert found.mean[8:].min() > 2


def test_an_unknown_bucket_is_not_a_zero() -> None:
    """Gaps leave the level where it was; zeros lower it."""
    random = np.random.default_rng(4)
    sold = random.poisson(30, 56).astype(np.float64)
    gaps, zeros = sold.copy(), sold.copy()
    gaps[10:40:2] = np.nan
    zeros[10:40:2] = 0
    assert forecast(gaps, 7, 7).mean.mean() == pytest.approx(30, rel=0.12)
    assert forecast(zeros, 7, 7).mean.mean() < 26


@pytest.mark.parametrize("draw", ["poisson", "negative binomial", "intermittent"])
def test_intervals_cover_what_they_promise(draw: str) -> None:
    """On stationary demand of known laws, 95% and 80% intervals cover at least nearly that, and not everything."""
    random = np.random.default_rng(5)
    laws = {
        "poisson": lambda: random.poisson(20, 63),
        "negative binomial": lambda: random.negative_binomial(2, 0.1, 63),
        "intermittent": lambda: random.poisson(8, 63) * (random.random(63) < 0.4),
    }
    series = np.array([laws[draw]() for _ in range(150)], dtype=np.float64)
    found = np.array([forecast(one[:56], 7, 7).quantiles for one in series])
    assert 0.92 <= ev.coverage(series[:, 56:], found[..., 0], found[..., -1]) <= 0.99
    assert 0.76 <= ev.coverage(series[:, 56:], found[..., 1], found[..., -2]) <= 0.93


def test_a_short_history_is_unsure() -> None:
    """From three buckets the interval is wider, relative to the level, than from fifty of the same kind."""
    series = [20.0, 24.0, 18.0] * 18
    short, long = forecast(series[:3], 7, 1).quantiles[0], forecast(series, 7, 1).quantiles[0]
    assert short[-1] - short[0] > 1.5 * (long[-1] - long[0])


@pytest.mark.parametrize(
    ("season", "horizon", "quantiles"), [(0, 1, (0.5,)), (7, 0, (0.5,)), (7, 1, (0.5, 0.5)), (7, 1, (0.0, 0.5))]
)
def test_what_cannot_be_asked_is_refused(season: int, horizon: int, quantiles: tuple[float, ...]) -> None:
    """Seasons and horizons below one, and levels that do not ascend within (0, 1)."""
    with pytest.raises(ValueError, match="forecast:"):
        forecast([1, 2, 3], season, horizon, quantiles)


@pytest.mark.realdata
@pytest.mark.parametrize(("freq", "season", "horizon", "every"), [("daily", 7, 28, 14), ("weekly", 52, 4, 2)])
def test_it_beats_the_seasonal_naive_on_real_demand(
    data: Path, freq: str, season: int, horizon: int, every: int
) -> None:
    """Rolling origins over the first seven months of Online Retail, top 200 products: lower WQL, honest coverage."""
    days = _daily_demand(data)
    if freq == "weekly":
        days = days[:, 5:]  # the first Monday
        days = days[:, : days.shape[1] // 7 * 7].reshape(len(days), -1, 7).sum(axis=2)
    lag = season if freq == "daily" else 1  # a year of weeks is not there yet
    actual, ours, naive = [], [], []
    for past, ahead in _origins(days, horizon, every, first=70 if freq == "daily" else 10):
        for series, later in zip(past, ahead, strict=True):
            actual.append(later)
            ours.append(forecast(series, season, horizon).quantiles)
            base = series[-lag:][np.arange(horizon) % lag]
            steps = np.quantile(series[lag:] - series[:-lag], QUANTILES)
            naive.append(np.maximum(base[:, None] + steps, 0))
    truth, found = np.array(actual), np.array(ours)
    wql, wql_naive = ev.wql(truth, found, QUANTILES), ev.wql(truth, np.array(naive), QUANTILES)
    wide = ev.coverage(truth, found[..., 0], found[..., -1])
    narrow = ev.coverage(truth, found[..., 1], found[..., -2])
    print(f"{freq}: WQL {wql:.4f}, seasonal naive {wql_naive:.4f}; coverage of 95% {wide:.3f}, of 80% {narrow:.3f}")
    assert wql < 0.8 * wql_naive
    assert 0.93 <= wide <= 0.99
    assert 0.78 <= narrow <= 0.93


def _origins(
    series: np.ndarray, horizon: int, every: int, first: int, top: int = 200
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for origin in range(first, series.shape[1] - horizon + 1, every):
        best = np.argsort(-series[:, :origin].sum(axis=1), kind="stable")[:top]
        yield series[best, max(0, origin - MEMORY) : origin], series[best, origin : origin + horizon]


def _daily_demand(data: Path) -> np.ndarray:
    """Return net quantities (products, days) from 2010-12-01 to 2011-06-30 of what the source keeps, none below 0."""
    start, end = date(2010, 12, 1).toordinal(), date(2011, 7, 1).toordinal()
    found: dict[str, np.ndarray] = {}
    with gzip.open(data / "online_retail.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            day = date.fromisoformat(row["InvoiceDate"][:10]).toordinal()
            if day < end and re.match(r"^\d{5}[A-Za-z]*$", row["StockCode"]) and float(row["UnitPrice"]) > 0:
                found.setdefault(row["StockCode"], np.zeros(end - start))[day - start] += int(row["Quantity"])
    return np.maximum(np.array([found[key] for key in sorted(found)]), 0)
