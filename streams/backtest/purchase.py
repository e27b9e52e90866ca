"""Purchase, prequentially: each click is predicted with what was known then, and scored when its horizon is over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.codec import Click
from schemas.internal import decode_examples
from schemas.outputs import PurchasePrediction, decode_prediction
from streams.backtest.feed import Feed, count_dead_letters, share_read
from streams.backtest.files import CsvRows, csv_file, make_folder, stamp, write_json
from streams.backtest.promises import Promise, Promises
from streams.backtest.quiet import quiet_demand_stage
from streams.backtest.report import calibration_chart, heading, table, write_page
from streams.backtest.scores import Scores
from streams.backtest.sessions import Sessions
from streams.driver import TopologyDriver
from streams.errors import ConfigurationError, SourceError
from streams.records import CLICKSTREAM, EXAMPLES, ORDERS, PREDICTIONS, Record
from streams.settings import Settings
from streams.sources import Source
from streams.sources.shop import with_shop_of
from streams.topologies.learn import LearnStage
from streams.topologies.score import ScoreStage

HEADER = ("session_id", "user_id", "event_index", "as_of", "horizon", "probability", "label", "model")
CHAMPION = "champion"
BASE_RATE = "base_rate"
CHUNK_EVENTS = 250
_STAGES = ("score", "demand", "learn")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backtest is: `done` from 0 to 1 by the files' bytes, `time_ms` the event time reached."""

    events: int
    time_ms: int
    done: float


def backtest_purchase(
    source: Source,
    settings: Settings,
    out: Path,
    *,
    from_ms: int = 0,
    horizon_s: int | None = None,
    chunk_events: int = CHUNK_EVENTS,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Write predictions.csv, metrics.json and report.html into `out`; return the metrics.

    Clicks from `from_ms` (UTC ms) on get rows; what was before is learnt from. Raises SourceError for a source without
    clicks.
    """
    if "clicks" not in source.tables:
        raise SourceError(f"{source.name}: has no [clicks]; 'backtest purchase' predicts after each click, so add them")
    make_folder(out)
    started = time.perf_counter()
    with csv_file(out / "predictions.csv", HEADER) as rows:
        run = _Run(_settings(settings, source, horizon_s), from_ms, rows, chunk_events)
        for event in source.events():
            if run.put(event.topic, event.key, event.value):
                report(Progress(run.feed.events, run.feed.time or 0, share_read(source)))
        run.close()
    seconds = time.perf_counter() - started
    report(Progress(run.feed.events, run.feed.time or 0, 1.0))
    metrics: dict[str, Any] = {
        "source": source.name,
        "models": {name: scores.metrics() for name, scores in run.scores.items()},
        "counts": run.counts(source),
        "settings": run.told(from_ms, chunk_events),
        "seconds": round(seconds, 3),
        "events_per_s": round(run.feed.events / seconds, 1),
    }
    write_json(out / "metrics.json", metrics)
    write_page(
        out / "report.html",
        f"Purchase backtest of {source.name}",
        [
            table("model", metrics["models"]),
            heading("Calibration"),
            calibration_chart({name: scores.calibration() for name, scores in run.scores.items()}),
        ],
    )
    return metrics


def _settings(settings: Settings, source: Source, horizon_s: int | None) -> Settings:
    if settings.score.model_pin is not None:
        raise ConfigurationError(
            f"score.model_pin = {settings.score.model_pin!r}: a backtest learns versions of its own; leave it out"
        )
    # Read again in each batch: how old a product row may be is wall time, which a backtest has none of.
    score: dict[str, Any] = {"product_staleness_ms": 0}
    if horizon_s is not None:
        score["horizon_s"] = horizon_s
    found = settings.score.model_validate({**settings.score.model_dump(), **score})
    return with_shop_of(settings, source).model_copy(update={"score": found})


class _Run:
    """One backtest: the driver, what is promised, and what came of it."""

    def __init__(self, settings: Settings, from_ms: int, rows: CsvRows, chunk_events: int) -> None:
        self._settings = settings
        self._from = from_ms
        self._rows = rows
        self.scores = {CHAMPION: Scores(), BASE_RATE: Scores()}
        self._driver = TopologyDriver(settings, [ScoreStage, quiet_demand_stage, LearnStage], retain=False)
        self._driver.tap(PREDICTIONS, self._on_prediction)
        self._driver.tap(EXAMPLES, self._on_examples)
        self._dead = count_dead_letters(self._driver)
        self.feed = Feed(self._driver, _STAGES, chunk_events)
        horizon_ms = settings.score.horizon_s * 1_000
        self._promises = Promises(horizon_ms, settings.time.allowed_lateness_s * 1_000, self._settled)
        self._sessions = Sessions()
        self._places: dict[str, tuple[str, int]] = {}
        self._base_rate = self._promises.base_rate()
        self._count: Counter[str] = Counter()

    def put(self, topic: str, key: bytes | None, event: Any) -> bool:
        """Take an event; say whether a chunk ended with it."""
        if topic == CLICKSTREAM:
            assert isinstance(event, Click)
            self._count["clicks"] += 1
            place = self._sessions.place(event)
            if event.user_id is not None and place is not None:
                self._places[event.event_id] = place
        elif topic == ORDERS:
            self._count["orders"] += 1
        ended = self.feed.put(topic, key, event)
        if ended:
            # Like the model, the base rate is what was known before the chunk.
            self._base_rate = self._promises.base_rate()
        return ended

    def close(self) -> None:
        """Run what is left; labels are known up to the last event."""
        end = self.feed.time
        # A marker after the last event: what bears its very time would wait for an earlier one for ever.
        self.feed.run([] if end is None else [end + 1])
        self._promises.close(end)

    def counts(self, source: Source) -> dict[str, Any]:
        """Return where every click and row went."""
        told = self._driver.counts("score")
        rows = source.accounts
        return {
            "clicks": self._count["clicks"],
            "predicted": told.get("clicks_predicted", 0),
            "anonymous": told.get("clicks_without_user", 0),
            "duplicates": told.get(f"duplicates_{CLICKSTREAM}", 0),
            "dead_letters": dict(sorted(self._dead.items())),
            "orders": self._count["orders"],
            "predicted_from": self._count["from"],
            "labelled": len(self.scores[CHAMPION].labels),
            "positive": sum(self.scores[CHAMPION].labels),
            "corrections": self._promises.corrections,
            "models_published": self._driver.counts("learn").get("models_published", 0),
            "rows": dict(rows.rows),
            "rows_filtered": dict(rows.filtered),
            "rows_unreadable": dict(rows.unreadable),
        }

    def told(self, from_ms: int, chunk_events: int) -> dict[str, Any]:
        """Return the settings that the figures depend on."""
        settings = self._settings
        return {
            "from": stamp(from_ms),
            "horizon_s": settings.score.horizon_s,
            "allowed_lateness_s": settings.time.allowed_lateness_s,
            "publish_every": settings.learn.publish_every,
            "model_pin": settings.score.model_pin,
            "chunk_events": chunk_events,
        }

    # -- what comes out ---------------------------------------------------------------------------------------

    def _on_prediction(self, record: Record) -> None:
        assert record.value is not None
        said = decode_prediction(record.value)
        if not isinstance(said, PurchasePrediction):
            return
        session, index = self._places.pop(said.payload.event_id)
        self._promises.add(
            Promise(said.id, session, said.subject, index, said.as_of, said.payload.probability, self._base_rate)
        )

    def _on_examples(self, record: Record) -> None:
        assert record.value is not None
        self._promises.hear(decode_examples(record.value))

    def _settled(self, promise: Promise) -> None:
        if promise.as_of < self._from:
            return
        self._count["from"] += 1
        as_of, horizon = stamp(promise.as_of), self._settings.score.horizon_s
        label = None if promise.label is None else int(promise.label)
        for model, probability in ((CHAMPION, promise.probability), (BASE_RATE, promise.base_rate)):
            self._rows.write(
                (promise.session, promise.user, promise.index, as_of, horizon, repr(probability), label, model)
            )
            if promise.label is not None:
                self.scores[model].add(probability, promise.label)
