"""The demand stage as it is, but for the forecasts: a backtest makes its own, where it wants them."""

from __future__ import annotations

from collections.abc import Sequence

from streams.settings import Settings
from streams.topologies.demand import DemandStage
from streams.topologies.facts import Facts
from streams.topologies.forecasting import DemandModels, Forecast
from streams.topologies.series import Series


class _Silent(DemandModels):
    def forecast(self, products: Sequence[str], series: Sequence[Series], number: int, facts: Facts) -> list[Forecast]:
        steps = self._settings.demand.horizon
        return [Forecast("none", "0", [0.0] * steps, [[0.0]] * steps, (0.5,))] * len(products)


def quiet_demand_stage(settings: Settings) -> DemandStage:
    """Return a demand stage that keeps rows and closes buckets, and forecasts nothing worth its time."""
    stage = DemandStage(settings)
    stage.models = _Silent(settings)
    return stage
