"""Visits become clicks and orders: a block of hours at once, all of its sessions step by step together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.simulator.assortment import Assortment
from streams.simulator.behaviour import SEARCH, STEPS, VIEW_OTHER, Floats, Ints, draw_action, go_on, hazard, next_state
from streams.simulator.config import DAY_MS, ShopConfig
from streams.simulator.truth import Truth, visits_per_hour

CATALOG_TABLE, CLICKS_TABLE, ORDERS_TABLE = range(3)
PLACED, CANCELLED, RETURNED = range(3)
HOUR_MS = 3_600_000

EVENT = np.dtype(
    [
        ("time", "i8"),
        ("table", "i1"),
        ("kind", "i1"),  # the action of a click, the status of an order
        ("user", "i8"),  # -1: unknown
        ("session", "i8"),
        ("product", "i4"),  # -1: none
        ("quantity", "i4"),
        ("price", "i8"),  # minor units; -1: none; of the catalog: the list price
        ("order", "i8"),
        ("stock", "i4"),
        ("truth", "f8"),
    ]
)
Events = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class _Sessions:
    start: Ints
    user: Ints
    product: Ints
    theta: Floats
    in_stock: NDArray[np.bool_]
    bot: NDArray[np.bool_]
    drifted: NDArray[np.bool_]
    unknown: NDArray[np.bool_]


class Visits:
    """Makes the events of one block after the other; remembers when each user came last."""

    def __init__(self, config: ShopConfig, assortment: Assortment, truth: Truth) -> None:
        self._config = config
        self._assortment = assortment
        self._truth = truth
        self.propensities, self.activity = population(config)
        self._cumulative = np.cumsum(self.activity)
        self._bots = max(1, config.users // 500)
        self._last_start = np.full(config.users + self._bots, -(1 << 60), np.int64)
        self._sessions = 0
        self._orders = 0

    def block(self, day: int, first_hour: int, hours: int) -> Events:
        """Return all events of the visits that begin in some hours of a day, in no order."""
        rng = np.random.default_rng([self._config.seed, 2, day, first_hour])
        sessions = self._arrive(rng, day, first_hour, hours)
        clicks, buys = self._walk(rng, sessions, day)
        events = np.concatenate([clicks, self._order(rng, sessions, buys, day)])
        events["session"] += self._sessions
        self._sessions += len(sessions.start)
        return events

    def _arrive(self, rng: np.random.Generator, day: int, first_hour: int, hours: int) -> _Sessions:
        config = self._config
        rates = visits_per_hour(config, day)[first_hour : first_hour + hours]
        count = int(rng.poisson(rates.sum()))
        hour = first_hour + rng.choice(hours, count, p=rates / rates.sum())
        midnight = (config.first_day + day) * DAY_MS
        start = np.sort(midnight + hour * HOUR_MS + rng.integers(0, HOUR_MS, count))
        bot = rng.random(count) < config.bots
        user = np.minimum(np.searchsorted(self._cumulative, rng.random(count)), config.users - 1)
        product = np.searchsorted(np.cumsum(self._assortment.shares(day))[:-1], rng.random(count), side="right")
        theta = self.propensities[user] + self._assortment.odds[product, day]
        # Who comes again too soon comes without a name: then a horizon holds purchases of one session only.
        unknown = (rng.random(count) < config.anonymous) | self._too_soon(user, start)
        user = np.where(bot, config.users + rng.integers(0, self._bots, count), user)
        drifted = start >= config.drift_at_ms if config.drift_at_ms is not None else np.zeros(count, np.bool_)
        in_stock = self._assortment.in_stock[product, day]
        return _Sessions(start, user, product, theta, in_stock, bot, drifted, unknown & ~bot)

    def _too_soon(self, user: Ints, start: Ints) -> NDArray[np.bool_]:
        order = np.lexsort((start, user))
        sorted_user, sorted_start = user[order], start[order]
        first = np.ones(len(user), np.bool_)
        first[1:] = sorted_user[1:] != sorted_user[:-1]
        before = np.where(first, self._last_start[sorted_user], np.roll(sorted_start, 1))
        soon = np.empty(len(user), np.bool_)
        soon[order] = sorted_start - before < self._config.separation_ms
        self._last_start[sorted_user] = sorted_start  # the last of equal indices stays
        return soon

    def _walk(self, rng: np.random.Generator, sessions: _Sessions, day: int) -> tuple[Events, tuple[Ints, Ints]]:
        active = np.arange(len(sessions.start))
        state = np.zeros(len(active), np.int64)
        time = sessions.start.copy()
        made: list[Events] = []
        bought: list[Ints] = []
        bought_at: list[Ints] = []
        others = np.cumsum(self._assortment.shares(day))[:-1]
        for step in range(STEPS):
            if not len(active):
                break
            theta, bot = sessions.theta[active], sessions.bot[active]
            sellable = sessions.in_stock[active] & ~bot
            drifted = sessions.drifted[active]
            action = np.where(bot, VIEW_OTHER, draw_action(rng.random(len(active)), state, theta))
            state = next_state(state, action)
            made.append(self._clicks(rng, sessions, active, action, time, others, day))
            made[-1]["truth"] = sellable * np.where(
                drifted,
                self._truth.after.after_click(step, state, theta),
                self._truth.before.after_click(step, state, theta),
            )
            chance = np.where(
                drifted,
                hazard(self._truth.after.rules, state, theta),
                hazard(self._truth.before.rules, state, theta),
            )
            buys = sellable & (rng.random(len(active)) < chance)
            bought.append(active[buys])
            bought_at.append(time[buys] + rng.integers(5_000, 90_000, int(buys.sum())))
            stays = ~buys & (bot | (rng.random(len(active)) < go_on(state)))
            pause = 2_000 + np.minimum(rng.exponential(33_000, len(active)), 97_000).astype(np.int64)
            pause = np.where(bot, rng.integers(300, 1_500, len(active)), pause)
            active, state, time = active[stays], state[stays], (time + pause)[stays]
        if not made:
            return np.zeros(0, EVENT), (np.zeros(0, np.int64), np.zeros(0, np.int64))
        return np.concatenate(made), (np.concatenate(bought), np.concatenate(bought_at))

    def _clicks(
        self,
        rng: np.random.Generator,
        sessions: _Sessions,
        active: Ints,
        action: Ints,
        time: Ints,
        others: Floats,
        day: int,
    ) -> Events:
        clicks = np.zeros(len(active), EVENT)
        other = np.searchsorted(others, rng.random(len(active)), side="right")
        product = np.where(action == VIEW_OTHER, other, sessions.product[active])
        clicks["time"], clicks["table"], clicks["kind"] = time, CLICKS_TABLE, action
        clicks["user"] = np.where(sessions.unknown[active], -1, sessions.user[active])
        clicks["session"], clicks["quantity"] = active, 1
        clicks["product"] = product
        clicks["price"] = np.where(action == SEARCH, -1, self._assortment.price[product, day])
        return clicks

    def _order(self, rng: np.random.Generator, sessions: _Sessions, buys: tuple[Ints, Ints], day: int) -> Events:
        who, when = buys
        config = self._config
        placed = np.zeros(len(who), EVENT)
        placed["time"], placed["table"], placed["kind"] = when, ORDERS_TABLE, PLACED
        placed["user"] = np.where(sessions.unknown[who], -1, sessions.user[who])
        placed["session"] = who
        placed["product"] = sessions.product[who]
        placed["quantity"] = 1 + rng.poisson(config.extra_quantity, len(who))
        placed["price"] = self._assortment.price[sessions.product[who], day]
        placed["order"] = self._orders + np.arange(len(who))
        self._orders += len(who)
        fate = rng.random(len(who))
        cancelled = placed[fate < config.cancellations].copy()
        cancelled["kind"] = CANCELLED
        cancelled["time"] += rng.integers(10 * 60_000, 12 * HOUR_MS, len(cancelled))
        returned = placed[(fate >= config.cancellations) & (fate < config.cancellations + config.returns)].copy()
        returned["kind"] = RETURNED
        returned["time"] += rng.integers(2 * DAY_MS, 10 * DAY_MS, len(returned))
        return np.concatenate([placed, cancelled, returned])


def population(config: ShopConfig) -> tuple[Floats, Floats]:
    """Return each user's will to buy (log odds) and share of the visits (they sum to 1)."""
    rng = np.random.default_rng([config.seed, 3])
    propensities = rng.normal(0.0, config.propensity_sd, config.users).clip(-5.0, 5.0)
    activity = rng.lognormal(0.0, 0.8, config.users)
    return propensities, activity / activity.sum()
