"""Laws of panels and windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.buckets import bucket_start
from models.samples import NotEnoughHistory, Samples, Split
from models.sequence import SequenceSpec
from models.windows import Panel
from schemas.outputs import HistoryBucket
from tests.models.panels import weekly_shop

SPEC = SequenceSpec("D", "Europe/London", horizon=7, context=28)


def row(product: str, index: int, quantity: int, **more: object) -> HistoryBucket:
    """Return a closed bucket."""
    values = {"value_minor": 0, "views": 1, "carts": 0, "price": None, "covariates": {}, "revision": 0} | more
    start = bucket_start(index, "D", "Europe/London")
    key = f"{product}|{start}"
    return HistoryBucket(id=key, product_id=product, bucket_start=start, freq="D", quantity=quantity, **values)  # type: ignore[arg-type]  # test rows


def test_rows_in_any_order_make_one_panel() -> None:
    """Gaps after the first bucket are zeros, buckets before it unknown, whatever the order of the rows."""
    rows = [row("b", 15_061, 4), row("a", 15_059, 1, price=250), row("a", 15_062, 2, covariates={"promo": 1.0})]
    panel, again = Panel.from_rows(rows, "D", "Europe/London"), Panel.from_rows(rows[::-1], "D", "Europe/London")
    assert panel.fingerprint() == again.fingerprint()
    assert (panel.products, panel.first_index, panel.buckets) == (("a", "b"), 15_059, 4)
    np.testing.assert_array_equal(panel.quantity, [[1, 0, 0, 2], [np.nan, np.nan, 4, 0]])
    assert panel.price[0, 0] == 250
    assert panel.covariates[0, 3, 0] == 1.0


def test_no_rows_make_an_empty_panel_that_is_refused() -> None:
    """An empty history is too little to train on, and says so."""
    panel = Panel.from_rows([], "D", "UTC")
    assert panel.products == ()
    with pytest.raises(NotEnoughHistory, match="0 closed buckets"):
        Split.of(panel, 7)


def test_a_planted_future_changes_no_input() -> None:
    """A window's inputs are the same whatever happens from its origin on."""
    panel = weekly_shop(covariates=("promo",))
    spec = SPEC.with_covariates(["promo"], np.zeros(1), np.ones(1))
    origin = 50
    planted = replace(
        panel,
        quantity=np.concatenate([panel.quantity[:, :origin], panel.quantity[:, origin:] * 100 + 1], axis=1),
        price=np.concatenate([panel.price[:, :origin], np.full_like(panel.price[:, origin:], 1.0)], axis=1),
        views=np.concatenate([panel.views[:, :origin], panel.views[:, origin:] * 9], axis=1),
    )
    series = np.arange(len(panel.products))
    before, after = (Samples(p, spec).batch(series, np.full_like(series, origin), 90) for p in (panel, planted))
    assert before.past.tobytes() == after.past.tobytes()
    assert before.ahead.tobytes() == after.ahead.tobytes()
    assert before.scale.tobytes() == after.scale.tobytes()
    assert not np.array_equal(before.target, after.target)


def test_targets_end_at_the_cut() -> None:
    """From the cut on, targets are unknown: a window near it learns from its first steps only."""
    panel = weekly_shop()
    batch = Samples(panel, SPEC).batch(np.array([0]), np.array([40]), until=43)
    np.testing.assert_array_equal(batch.target[0, :3], panel.quantity[0, 40:43])
    assert np.isnan(batch.target[0, 3:]).all()


def test_eligible_windows_are_those_that_sold_in_their_context() -> None:
    """The quick count of eligible windows equals counting each window by hand."""
    panel = weekly_shop(products=3, days=70)
    quantity = panel.quantity.copy()
    quantity[0, 10:60] = 0.0
    panel = replace(panel, quantity=quantity)
    series, origin, level = Samples(panel, SPEC).eligible(0, 70)
    expected = {}
    for s in range(3):
        for t in range(70):
            context = quantity[s, max(t - 28, 0) : t]
            if np.nansum(np.maximum(context, 0)) > 0:
                expected[s, t] = np.nanmean(np.maximum(context, 0))
    assert dict(zip(zip(series.tolist(), origin.tolist(), strict=True), level, strict=True)) == pytest.approx(expected)


def test_the_parts_of_a_split_do_not_overlap() -> None:
    """Targets of training, validation and backtest are disjoint and in this order."""
    split = Split.of(weekly_shop(days=90), 7)
    assert split.held_out == 83
    assert split.cut <= min(split.validation_origins)
    assert max(split.validation_origins) + 7 <= split.held_out
