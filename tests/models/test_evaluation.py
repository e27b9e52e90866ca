"""Laws of the measures, against brute force."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import evaluation as ev

scored = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=1, max_size=40)
# Half of the least subnormal is 0: that says nothing of a loss.
amounts = st.floats(0, 1e6, allow_subnormal=False)


@given(scored)
def test_auc_counts_pairs(pairs: list[tuple[bool, float]]) -> None:
    """AUC is the share of (positive, negative) pairs in the right order, ties counting half."""
    ups, downs = [p for y, p in pairs if y], [p for y, p in pairs if not y]
    found = ev.auc([y for y, _ in pairs], [p for _, p in pairs])
    if not ups or not downs:
        assert math.isnan(found)
    else:
        wins = sum((up > down) + 0.5 * (up == down) for up, down in product(ups, downs))
        assert found == pytest.approx(wins / (len(ups) * len(downs)))


@given(scored)
def test_log_loss_and_brier_are_their_definitions(pairs: list[tuple[bool, float]]) -> None:
    """Means over rows of the loss of each; probabilities of 0 and 1 cost much, never infinitely."""
    labels, chances = [y for y, _ in pairs], [p for _, p in pairs]
    losses = [-math.log(min(max(p if y else 1 - p, 1e-15), 1.0)) for y, p in pairs]
    assert ev.log_loss(labels, chances) == pytest.approx(np.mean(losses), rel=1e-2, abs=1e-9)
    assert ev.brier(labels, chances) == pytest.approx(np.mean([(y - p) ** 2 for y, p in pairs]))


@given(st.integers(1, 30), st.integers(1, 30))
def test_the_base_rate_is_the_best_constant(positives: int, negatives: int) -> None:
    """Log loss and Brier are proper: no constant beats the observed rate."""
    labels = [1] * positives + [0] * negatives
    rate = positives / len(labels)
    for other in (0.01, 0.2, 0.5, 0.9):
        assert ev.log_loss(labels, [rate] * len(labels)) <= ev.log_loss(labels, [other] * len(labels)) + 1e-12
        assert ev.brier(labels, [rate] * len(labels)) <= ev.brier(labels, [other] * len(labels)) + 1e-12


@given(scored, st.integers(1, 12))
def test_calibration_error_by_bins(pairs: list[tuple[bool, float]], bins: int) -> None:
    """The weighted mean over bins of |rate - mean probability|."""
    total = 0.0
    for index in range(bins):
        inside = [(y, p) for y, p in pairs if min(int(p * bins), bins - 1) == index]
        if inside:
            total += abs(sum(y for y, _ in inside) - sum(p for _, p in inside))
    found = ev.calibration_error([y for y, _ in pairs], [p for _, p in pairs], bins)
    assert found == pytest.approx(total / len(pairs))


@given(st.lists(amounts, min_size=1, max_size=50))
def test_a_sample_quantile_minimises_its_pinball_loss(sample: list[float]) -> None:
    """No constant has less pinball loss at a level than the sample's own (lower) quantile."""
    for level in (0.1, 0.5, 0.9):
        best = np.quantile(sample, level, method="inverted_cdf")
        loss = ev.pinball(sample, np.full((len(sample), 1), best), (level,))[0]
        for other in [*sample, 0.0, float(np.mean(sample))]:
            assert loss <= ev.pinball(sample, np.full((len(sample), 1), other), (level,))[0] * (1 + 1e-9) + 1e-6


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=50))
def test_wql_of_the_median_is_wape(pairs: list[tuple[float, float]]) -> None:
    """With the median alone, WQL and WAPE are one figure; both are free of the unit."""
    actual, median = np.array(pairs).T
    quantiles = median[:, None]
    found = ev.wql(actual, quantiles, (0.5,))
    assert found == pytest.approx(ev.wape(actual, median), nan_ok=True)
    assert ev.wql(actual * 7, quantiles * 7, (0.5,)) == pytest.approx(found, nan_ok=True)


def test_unknown_periods_are_left_out() -> None:
    """NaN in `actual` takes its forecast with it, in every measure of demand."""
    actual, known = np.array([1.0, np.nan, 3.0]), np.array([1.0, 3.0])
    mean, kept = np.array([2.0, 99.0, 2.0]), np.array([2.0, 2.0])
    assert ev.wape(actual, mean) == ev.wape(known, kept)
    assert ev.mase(actual, mean, 2.0) == ev.mase(known, kept, 2.0)
    assert ev.wql(actual, mean[:, None], (0.3,)) == ev.wql(known, kept[:, None], (0.3,))
    assert ev.coverage(actual, mean - 1, mean + 1) == ev.coverage(known, kept - 1, kept + 1)


def test_mase_of_the_seasonal_naive_is_one_on_more_of_the_same() -> None:
    """The scale is the in-sample error of that very forecast."""
    series = np.array([1.0, 4, 2, 6, 3, 8])
    scale = ev.seasonal_scale(series, 2)
    assert scale == np.mean([1, 2, 1, 2])
    assert ev.mase([4.0, 10], [3.0, 8], scale) == 1.0


def test_what_is_undefined_is_nan() -> None:
    """No positives, no demand, no scale: NaN, not a number that looks like a result."""
    assert math.isnan(ev.auc([1, 1], [0.2, 0.3]))
    assert math.isnan(ev.wape([0, 0], [1, 1]))
    assert math.isnan(ev.wql([0.0], [[1.0]], (0.5,)))
    assert math.isnan(ev.mase([1], [2], 0.0))
    assert math.isnan(ev.seasonal_scale([1.0], 7))
    assert math.isnan(ev.log_loss([], []))


def test_shapes_that_do_not_match_are_refused() -> None:
    """Broadcasting would hide a mistake."""
    with pytest.raises(ValueError, match="one shape expected"):
        ev.wape([1, 2], [1])
    with pytest.raises(ValueError, match=r"quantiles \(2,\) for actual \(2,\)"):
        ev.pinball([1.0, 2.0], [1.0, 2.0], (0.5,))
