"""The models of demand: the seasonal forecast, or the sequence model promoted over it, and one in shadow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.buckets import SEASON
from models.seasonal import QUANTILES
from models.seasonal import forecast as seasonal_forecast
from models.sequence import SEQUENCE, History, SequenceForecaster
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


@dataclass(frozen=True, slots=True)
class _Loaded:
    version: str
    forecaster: SequenceForecaster


class DemandModels:
    """The champion that demand predictions come from, and the version in its shadow; both are swapped between batches.

    A version in shadow forecasts beside the champion until another takes its place, or a champion as new as it serves
    (versions sort by when their training began).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._champion: _Loaded | None = None
        self._shadow: _Loaded | None = None
        self.refused: str | None = None
        """Why the champion announced last is not the one that serves."""
        self.calendar = Calendar(settings.demand.bucket, settings.shop.timezone)

    @property
    def champion(self) -> str:
        """Name and version of the champion, for status."""
        return f"{SEQUENCE}:{self._champion.version}" if self._champion else f"{SEASONAL}:{SEASONAL_VERSION}"

    @property
    def shadow(self) -> str | None:
        """Version that forecasts in shadow now, if any."""
        shadow, champion = self._shadow, self._champion
        if shadow is None or (champion is not None and champion.version >= shadow.version):
            return None
        return shadow.version

    def announce(self, announcement: Announcement) -> bool:
        """Take an announcement of `demand`; says whether a model changed.

        A version that cannot be loaded (signature, shape, another bucket) is refused with a log line: what serves goes
        on.
        """
        champion = announcement.role == "champion"
        known = self._champion if champion else self._shadow
        if champion:
            self.refused = None
        if (known.version if known else None) == announcement.version:
            return False
        loaded = None
        if announcement.name != SEASONAL:
            loaded = self._load(announcement)
            if loaded is None:
                return False
        if champion:
            self._champion = loaded
        else:
            self._shadow = loaded
        return loaded is not known

    def _load(self, announcement: Announcement) -> _Loaded | None:
        from models.registry import RegistryError
        from streams.serving import load_announced

        try:
            return _Loaded(announcement.version, load_announced(announcement, self._settings))
        except (RegistryError, OSError, ValueError) as error:
            said = f"{announcement.role} {announcement.version}"
            _LOG.error("demand %s cannot be served: %s; %s goes on", said, error, self.champion)
            if announcement.role == "champion":
                self.refused = f"{announcement.version}: {error}"
            return None

    def forecast(self, products: Sequence[str], series: Sequence[Series], number: int, facts: Facts) -> list[Forecast]:
        """Forecast the buckets after `number` of each product, by the champion."""
        if self._champion is not None:
            return self._sequence(self._champion, products, series, number, facts)
        season, horizon = SEASON[self._settings.demand.bucket], self._settings.demand.horizon
        found = []
        for one in series:
            result = seasonal_forecast(one.quantities(), season, horizon)
            found.append(Forecast(SEASONAL, SEASONAL_VERSION, result.mean.tolist(), result.quantiles.tolist()))
        return found

    def shadow_forecast(
        self, products: Sequence[str], series: Sequence[Series], number: int, facts: Facts
    ) -> list[Forecast]:
        """Forecast the same by the version in shadow; nothing where there is none."""
        if self._shadow is None or self.shadow is None:
            return []
        return self._sequence(self._shadow, products, series, number, facts)

    def _sequence(
        self, model: _Loaded, products: Sequence[str], series: Sequence[Series], number: int, facts: Facts
    ) -> list[Forecast]:
        forecaster, steps = model.forecaster, self._settings.demand.horizon
        histories = [self.history(forecaster, p, s, number, facts) for p, s in zip(products, series, strict=True)]
        mean, quantiles = forecaster.forecast(histories)
        return [
            Forecast(SEQUENCE, model.version, m[:steps].tolist(), q[:steps].tolist(), forecaster.spec.quantiles)
            for m, q in zip(mean, quantiles, strict=True)
        ]

    def history(self, sequence: SequenceForecaster, product: str, series: Series, number: int, facts: Facts) -> History:
        """Return what a network is shown of a product after bucket `number`: the same as it was trained on."""
        names = sequence.spec.covariates
        covariates = None
        if names:
            window = range(number - sequence.spec.context + 1, number + sequence.spec.horizon + 1)
            covariates = facts.planned(product, [self.calendar.start(one) for one in window], names)
        return History(
            last_index=number,
            quantity=np.array(series.quantities()),
            price=np.array(series.column("price")),
            views=np.array(series.column("views")),
            carts=np.array(series.column("carts")),
            covariates=covariates,
        )
