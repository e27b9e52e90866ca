"""The purchase probabilities that the simulator calls true, against the chain simulated by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from streams.simulator.behaviour import (
    AFTER_DRIFT,
    BEFORE_DRIFT,
    STATES,
    STEPS,
    PurchaseTruth,
    Rules,
    action_odds,
    draw_action,
    go_on,
    hazard,
    next_state,
)


def brute_force(rules: Rules, theta: float, step: int, state: int, runs: int) -> float:
    """Share of `runs` walks from after click `step` in `state` that end in a purchase."""
    rng = np.random.default_rng(7)
    active = np.full(runs, state)
    bought = 0
    for at in range(step, STEPS):
        if at > step:
            active = next_state(active, draw_action(rng.random(len(active)), active, np.full(len(active), theta)))
        buys = rng.random(len(active)) < hazard(rules, active, np.full(len(active), theta))
        bought += int(buys.sum())
        active = active[~buys]
        active = active[rng.random(len(active)) < go_on(active)]
    return bought / runs


@pytest.mark.parametrize("rules", [BEFORE_DRIFT, AFTER_DRIFT])
@pytest.mark.parametrize(
    ("theta", "step", "state"), [(0.0, 0, 1), (1.5, 3, 5), (-1.0, 2, 3), (2.0, 27, 0), (1.0, 29, 4)]
)
def test_probability_is_the_share_of_walks(rules: Rules, theta: float, step: int, state: int) -> None:
    """The recursion gives what walking gives, within four standard errors."""
    runs = 40_000
    [exact] = PurchaseTruth(rules).after_click(step, np.array([state]), np.array([theta]))
    error = np.sqrt(exact * (1 - exact) / runs)
    assert abs(brute_force(rules, theta, step, state, runs) - exact) < 4 * error + 1e-4


def test_actions_are_drawn_by_their_odds() -> None:
    """Chances sum to 1, and drawn actions have them."""
    theta = np.array([-2.0, 0.5])
    odds = action_odds(theta)
    assert np.allclose(odds.sum(axis=1), 1.0)
    uniform = (np.arange(100_000) + 0.5) / 100_000
    for state in range(STATES):
        drawn = draw_action(uniform, np.full(100_000, state), np.full(100_000, 0.5))
        assert np.allclose(np.bincount(drawn, minlength=6) / 100_000, odds[state, :, 1], atol=1e-4)


def test_more_will_never_means_less() -> None:
    """The probability rises with theta, in every state and at every step."""
    truth = PurchaseTruth(BEFORE_DRIFT)
    theta = np.linspace(-8, 6, 200)
    for step in (0, 10, 29):
        for state in range(STATES):
            assert (np.diff(truth.after_click(step, np.full(200, state), theta)) >= -1e-12).all()
