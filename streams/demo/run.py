"""Runs the demo: embedded servers, all data-plane roles, the simulated shop (or a source), and the view."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from schemas.codec import Click, encode_event
from streams.demo.figures import Figures
from streams.demo.view import line, quality, screen
from streams.embedded import EmbeddedServers
from streams.errors import TidecastError
from streams.records import CLICKSTREAM, MODELS, ORDERS, PREDICTIONS
from streams.roles import on_stop
from streams.runtime.tables import Tables
from streams.settings import Settings
from streams.supervisor import Supervisor, embedded_environment, with_environment
from streams.topics import create

_ROLES = ("score", "demand", "learn")
_MARK_EVERY = 200
_PLAIN_LINE_S = 5.0
_DRAIN_S = 20.0
_SHOP_TOPICS = ("catalog", "plan", "clickstream", "orders")


@dataclass(frozen=True, slots=True)
class Item:
    """One event to send; `truth` is its true purchase probability where it is known."""

    topic: str
    key: bytes | None
    value: bytes
    time_ms: int
    event_id: str | None = None
    truth: float | None = None


def run_demo(source: Path | None, seconds: float, seed: int) -> int:
    """Run for about `seconds`; returns the exit code."""
    console = Console()
    stopping = threading.Event()
    on_stop(stopping.set)
    folder = Path(tempfile.mkdtemp(prefix="tidecast-demo-"))
    started = time.monotonic()
    console.print("starting an embedded broker, a store and three workers …")
    try:
        with ExitStack() as stack:
            servers = stack.enter_context(EmbeddedServers(folder))
            settings = _settings(servers, folder)
            console.print(f"kafka={servers.bootstrap} redis={servers.redis_url}")
            create(settings)
            supervisor = Supervisor(roles=_ROLES, log_dir=folder)
            stack.callback(supervisor.stop)
            supervisor.start()
            figures = Figures()
            items, total, expected = _simulated(seed) if source is None else _from_source(source)
            figures.total = total
            feeder = _Feeder(settings, items, figures, stopping, seconds * 0.75)
            feeder.start()
            _watch(
                console,
                settings,
                figures,
                expected,
                stopping,
                started,
                seconds,
                [servers.poll, supervisor.poll],
                feeder,
            )
            stopping.set()
            feeder.join(10)
            if feeder.error is not None:
                raise feeder.error
        _summary(console, figures, time.monotonic() - started)
        return 0 if figures.purchases or figures.demands else 1
    except TidecastError:
        for log in sorted(folder.glob("*.log")):
            console.print(f"{log.name}: {log.read_text(errors='replace')[-500:]}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings(servers: EmbeddedServers, folder: Path) -> Settings:
    environment = embedded_environment(servers.bootstrap, servers.redis_url, folder)
    environment |= {"TIDECAST_LEARN__PUBLISH_EVERY": "500", "TIDECAST_TIME__IDLE_MS": "500"}
    return with_environment(environment)


class _Feeder(threading.Thread):
    """Sends the events so that they take about `seconds`, with time markers, and an end marker at the end."""

    def __init__(
        self, settings: Settings, items: Iterator[Item], figures: Figures, stopping: threading.Event, seconds: float
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self._settings, self._items, self._figures, self._stopping = settings, items, figures, stopping
        self._rate = max(100.0, figures.total / seconds)
        self.error: TidecastError | None = None
        self.done = False

    def run(self) -> None:
        """Send until the end or until told to stop."""
        from streams.sources.sending import Sender

        try:
            with Sender(self._settings, "demo", _SHOP_TOPICS) as sender:
                self._send(sender)
        except TidecastError as error:
            self.error = error
        self.done = True

    def _send(self, sender: object) -> None:
        from streams.sources.sending import Sender

        assert isinstance(sender, Sender)
        figures, started = self._figures, time.monotonic()
        for item in self._items:
            if item.truth is not None and item.event_id is not None:
                figures.truths[item.event_id] = item.truth
            sender.send(item.topic, item.key, item.value)
            figures.sent += 1
            figures.clicks += item.topic == CLICKSTREAM
            figures.at = max(figures.at, item.time_ms) if item.topic in (CLICKSTREAM, ORDERS) else figures.at
            if figures.sent % _MARK_EVERY == 0:
                if figures.at:
                    sender.mark(figures.at)
                ahead = figures.sent / self._rate - (time.monotonic() - started)
                if self._stopping.wait(max(0.0, ahead)):
                    return
        sender.mark(figures.at, b"end")


def _watch(
    console: Console,
    settings: Settings,
    figures: Figures,
    expected: Callable[[str, int], float],
    stopping: threading.Event,
    started: float,
    seconds: float,
    polls: list[Callable[[], None]],
    feeder: _Feeder,
) -> None:
    tables = Tables(settings, (PREDICTIONS, MODELS))
    live = Live(screen(figures, expected), console=console, refresh_per_second=4) if console.is_terminal else None
    printed = drained = 0.0
    try:
        if live is not None:
            live.start()
        while not stopping.is_set():
            records = tables.poll(5_000, timeout_s=0.2)
            elapsed = time.monotonic() - started
            for record in records:
                figures.take(record, elapsed)
            figures.tick(elapsed)
            for poll in polls:
                poll()
            if live is not None:
                live.update(screen(figures, expected))
            elif elapsed - printed >= _PLAIN_LINE_S:
                printed = elapsed
                console.print(line(figures), highlight=False, soft_wrap=True)
            if records or not feeder.done:
                drained = elapsed
            if (feeder.done and elapsed - drained > 3.0) or elapsed > seconds + _DRAIN_S or feeder.error is not None:
                return
    finally:
        if live is not None:
            live.stop()
        tables.close()


def _simulated(seed: int) -> tuple[Iterator[Item], int, Callable[[str, int], float]]:
    from streams.roles import wall_ms
    from streams.simulator import Shop, ShopConfig

    config = ShopConfig(end_ms=wall_ms(), users=1_500, products=40, days=21, seed=seed)
    shop = Shop(config)
    total = sum(1 for _ in Shop(config).events())

    def items() -> Iterator[Item]:
        for topic, key, value, time_ms in shop.events():
            event_id, truth = _truth_of(shop, value) if topic == CLICKSTREAM else (None, None)
            yield Item(topic, key, value, time_ms, event_id, truth)

    return items(), total, shop.truth.demand_of


def _truth_of(shop: object, value: bytes) -> tuple[str | None, float | None]:
    from schemas.codec import DecodeError, decode_click
    from streams.simulator import Shop

    assert isinstance(shop, Shop)
    try:
        click = decode_click(value)
        return click.event_id, shop.truth.purchase_probability(click.event_id)
    except (DecodeError, ValueError, IndexError):
        return None, None  # damaged on the way to the log


def _from_source(path: Path) -> tuple[Iterator[Item], int, Callable[[str, int], float]]:
    from streams.sources import open_source
    from streams.sources.reader import Unreadable

    total = sum(1 for _ in open_source(path).events())

    def items() -> Iterator[Item]:
        for event in open_source(path).events():
            value = event.value
            if not isinstance(value, Unreadable):
                event_id = value.event_id if isinstance(value, Click) else None
                yield Item(event.topic, event.key, encode_event(value), event.time_ms, event_id)

    return items(), total, lambda product, time_ms: 0.0


def _summary(console: Console, figures: Figures, elapsed: float) -> None:
    console.print()
    console.print(f"[bold]done in {elapsed:.0f} s[/bold]", highlight=False)
    if figures.first_prediction_s is not None:
        console.print(f"first prediction after {figures.first_prediction_s:.1f} s", highlight=False)
    console.print(
        f"{figures.sent:,} events sent, {figures.purchases:,} purchase predictions, {figures.demands:,} demand "
        f"forecasts, {figures.doubled} doubled ids",
        highlight=False,
    )
    console.print(quality(figures), highlight=False)
    console.print(
        "\nnext: `make demo SOURCE=your_shop.toml` with your own files, `tidecast run` for a system that stays up,\n"
        "`tidecast backtest purchase SOURCE.toml` for its quality on your data; README.md says how",
        highlight=False,
    )
    sys.stdout.flush()
