"""What only the simulator knows: each click's true purchase probability, each product-day's true mean demand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.simulator.assortment import Assortment
from streams.simulator.behaviour import AFTER_DRIFT, BEFORE_DRIFT, Floats, PurchaseTruth
from streams.simulator.config import DAY_MS, ShopConfig

HOURLY = np.array([2, 1, 1, 1, 1, 2, 4, 7, 10, 12, 13, 13, 14, 13, 13, 13, 13, 14, 16, 18, 19, 16, 10, 5]) / 231.0
"""How a day's visits spread over its hours (UTC)."""


class Truth:
    """The truth of a shop. `mean_demand` is known from the start, purchase probabilities as clicks are made.

    `mean_demand[product, day]` are the mean pieces sold (orders placed) by visits that begin on that day, 0 while out
    of stock; `unconstrained[product, day]` had there been stock. On the last day they reach up to the shop's end.
    """

    def __init__(self, config: ShopConfig, assortment: Assortment, propensities: Floats, activity: Floats) -> None:
        self._config = config
        self._clicks: list[NDArray[np.float32]] = []
        self._starts = [0]
        self.before, self.after = PurchaseTruth(BEFORE_DRIFT), PurchaseTruth(AFTER_DRIFT)
        buy_before = self.before.of_crowd(propensities, activity)
        buy_after = self.after.of_crowd(propensities, activity)
        pieces = (1.0 - config.bots) * (1.0 + config.extra_quantity)
        self.unconstrained = np.empty((config.products, config.days), np.float32)
        for day in range(config.days):
            offsets = assortment.odds[:, day]
            whole = _visits_until(config, day, config.end_ms)
            early = whole if config.drift_at_ms is None else min(whole, _visits_until(config, day, config.drift_at_ms))
            buys = early * buy_before(offsets) + (whole - early) * buy_after(offsets)
            self.unconstrained[:, day] = pieces * assortment.shares(day) * buys
        self.mean_demand = self.unconstrained * assortment.in_stock[:, : config.days]

    def purchase_probability(self, event_id: str) -> float:
        """Return the true probability of an order within the horizon after a click that was already made."""
        number = int(event_id.rsplit(":", 1)[1])
        block = int(np.searchsorted(self._starts, number, side="left")) - 1
        return float(self._clicks[block][number - self._starts[block] - 1])

    def purchase_probabilities(self) -> NDArray[np.float32]:
        """Return those of all clicks made so far; click number n of the ids stands at n - 1."""
        return np.concatenate(self._clicks) if self._clicks else np.empty(0, np.float32)

    def demand_of(self, product_id: str, time_ms: int) -> float:
        """Return a product's mean demand on the day that holds `time_ms`; 0 outside the simulated days."""
        day = time_ms // DAY_MS - self._config.first_day
        return float(self.mean_demand[int(product_id[1:]), day]) if 0 <= day < self._config.days else 0.0

    def _forget(self) -> None:
        self._clicks.clear()
        self._starts[1:] = []

    def _add(self, probabilities: Floats) -> None:
        self._clicks.append(probabilities.astype(np.float32))
        self._starts.append(self._starts[-1] + len(probabilities))


def visits_per_hour(config: ShopConfig, day: int) -> Floats:
    """Return the mean visits that begin in each hour of a day; weekends are busier."""
    # 1970-01-01 was a Thursday.
    weekend = (config.first_day + day + 3) % 7 >= 5
    mean = config.users * config.sessions_per_user_day * (1.0 + config.weekend * weekend)
    return np.asarray(mean * HOURLY)


def _visits_until(config: ShopConfig, day: int, time_ms: int) -> float:
    hours = (time_ms - (config.first_day + day) * DAY_MS) / 3_600_000
    share = np.clip(hours - np.arange(24), 0.0, 1.0)
    return float(visits_per_hour(config, day) @ share)
