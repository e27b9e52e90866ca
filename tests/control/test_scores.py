"""Running figures against the textbook's formulas over all data at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.control.scores import BinaryScores, DemandScores

_LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)


@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=1, max_size=50))
def test_binary_figures(pairs: list[tuple[float, bool]]) -> None:
    """Log loss, Brier score and the constant's log loss are their definitions; the bins hold everything once."""
    scores = BinaryScores()
    for probability, positive in pairs:
        scores.add(probability, positive)
    p, y = np.array([one for one, _ in pairs]), np.array([float(one) for _, one in pairs])
    figures = scores.figures()
    assert figures["log_loss"] == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
    assert figures["brier"] == pytest.approx(np.mean((p - y) ** 2))
    constants = [-np.mean(y * np.log(c) + (1 - y) * np.log(1 - c)) for c in np.linspace(0.001, 0.999, 999)]
    assert figures["base_log_loss"] <= min(constants) + 1e-9
    bins = figures["calibration"]
    assert sum(row["count"] for row in bins) == len(pairs)
    assert sum(row["count"] * row["predicted"] for row in bins) == pytest.approx(p.sum())
    assert sum(row["count"] * row["observed"] for row in bins) == pytest.approx(y.sum())


def test_certain_and_wrong_is_finite() -> None:
    """A probability of 0 for what happened costs much, not everything for ever."""
    scores = BinaryScores()
    scores.add(0.0, True)
    scores.add(1.0, False)
    assert 20 < scores.figures()["log_loss"] < 30


@given(
    st.lists(
        st.tuples(st.lists(st.floats(0, 20), min_size=5, max_size=5).map(sorted), st.integers(-3, 20)),
        min_size=1,
        max_size=30,
    )
)
def test_demand_figures(rows: list[tuple[list[float], int]]) -> None:
    """WAPE, WQL and coverage are their definitions."""
    scores = DemandScores()
    for quantiles, quantity in rows:
        scores.add(quantiles[2], {f"{q:.6g}": v for q, v in zip(_LEVELS, quantiles, strict=True)}, quantity)
    q, y = np.array([row for row, _ in rows]), np.array([float(one) for _, one in rows])
    figures = scores.figures()
    total = np.abs(y).sum()
    if total:
        error = y[:, None] - q
        pinball = np.maximum(np.array(_LEVELS) * error, (np.array(_LEVELS) - 1) * error)
        assert figures["wql"] == pytest.approx(2 * pinball.sum() / len(_LEVELS) / total)
        assert figures["wape"] == pytest.approx(np.abs(y - q[:, 2]).sum() / total)
    else:
        assert figures["wape"] is None
    assert figures["coverage_80"] == pytest.approx(np.mean((q[:, 1] <= y) & (y <= q[:, 3])))
    assert figures["coverage_95"] == pytest.approx(np.mean((q[:, 0] <= y) & (y <= q[:, 4])))
