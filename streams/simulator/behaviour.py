"""What a visitor does in a session: a Markov chain whose purchase probability can be computed, not only simulated.

A session is about one product. Its state is whether that product is in the cart, and how often it was looked at (0, 1,
2 or more). Each step is a click, then perhaps a purchase, then perhaps the end. All of it depends on `theta`, the
session's will to buy in log odds: the user's own, and the product's of that day. With the chance of a purchase after a
click in state x being h(x), of going on c(x), and of the next click leading to y being P(x, y), the true probability
after click i is

    V_i(x) = h(x) + (1 - h(x)) c(x) sum_y P(x, y) V_{i+1}(y),

computed once on a grid of theta, from the last possible step back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = 30
"""Most clicks of a session."""
STATES = 6
"""Cart (0, 1) × looks (0, 1, 2), as cart * 3 + looks."""

VIEW, VIEW_OTHER, SEARCH, WISHLIST, ADD, REMOVE = range(6)
"""What a click can be; a view is of the session's own product, a view of another leaves the state as it is."""

GRID_LOW, GRID_STEP, GRID_SIZE = -16.0, 0.02, 1_201
"""The grid of theta, from -16 to 8."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The log odds of a purchase: `base` + theta + `cart` once it is in the cart + `look` for each look."""

    base: float
    cart: float
    look: float


BEFORE_DRIFT = Rules(base=-7.6, cart=3.2, look=0.8)
AFTER_DRIFT = Rules(base=-6.8, cart=0.6, look=1.7)
"""After a drift what is in the cart says little, and looking again says much."""


def next_state(state: Ints, action: Ints) -> Ints:
    """Return the state after a click."""
    cart, looks = state // 3, state % 3
    looks = np.where(action == VIEW, np.minimum(looks + 1, 2), looks)
    cart = np.where(action == ADD, 1, np.where(action == REMOVE, 0, cart))
    return cart * 3 + looks


def action_odds(theta: Floats) -> Floats:
    """Return the chances of each action: (states, actions, thetas)."""
    odds = np.empty((STATES, 6, len(theta)))
    for state in range(STATES):
        add, remove = _cart_odds(np.full(len(theta), state), theta)
        odds[state, ADD], odds[state, REMOVE] = add, remove
        for action, share in zip((VIEW, VIEW_OTHER, SEARCH, WISHLIST), _OTHERWISE, strict=True):
            odds[state, action] = share * (1.0 - add - remove)
    return odds


def draw_action(uniform: Floats, state: Ints, theta: Floats) -> Ints:
    """Return the action that numbers uniform in [0, 1) choose, with the chances of `action_odds`."""
    add, remove = _cart_odds(state, theta)
    # What is left of the number, after the cart had its share of it, is uniform again.
    left = (uniform - add - remove) / (1.0 - add - remove)
    action = np.searchsorted(np.cumsum(_OTHERWISE)[:-1], left, side="right")
    return np.where(uniform < add, ADD, np.where(uniform < add + remove, REMOVE, action))


_OTHERWISE = (0.42, 0.44, 0.09, 0.05)
"""Views, views of another product, searches and wishes, among what does not touch the cart."""


def _cart_odds(state: Ints, theta: Floats) -> tuple[Floats, Floats]:
    # Who wants to buy puts things into the cart more often, and takes them out less often.
    wants = _sigmoid(theta + 0.5)
    in_cart = state >= 3
    return np.where(in_cart, 0.08, 0.02 + 0.16 * wants), np.where(in_cart, 0.16 - 0.08 * wants, 0.0)


def go_on(state: Ints) -> Floats:
    """Return the chance of a further click after one that was no purchase."""
    return np.where(state >= 3, 0.84, 0.8)


def hazard(rules: Rules, state: Ints, theta: Floats) -> Floats:
    """Return the chance that a purchase follows right after a click that led to `state`."""
    return _sigmoid(rules.base + theta + rules.cart * (state >= 3) + rules.look * (state % 3))


class PurchaseTruth:
    """The true purchase probability under one set of rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        theta: Floats = np.asarray(GRID_LOW + GRID_STEP * np.arange(GRID_SIZE), np.float64)
        odds = action_odds(theta)
        states = np.arange(STATES)
        leads_to = np.stack([next_state(states, np.full(STATES, action)) for action in range(6)], axis=1)
        chance = np.stack([hazard(rules, np.full(GRID_SIZE, state), theta) for state in states])
        self._after = np.empty((STEPS, STATES, GRID_SIZE))
        self._after[-1] = chance
        for step in range(STEPS - 2, -1, -1):
            following = np.einsum("xag,xag->xg", odds, self._after[step + 1][leads_to])
            self._after[step] = chance + (1.0 - chance) * go_on(states)[:, None] * following
        self._session = np.einsum("ag,ag->g", odds[0], self._after[0][leads_to[0]])

    def after_click(self, step: int, state: Ints, theta: Floats) -> Floats:
        """Return the probability that the session still ends in a purchase, after click `step` led to `state`."""
        index, share = _on_grid(theta)
        table = self._after[step]
        return np.asarray((1.0 - share) * table[state, index] + share * table[state, index + 1])

    def of_session(self, theta: Floats) -> Floats:
        """Return the probability that a session ends in a purchase, before its first click."""
        index, share = _on_grid(theta)
        return np.asarray((1.0 - share) * self._session[index] + share * self._session[index + 1])

    def of_crowd(self, propensities: Floats, weights: Floats) -> Callable[[Floats], Floats]:
        """Return a session's mean probability over users (weights sum to 1), by what is added to their theta."""
        theta = np.linspace(-6.0, 6.0, 601)
        position = np.clip((propensities - theta[0]) / 0.02, 0.0, 599.999)
        index = position.astype(np.int64)
        share = position - index
        crowd = np.bincount(index, weights * (1.0 - share), 602) + np.bincount(index + 1, weights * share, 602)
        offsets = np.linspace(-9.0, 2.0, 1_101)
        means = np.array([crowd[:601] @ self.of_session(theta + offset) for offset in offsets])
        return lambda added: np.asarray(np.interp(added, offsets, means))


def _on_grid(theta: Floats) -> tuple[Ints, Floats]:
    position = np.clip((theta - GRID_LOW) / GRID_STEP, 0.0, GRID_SIZE - 1.001)
    index = position.astype(np.int64)
    return index, position - index


def _sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))
