"""What a worker says of itself: Prometheus metrics, and health for those who restart it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from streams.errors import ConfigurationError
from streams.runtime.refusals import refusals


class Telemetry:
    """Metrics and health of one worker. `ready` carries the reason while it is not."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.registry = CollectorRegistry()
        self.records = Counter("tidecast_records", "Records applied", ["topic"], registry=self.registry)
        self.outputs = Counter("tidecast_outputs", "Records produced", ["topic"], registry=self.registry)
        self.transactions = Counter("tidecast_transactions", "Transactions", ["result"], registry=self.registry)
        self.checkpoints = Counter("tidecast_checkpoints", "Checkpoints", ["result"], registry=self.registry)
        self.recoveries = Counter("tidecast_recoveries", "Times a task's memory was dropped", registry=self.registry)
        self.batch_seconds = Histogram(
            "tidecast_batch_seconds",
            "From taking a batch to the begin of its transaction, which waits for the one before",
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.tally = Gauge(
            "tidecast_tally", "Exact tallies, part of the checkpoint", ["task", "what"], registry=self.registry
        )
        self.refused = Gauge(
            "tidecast_refused",
            "Records refused or repeated: a tally, part of the checkpoint; of tables since the worker's start",
            ["task", "topic", "reason"],
            registry=self.registry,
        )
        self.watermark = Gauge("tidecast_watermark_ms", "Event-time watermark", ["task"], registry=self.registry)
        self.dirty = Gauge("tidecast_unflushed_rows", "Rows not yet in the store", ["task"], registry=self.registry)
        self.paused = Gauge("tidecast_paused", "1 while waiting for the store", registry=self.registry)
        self.ready_gauge = Gauge("tidecast_ready", "1 while ready", registry=self.registry)
        self._reason: str | None = "starting"
        self._failure: str | None = None
        self.status: Callable[[], dict[str, Any]] = dict

    @staticmethod
    def count(counter: Counter, topics: Mapping[str, int]) -> None:
        """Add to a counter by topic."""
        for topic, number in topics.items():
            counter.labels(topic).inc(number)

    @property
    def reason(self) -> str | None:
        """Why it is not ready; None when it is."""
        return self._reason

    def set_ready(self, reason: str | None) -> None:
        """Say that it is ready (None) or why not."""
        self._reason = reason
        self.ready_gauge.set(0 if reason else 1)

    def tell_counts(self, task: str, counts: Mapping[str, int]) -> None:
        """Show a task's tallies, and of them what was refused by topic and reason.

        >>> telemetry = Telemetry("score")
        >>> telemetry.tell_counts("score.1a2b3c-0", {"rejected_late": 2, "rejected_late_orders": 2})
        >>> labels = {"task": "score.1a2b3c-0", "topic": "orders", "reason": "late"}
        >>> telemetry.registry.get_sample_value("tidecast_refused", labels)
        2.0
        """
        for what, count in counts.items():
            self.tally.labels(task, what).set(count)
        for topic, reasons in refusals(counts).items():
            for reason, count in reasons.items():
                self.refused.labels(task, topic, reason).set(count)

    def keep(self, tasks: Collection[str]) -> None:
        """Drop what is shown of any other task: this worker holds it no more, and its owner shows it."""
        for gauge in (self.tally, self.refused, self.watermark, self.dirty):
            for metric in gauge.collect():
                for sample in metric.samples:
                    if sample.labels["task"] not in tasks:
                        gauge.remove(*sample.labels.values())

    def fail(self, reason: str) -> None:
        """Say that the process is beyond repair and ends."""
        self._failure = reason
        self.set_ready(reason)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body for a path."""
        if path == "/health/live":
            return self._health(self._failure)
        if path == "/health/ready":
            return self._health(self._reason)
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4", generate_latest(self.registry)
        if path == "/status":
            return 200, "application/json", json.dumps(self.status()).encode()
        return 404, "text/plain", b"try /health/live, /health/ready, /metrics or /status\n"

    def _health(self, reason: str | None) -> tuple[int, str, bytes]:
        body = {"role": self.role, "status": "ok" if reason is None else "not ok", "reason": reason}
        return (200 if reason is None else 503), "application/json", json.dumps(body).encode()


def serve(telemetry: Telemetry, host: str, port: int) -> ThreadingHTTPServer:
    """Serve health and metrics in a daemon thread; port 0 takes a free one. Raises ConfigurationError."""

    class Handler(BaseHTTPRequestHandler):
        """Answers from `telemetry`."""

        def do_GET(self) -> None:
            """Answer a GET."""
            status, kind, body = telemetry.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigurationError(f"runtime.metrics_port: {host}:{port} cannot be bound ({error.strerror})") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
