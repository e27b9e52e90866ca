"""Whether a trained version serves: its backtest on the latest window against the seasonal forecast.

The last `horizon` buckets were held out of training; both models forecast them from what lay before, for every product
that sold within the context, and the lower weighted quantile loss (WQL) wins. A version that does not win runs in
shadow, and so does one that the network which serves now beats. The margin it must win by is declared with the
decision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from models import evaluation, seasonal
from models.buckets import Ints, kept_buckets
from models.samples import Samples
from models.sequence import History, SequenceForecaster
from models.training import Trained
from models.windows import Panel

Decision = Literal["promoted", "shadow"]


@dataclass(frozen=True, slots=True)
class Backtest:
    """Figures of both models over the same `products` and `steps`, and what follows from them.

    `win` is the share by which the version's WQL is lower than the seasonal forecast's; promoted iff above `margin`,
    and `wql` is not above `wql_champion`, that of the network which serves now (NaN where none does).
    """

    wql: float
    wql_seasonal: float
    wql_champion: float
    wape: float
    wape_seasonal: float
    coverage_95: float
    products: int
    steps: int
    win: float
    margin: float
    decision: Decision

    def metrics(self) -> dict[str, float]:
        """Return the figures as they go into a card and an announcement; those that are undefined are left out."""
        figures = {name: float(value) for name, value in asdict(self).items() if name != "decision"}
        return {name: value for name, value in figures.items() if np.isfinite(value)}


def backtest(
    trained: Trained, panel: Panel, *, champion: SequenceForecaster | None = None, margin: float = 0.0
) -> Backtest:
    """Forecast the held-out buckets with all models, each seeing only what it would have seen, and decide.

    `champion` is the network that serves now, of the same covariates and horizon.
    """
    spec, column = trained.spec, trained.split.held_out
    past = panel.before(column)
    series = Samples(past, spec).eligible(column, column + 1)[0]
    actual = panel.quantity[series, column : column + spec.horizon]
    before = histories(past, panel, series, spec.horizon)
    mean, quantiles = trained.forecaster.forecast(before)
    wql_champion = float("nan")
    if champion is not None:
        wql_champion = evaluation.wql(actual, champion.forecast(before)[1], champion.spec.quantiles)

    kept = kept_buckets(spec.freq)
    base_mean, base_quantiles = np.empty_like(mean), np.empty_like(quantiles)
    for n, s in enumerate(series):
        quantity = past.quantity[s, -kept:]
        # From its first bucket on; an unknown one in between keeps its place, or the season would shift.
        quantity = quantity[np.argmax(np.isfinite(quantity)) :]
        forecast = seasonal.forecast(quantity, spec.season, spec.horizon, spec.quantiles)
        base_mean[n], base_quantiles[n] = forecast.mean, forecast.quantiles

    wql, wql_seasonal = (evaluation.wql(actual, q, spec.quantiles) for q in (quantiles, base_quantiles))
    win = 1.0 - wql / wql_seasonal if wql_seasonal > 0 else 0.0  # where nothing sold, nobody wins
    return Backtest(
        wql=wql,
        wql_seasonal=wql_seasonal,
        wql_champion=wql_champion,
        wape=evaluation.wape(actual, mean),
        wape_seasonal=evaluation.wape(actual, base_mean),
        coverage_95=evaluation.coverage(actual, quantiles[..., 0], quantiles[..., -1]),
        products=len(series),
        steps=spec.horizon,
        win=win,
        margin=margin,
        decision="promoted" if win > margin and not wql > wql_champion else "shadow",
    )


def histories(past: Panel, panel: Panel, series: Ints, horizon: int) -> list[History]:
    """Return the latest histories of `past` as a demand worker would give them; covariates ahead come from `panel`."""
    last, width = int(past.index()[-1]), past.buckets + horizon
    return [
        History(
            last,
            past.quantity[s],
            past.price[s],
            past.views[s],
            past.carts[s],
            panel.covariates[s, :width] if panel.covariate_names else None,
        )
        for s in series
    ]
