"""The state of the control worker, and what it tells: nothing here knows Faust or Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.control.pacing import Sampler
from streams.control.quality import Quality
from streams.control.schedule import next_time
from streams.control.training import Training
from streams.control.workers import Status, Workers
from streams.settings import Settings
from streams.telemetry import Telemetry


class Control:
    """Training, quality and workers of one control worker; one thread (the event loop's) changes it.

    `wall_ms` is the wall clock; `command` starts a training.
    """

    def __init__(
        self, settings: Settings, telemetry: Telemetry, wall_ms: Callable[[], int], command: list[str]
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.wall_ms = wall_ms
        self.training = Training(command, settings.train.registry)
        self.quality = Quality(settings.time.allowed_lateness_s * 1_000, settings.control.max_pending)
        self.workers = Workers(settings.control.status_urls)
        self.sampler = Sampler(settings.control.sample)
        self.next_training = self.after(wall_ms())
        self._figures: dict[str, Any] = {}
        self._training: dict[str, Any] = {}
        self.refresh()
        telemetry.status = self.status
        telemetry.registry.register(_Figures(self))

    def after(self, now_ms: int) -> int | None:
        """Return when the schedule fires next after `now_ms`, None if never."""
        schedule = self.settings.train.schedule
        return next_time(schedule, self.settings.shop.timezone, now_ms) if schedule else None

    def start_due_training(self) -> str | None:
        """Start the training that is due; returns why it was refused.

        One that came due while this worker did not run is not made up for.
        """
        now = self.wall_ms()
        if self.next_training is None or now < self.next_training:
            return None
        self.next_training = self.after(now)
        return self.training.start("schedule", now)

    def refresh(self) -> None:
        """Put anew what `status` and the metrics show: other threads ask for those while this one works."""
        self._figures = {**self.quality.figures(), "sample": self.sampler.share}
        self._training = {
            **self.training.status(),
            "schedule": self.settings.train.schedule,
            "timezone": self.settings.shop.timezone,
            "next_at": self.next_training,
        }

    def status(self) -> Status:
        """Return the worker's own status as of the last `refresh`; from any thread."""
        return {
            "stage": "control",
            "worker": self.settings.runtime.worker_id,
            "at": self.wall_ms(),
            "ready": self.telemetry.reason is None,
            "reason": self.telemetry.reason,
            "training": self._training,
            "models": dict(self.quality.models),
            "quality": self._figures,
        }

    def overview(self) -> dict[str, Any]:
        """Return what the web view shows: the own status and the latest of every worker."""
        return {"control": self.status(), "workers": dict(sorted(self.workers.heard.items()))}


class _Figures(Collector):
    """The figures as Prometheus gauges, computed when they are scraped."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        status = self._control.status()
        training, quality = status["training"], status["quality"]
        running = GaugeMetricFamily("tidecast_training_running", "1 while a training runs")
        running.add_metric([], float(training["running"]))
        yield running
        runs = GaugeMetricFamily("tidecast_trainings", "Trainings since the start", labels=["result"])
        for result in ("finished", "failed", "refused"):
            runs.add_metric([result], training[result])
        yield runs
        figure = GaugeMetricFamily(
            "tidecast_quality", "Published predictions against outcomes", labels=["kind", "model", "figure"]
        )
        for kind in ("purchase", "demand", "shadow"):
            for model, figures in quality[kind].items():
                for name, value in figures.items():
                    if isinstance(value, int | float):
                        figure.add_metric([kind, model, name], value)
        yield figure
        drift = GaugeMetricFamily("tidecast_quality_drifts", "Times the log loss rose", labels=["model"])
        for model, figures in quality["purchase"].items():
            drift.add_metric([model], figures["drift"]["risen"])
        yield drift
        share = GaugeMetricFamily("tidecast_quality_sample", "Share of subjects whose predictions are judged")
        share.add_metric([], quality["sample"])
        yield share
