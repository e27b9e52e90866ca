"""The champion of demand: the seasonal forecast, or the sequence model that was promoted over it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.buckets import SEASON
from models.seasonal import QUANTILES
from models.seasonal import forecast as seasonal_forecast
from models.seasonal import kept_buckets as kept_buckets
from models.sequence import History, SequenceForecaster
from schemas.outputs import Announcement
from streams.settings import Settings
from streams.topologies.calendar import Calendar
from streams.topologies.facts import Facts
from streams.topologies.series import Series

_LOG = logging.getLogger("tidecast.demand")
SEASONAL = "seasonal"
SEASONAL_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Mean per step and quantiles (steps × levels) in units, with the model that made them."""

    model_name: str
    model_version: str
    mean: list[float]
    quantiles: list[list[float]]
    levels: Sequence[float] = QUANTILES


class Champion:
    """The model that demand predictions come from, swapped between batches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sequence: SequenceForecaster | None = None
        self._version = ""
        self.calendar = Calendar(settings.demand.bucket, settings.shop.timezone)

    @property
    def name(self) -> str:
        """Name and version, for status."""
        return f"sequence:{self._version}" if self._sequence is not None else f"{SEASONAL}:{SEASONAL_VERSION}"

    def announce(self, announcement: Announcement) -> bool:
        """Take an announcement of `demand`; says whether the champion changed.

        A version that cannot be loaded (signature, shape, another bucket) is refused with a log line: the one that
        serves goes on.
        """
        if announcement.role != "champion":
            return False
        if announcement.name == SEASONAL:
            changed, self._sequence, self._version = self._sequence is not None, None, ""
            return changed
        if announcement.version == self._version:
            return False
        from models.registry import RegistryError
        from streams.serving import load_announced

        try:
            loaded = load_announced(announcement, self._settings)
        except (RegistryError, OSError, ValueError) as error:
            _LOG.error("demand champion %s cannot be served: %s; %s goes on", announcement.version, error, self.name)
            return False
        self._sequence, self._version = loaded, announcement.version
        return True

    def forecast(self, products: Sequence[str], series: Sequence[Series], number: int, facts: Facts) -> list[Forecast]:
        """Forecast the buckets after `number` of each product."""
        horizon = self._settings.demand.horizon
        sequence = self._sequence
        if sequence is not None and sequence.spec.horizon >= horizon:
            histories = [self._history(sequence, p, s, number, facts) for p, s in zip(products, series, strict=True)]
            mean, quantiles = sequence.forecast(histories)
            return [
                Forecast("sequence", self._version, m[:horizon].tolist(), q[:horizon].tolist(), sequence.spec.quantiles)
                for m, q in zip(mean, quantiles, strict=True)
            ]
        season = SEASON[self._settings.demand.bucket]
        found = []
        for one in series:
            result = seasonal_forecast(one.quantities(), season, horizon)
            found.append(Forecast(SEASONAL, SEASONAL_VERSION, result.mean.tolist(), result.quantiles.tolist()))
        return found

    def _history(
        self, sequence: SequenceForecaster, product: str, series: Series, number: int, facts: Facts
    ) -> History:
        names = sequence.spec.covariates
        covariates = None
        if names:
            first = number - len(series.closed) + 1
            rows = [
                facts.covariates(product, self.calendar.start(one))
                for one in range(first, number + sequence.spec.horizon + 1)
            ]
            covariates = np.array([[row.get(name, 0.0) for name in names] for row in rows])
        return History(
            last_index=number,
            quantity=np.array(series.quantities()),
            price=np.array(series.column("price")),
            views=np.array(series.column("views")),
            carts=np.array(series.column("carts")),
            covariates=covariates,
        )
