"""What each model says at one origin, from closed buckets alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import promotion, seasonal
from models.buckets import SEASON, kept_buckets
from models.samples import NotEnoughHistory
from models.sequence import History
from models.training import Progress, TrainConfig, Trained, spec_for, train
from models.windows import Panel
from streams.backtest.naive import seasonal_naive
from streams.backtest.scores import LEVELS
from streams.settings import TrainSettings

Floats = NDArray[np.float64]

SEASONAL, NAIVE = "seasonal", "seasonal_naive"


@dataclass(frozen=True, slots=True)
class Said:
    """Forecasts of all series of a panel: mean ``(series, steps)``, quantiles ``(series, steps, LEVELS)``, units."""

    mean: Floats
    quantiles: Floats


@dataclass(frozen=True, slots=True)
class Rival:
    """A trained network and what its backtest before the origin says of it; `figures` are of that backtest."""

    trained: Trained
    promoted: bool
    figures: dict[str, Any]


def torch_is_here() -> bool:
    """Say whether the sequence model can be trained here."""
    return find_spec("torch") is not None


def simple_forecasts(panel: Panel, horizon: int) -> dict[str, Said]:
    """Return the seasonal forecast, from as much history as a demand worker keeps, and the seasonal naive one."""
    shape = (len(panel.products), horizon)
    said = {name: Said(np.zeros(shape), np.zeros((*shape, len(LEVELS)))) for name in (SEASONAL, NAIVE)}
    season = SEASON[panel.freq]
    for place, quantity in enumerate(panel.quantity):
        history = since_first(quantity)
        kept = history[-kept_buckets(panel.freq) :]
        forecast = seasonal.forecast(kept, season, horizon, LEVELS)
        said[SEASONAL].mean[place], said[SEASONAL].quantiles[place] = forecast.mean, forecast.quantiles
        said[NAIVE].mean[place], said[NAIVE].quantiles[place] = seasonal_naive(history, season, horizon, LEVELS)
    return said


def train_rival(
    panel: Panel, horizon: int, settings: TrainSettings, folder: Path, progress: Callable[[Progress], None]
) -> Rival | str:
    """Train the network on `panel` and backtest it on the panel's last buckets, as scheduled training does.

    Returns why not where there is too little history.
    """
    config = TrainConfig(epochs=settings.epochs, seed=settings.seed)
    try:
        trained = train(panel, spec_for(panel, horizon), config, folder, device=settings.device, progress=progress)
    except NotEnoughHistory as error:
        return str(error)
    found = promotion.backtest(trained, panel)
    return Rival(trained, found.decision == "promoted", {**found.metrics(), "decision": found.decision})


def sequence_forecasts(rival: Rival, panel: Panel, ahead: Floats) -> Said:
    """Return the network's forecasts; `ahead` is what is planned, as ``(series, steps, covariates)``."""
    last = panel.first_index + panel.buckets - 1
    planned = np.concatenate([panel.covariates, ahead], axis=1)
    histories = [
        History(
            last,
            panel.quantity[place],
            panel.price[place],
            panel.views[place],
            panel.carts[place],
            planned[place] if panel.covariate_names else None,
        )
        for place in range(len(panel.products))
    ]
    mean, quantiles = rival.trained.forecaster.forecast(histories)
    return Said(mean, quantiles)


def since_first(quantity: Floats) -> Floats:
    """Return a series from its first known bucket on."""
    known = np.flatnonzero(np.isfinite(quantity))
    return quantity[known[0] :] if len(known) else quantity[:0]
