"""The products and their calendar: popularity, prices, promotions, stock, and what they do to a visitor's will to buy.

Everything is (products, days), the days from the first simulated one to the last that the plan knows of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.simulator.behaviour import Floats, Ints
from streams.simulator.config import DAY_MS, ShopConfig

_NOUNS = ["lamp", "mug", "chair", "shirt", "shoe", "bag", "book", "toy", "clock", "vase", "rug", "pan"]
_ADJECTIVES = ["red", "blue", "green", "small", "large", "old", "new", "round", "soft", "plain", "fine", "warm"]
_PROMOTION_DAYS = 4


@dataclass(frozen=True, slots=True)
class Fact:
    """One entry of the catalog or the plan; `price` in minor units."""

    time_ms: int
    product: int
    price: int
    stock: int = 0
    promotion: bool = False


class Assortment:
    """What the shop sells, day by day."""

    def __init__(self, config: ShopConfig) -> None:
        self._config = config
        rng = np.random.default_rng([config.seed, 1])
        products, days = config.products, config.days + config.plan_ahead_days
        weeks = (days + 6) // 7
        day = np.arange(days)
        week = day // 7
        self.category: Ints = rng.integers(0, config.categories, products)
        self.names = [f"{_ADJECTIVES[p % 12]} {self.noun(int(c))} {p}" for p, c in enumerate(self.category)]
        new = rng.random(products) < config.new_products
        self.launch: Ints = np.where(new, rng.integers(0, config.days, products), 0)
        self.launched: NDArray[np.bool_] = day[None, :] >= self.launch[:, None]

        first_price = np.round(np.exp(rng.normal(3.0, 0.8, products)) * 100.0).clip(50, 10_000_000)
        changes = rng.random((products, weeks)) < config.price_changes
        changes[:, 0] = False
        steps = np.where(changes, rng.normal(0.02, 0.1, (products, weeks)), 0.0).cumsum(axis=1)
        self.list_price: Ints = np.round(first_price[:, None] * np.exp(steps))[:, week].astype(np.int64)
        promoted_week = rng.random((products, weeks)) < config.promoted
        self.promoted: NDArray[np.bool_] = promoted_week[:, week] & (day % 7 < _PROMOTION_DAYS)[None, :]
        discount = np.where(self.promoted, 1.0 - config.promotion_discount, 1.0)
        self.price: Ints = np.maximum(np.round(self.list_price * discount), 1.0).astype(np.int64)
        self.in_stock: NDArray[np.bool_] = ~_stock_outs(rng, products, weeks, config.stock_outs)[:, :days]

        appeal = rng.normal(0.0, 0.5, products)
        dearer = np.log(self.price / first_price[:, None])
        self.odds: Floats = appeal[:, None] - config.elasticity * dearer + config.promotion_push * self.promoted
        popularity = rng.normal(0.0, 1.1, products)
        trend = rng.normal(0.0, config.trend_sd, products)
        phase = rng.uniform(0.0, 2.0 * np.pi, config.categories)[self.category]
        of_year = 2.0 * np.pi * (config.first_day + day) / 365.25
        self._pull = popularity[:, None] + trend[:, None] * (day / 365.0)[None, :]
        self._pull += config.yearly * np.sin(of_year[None, :] + phase[:, None]) + config.promotion_pull * self.promoted

    def shares(self, day: int) -> Floats:
        """Return each product's share of the visits on a day; they sum to 1."""
        weights = np.exp(self._pull[:, day]) * self.launched[:, day]
        total = weights.sum()
        # On a day before anything was launched the visitors look at what will come.
        return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))

    def noun(self, category: int) -> str:
        """What the products of a category are called, and searched by."""
        return _NOUNS[category % 12] if category < 12 else f"{_NOUNS[category % 12]}{category // 12}"

    def catalog(self) -> list[Fact]:
        """Return the catalog's entries by time: each product's first, then each change of list price or stock."""
        days = self._config.days
        news = np.diff(self.list_price[:, :days], axis=1, prepend=-1) != 0
        news |= np.diff(self.in_stock[:, :days].astype(np.int8), axis=1, prepend=-1) != 0
        day = np.arange(days)[None, :]
        news = np.where(day > self.launch[:, None], news, day == self.launch[:, None])
        return [
            Fact(self._midnight(d), p, int(self.list_price[p, d]), 100 if self.in_stock[p, d] else 0)
            for d, p in np.argwhere(news.T).tolist()
        ]

    def plan(self) -> list[Fact]:
        """Return the plan's entries by time: each change of a product's price or promotion, also beyond the end."""
        news = (np.diff(self.price, axis=1, prepend=-1) != 0) | (
            np.diff(self.promoted.astype(np.int8), axis=1, prepend=-1) != 0
        )
        return [
            Fact(self._midnight(d), p, int(self.price[p, d]), promotion=bool(self.promoted[p, d]))
            for d, p in np.argwhere(news.T).tolist()
        ]

    def _midnight(self, day: int) -> int:
        return (self._config.first_day + day) * DAY_MS


def _stock_outs(rng: np.random.Generator, products: int, weeks: int, rate: float) -> NDArray[np.bool_]:
    begins = np.where(rng.random((products, weeks)) < rate, rng.integers(0, 7, (products, weeks)), 1_000)
    lasts = rng.integers(1, 4, (products, weeks))
    day = np.arange(weeks * 7)
    since = (day % 7)[None, :] - begins[:, day // 7]
    return (since >= 0) & (since < lasts[:, day // 7])
