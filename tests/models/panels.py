"""Small made-up shops for the tests of the sequence model."""

from __future__ import annotations

import numpy as np

from models.windows import Panel


def weekly_shop(products: int = 12, days: int = 90, seed: int = 3, covariates: tuple[str, ...] = ()) -> Panel:
    """Return Poisson demand with a weekly pattern; closed on Saturdays; products start one after another."""
    random = np.random.default_rng(seed)
    level = random.uniform(2.0, 20.0, size=(products, 1))
    first = 20_000
    weekday = (np.arange(first, first + days) + 3) % 7
    pattern = np.array([1.0, 1.2, 0.8, 1.5, 1.0, 0.0, 0.5])[weekday]
    quantity = random.poisson(level * pattern).astype(np.float64)
    for s in range(products):
        quantity[s, : s % 5] = np.nan
    price = np.where(random.random(quantity.shape) < 0.3, 250.0, np.nan)
    views = np.asarray(random.poisson(5.0, size=quantity.shape), dtype=np.float64)
    extra = random.random((products, days, len(covariates)))
    names = tuple(f"product-{s}" for s in range(products))
    return Panel("D", "Europe/London", names, first, quantity, price, views, views // 4, extra, covariates)
