"""Demand at rolling origins: forecasts from what had closed before each, beside what came."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.buckets import SEASON
from models.sequence import SEQUENCE
from models.training import Progress as TrainingProgress
from models.windows import Panel
from streams.backtest.closing import ClosedBuckets, Level
from streams.backtest.feed import share_read
from streams.backtest.files import CsvRows, csv_file, make_folder, write_json
from streams.backtest.forecasters import (
    SEASONAL,
    Rival,
    Said,
    sequence_forecasts,
    simple_forecasts,
    since_first,
    train_rival,
)
from streams.backtest.origins import Origin, check_origins, choose_keys, parse_origins
from streams.backtest.report import Band, forecast_chart, heading, table, write_page
from streams.backtest.scores import LEVELS, DemandScores, mase_scale
from streams.errors import ConfigurationError, SourceError
from streams.settings import Settings
from streams.sources import Source

CHAMPION = "champion"
HEADER = ("key", "origin", "step", "target_start", "model", "mean", *(f"q{level:g}" for level in LEVELS))
_DRAWN = 6
_PAST_DRAWN = 3


@dataclass(frozen=True, slots=True)
class DemandRequest:
    """What is asked; `origins` is ``DATE[,DATE…]``, and either `top` or `keys` is given."""

    freq: Literal["D", "W"]
    horizon: int
    origins: str
    top: int | None = None
    keys: tuple[str, ...] | None = None
    level: Level = "product"
    train: bool = False

    def check(self) -> None:
        """Raise ConfigurationError for a request that cannot be."""
        if (self.top is None) == (self.keys is None):
            raise ConfigurationError("give either --top N or --keys FILE, to say which series to forecast")
        if self.top is not None and self.top < 1:
            raise ConfigurationError(f"--top {self.top}: at least 1")
        if not 1 <= self.horizon <= 366:
            raise ConfigurationError(f"--horizon {self.horizon}: periods ahead, from 1 to 366")


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told how far it is: events fed and event time (UTC ms) and share done; training; lines to read."""

    fed: Callable[[int, int, float], None] = lambda events, time_ms, done: None
    training: Callable[[TrainingProgress], None] = lambda progress: None
    note: Callable[[str], None] = lambda line: None


def backtest_demand(
    source: Source, settings: Settings, request: DemandRequest, out: Path, watching: Watching | None = None
) -> dict[str, Any]:
    """Write forecasts.csv, metrics.json and report.html into `out`; return the metrics.

    Raises ConfigurationError or SourceError for a request, or an origin or key of it, that the data cannot answer.
    """
    watching = watching or Watching()
    request.check()
    make_folder(out)
    started = time.perf_counter()
    buckets = ClosedBuckets(source, settings, request.freq, request.level)
    origins = parse_origins(request.origins, buckets.calendar)
    positions = _feed(source, buckets, origins, watching)
    day_end = buckets.day_end()
    if day_end is None and buckets.feed.events and request.level == "category":
        raise SourceError("no event names a category; describe its column (category = …), or use --level product")
    check_origins(origins, day_end, buckets.calendar)
    keys = choose_keys(buckets.ledger, positions[0], origins[0], request.top, request.keys)
    fed_s = time.perf_counter() - started
    run = _Run(buckets, settings, request, keys, day_end or 0, out, watching)
    with csv_file(out / "forecasts.csv", HEADER) as rows:
        for origin, position in zip(origins, positions, strict=True):
            run.origin(origin, position, rows)
    seconds = time.perf_counter() - started
    metrics: dict[str, Any] = {
        "source": source.name,
        "models": run.metrics(),
        "origins": run.by_origin,
        "counts": {"keys": len(keys), **buckets.counts(), **_rows(source)},
        "settings": run.told(source),
        "seconds": round(seconds, 3),
        "events_per_s": round(buckets.feed.events / fed_s, 1),
    }
    write_json(out / "metrics.json", metrics)
    charts = [forecast_chart(band) for band in run.bands]
    title = f"Demand backtest of {source.name}"
    write_page(out / "report.html", title, [table("model", metrics["models"]), heading("Forecasts"), *charts])
    return metrics


def _feed(source: Source, buckets: ClosedBuckets, origins: Sequence[Origin], watching: Watching) -> list[int]:
    """Feed the whole source; return the ledger's position at each origin: what was known then."""
    positions: list[int] = []
    feed = buckets.feed
    for event in source.events():
        # Plan entries come ahead of all else, whatever they are about.
        while event.topic != "plan" and len(positions) < len(origins) and event.time_ms >= origins[len(positions)].time:
            positions.append(buckets.reach(origins[len(positions)].time))
        if buckets.put(event.topic, event.key, event.value):  # type: ignore[arg-type]  # `events` has no Unreadable
            watching.fed(feed.events, feed.time or 0, share_read(source))
    end = buckets.day_end()
    if end is not None:
        for origin in origins[len(positions) :]:
            positions.append(buckets.reach(min(origin.time, end)))
        buckets.reach(end)
    watching.fed(feed.events, feed.time or 0, 1.0)
    return positions


def _rows(source: Source) -> dict[str, Any]:
    told = source.accounts
    return {
        "rows": dict(told.rows),
        "rows_filtered": dict(told.filtered),
        "rows_unreadable": dict(told.unreadable),
        "rows_unchanged": told.unchanged,
        "sent": dict(told.sent),
    }


class _Run:
    """The origins one after the other."""

    def __init__(
        self,
        buckets: ClosedBuckets,
        settings: Settings,
        request: DemandRequest,
        keys: list[str],
        day_end: int,
        out: Path,
        watching: Watching,
    ) -> None:
        self._buckets = buckets
        self._settings = settings
        self._request = request
        self._keys = keys
        self._watching = watching
        self._training = out / "training"
        # Buckets that end later are not over: what sold in them so far is not what sells in them.
        self._complete = buckets.calendar.number(day_end)
        self.scores: dict[str, DemandScores] = {}
        self.by_origin: dict[str, Any] = {}
        self.bands: list[Band] = []

    def origin(self, origin: Origin, position: int, rows: CsvRows) -> None:
        """Forecast at one origin, write the rows, and score them."""
        buckets, horizon = self._buckets, self._request.horizon
        names = tuple(sorted(buckets.covariates))
        panel = buckets.ledger.panel(self._keys, origin.number, position, buckets.facts, names)
        said = simple_forecasts(panel, horizon)
        rival = self._train(origin, position, names) if self._request.train else None
        if isinstance(rival, Rival):
            starts = [buckets.calendar.start(origin.number + step) for step in range(horizon)]
            ahead = np.array([buckets.facts.planned(key, starts, names) for key in panel.products])
            said[SEQUENCE] = sequence_forecasts(rival, panel, ahead.reshape(len(panel.products), horizon, len(names)))
        promoted = isinstance(rival, Rival) and rival.promoted
        said = {CHAMPION: said[SEQUENCE if promoted else SEASONAL], **said}
        actual = self._actual(panel.products, origin)
        self._write(panel, origin, said, rows)
        self._score(panel, origin, said, actual)
        self.by_origin[origin.day.isoformat()]["published"] = SEQUENCE if promoted else SEASONAL
        if rival is not None:
            told = {"backtest_before_origin": rival.figures} if isinstance(rival, Rival) else {"untrained": rival}
            self.by_origin[origin.day.isoformat()][SEQUENCE] = told
        if len(self.bands) < _DRAWN:
            self._draw(panel, origin, said[CHAMPION], actual)

    def metrics(self) -> dict[str, Any]:
        """Return the figures of each model over all origins."""
        return {model: scores.metrics() for model, scores in self.scores.items()}

    def told(self, source: Source) -> dict[str, Any]:
        """Return what was asked, and the settings that the figures depend on."""
        request = self._request
        return {
            "freq": request.freq,
            "horizon": request.horizon,
            "level": request.level,
            "top": request.top,
            "train": request.train,
            "train_epochs": self._settings.train.epochs,
            "train_seed": self._settings.train.seed,
            "timezone": self._buckets.calendar.timezone,
            "gaps": source.gaps,
            "allowed_lateness_s": self._settings.time.allowed_lateness_s,
        }

    def _train(self, origin: Origin, position: int, names: tuple[str, ...]) -> Rival | str:
        buckets = self._buckets
        everything = buckets.ledger.panel(None, origin.number, position, buckets.facts, names)
        self._watching.note(f"training for {origin.day}: {len(everything.products)} series of {everything.buckets}")
        rival = train_rival(
            everything,
            self._request.horizon,
            self._settings.train,
            self._training / origin.day.isoformat(),
            self._watching.training,
        )
        if isinstance(rival, str):
            self._watching.note(f"not trained for {origin.day}: {rival}")
        else:
            f = rival.figures
            self._watching.note(
                f"before {origin.day}: WQL {f['wql']:.4f}, seasonal {f['wql_seasonal']:.4f}: {f['decision']}"
            )
        return rival

    def _actual(self, keys: Sequence[str], origin: Origin) -> NDArray[np.float64]:
        first, until = origin.number, origin.number + self._request.horizon
        actual = self._buckets.ledger.quantities(keys, first, until)
        actual[:, max(self._complete - first, 0) :] = np.nan
        return actual

    def _write(self, panel: Panel, origin: Origin, said: dict[str, Said], rows: CsvRows) -> None:
        day = origin.day.isoformat()
        targets = [origin.target(step, self._request.freq).isoformat() for step in range(1, self._request.horizon + 1)]
        for place, key in enumerate(panel.products):
            for model, forecast in said.items():
                means, quantiles = forecast.mean[place].tolist(), forecast.quantiles[place].tolist()
                for step, target in enumerate(targets):
                    rows.write((key, day, step + 1, target, model, means[step], *quantiles[step]))

    def _score(self, panel: Panel, origin: Origin, said: dict[str, Said], actual: NDArray[np.float64]) -> None:
        season = SEASON[panel.freq]
        scales = [mase_scale(since_first(quantity), season) for quantity in panel.quantity]
        found = {}
        for model, forecast in said.items():
            scores = DemandScores()
            for place, scale in enumerate(scales):
                scores.add(actual[place], forecast.mean[place], forecast.quantiles[place], scale)
            found[model] = scores.metrics()
            self.scores.setdefault(model, DemandScores()).extend(scores)
        self.by_origin[origin.day.isoformat()] = {"models": found}

    def _draw(self, panel: Panel, origin: Origin, said: Said, actual: NDArray[np.float64]) -> None:
        sold = np.nansum(panel.quantity, axis=1)
        for place in np.argsort(-sold, kind="stable")[: _DRAWN - len(self.bands)].tolist():
            quantiles = said.quantiles[place]
            bounds = [(quantiles[:, LEVELS.index(low)].tolist(), quantiles[:, LEVELS.index(high)].tolist())
                      for low, high in ((0.025, 0.975), (0.1, 0.9))]  # fmt: skip
            past = panel.quantity[place, -_PAST_DRAWN * self._request.horizon :].tolist()
            median = quantiles[:, LEVELS.index(0.5)].tolist()
            self.bands.append(
                Band(f"{panel.products[place]}, {origin.day}", past, actual[place].tolist(), median, bounds)
            )
