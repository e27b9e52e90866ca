"""Runs the demo: embedded servers, all data-plane roles, the simulated shop (or a source), and the view."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from streams.children import tail
from streams.demo.feeder import Feeder
from streams.demo.figures import READ, Figures
from streams.demo.shops import DemoShop, from_source, simulated
from streams.demo.view import line, screen, summary, why_nothing
from streams.demo.workers import Workers
from streams.embedded import EmbeddedServers
from streams.errors import TidecastError
from streams.roles import on_stop, wall_ms
from streams.runtime.tables import Tables
from streams.settings import Settings, load_settings
from streams.sources.shop import warn_of_misfit, with_shop_of
from streams.supervisor import Supervisor, embedded_environment, with_environment
from streams.topics import create

_ROLES = ("score", "demand", "learn")
_PLAIN_LINE_S = 5.0
_LOOK_S = 0.5
# For what was sent last, beyond the time asked for.
_DRAIN_S = 60.0
# Workers that are ready and say nothing for so long have nothing left to say.
_SILENCE_S = 15.0


def run_demo(source: Path | None, seconds: float, seed: int) -> int:
    """Run for about `seconds`, or until SIGINT or SIGTERM, which is no failure; returns the exit code.

    Raises TidecastError where nothing came of it, SourceError before anything is started.
    """
    console = Console(highlight=False, markup=False)
    stopping = threading.Event()
    on_stop(stopping.set)
    started = time.monotonic()
    if source is not None:
        _say(console, f"reading {source} …")
        shop = from_source(source, stopping.is_set)
        if shop.rows is not None:
            _say(console, shop.rows)
    _say(console, "starting an embedded broker, a store and three workers …")
    if source is None:
        shop = simulated(seed, wall_ms())
    folder = Path(tempfile.mkdtemp(prefix="tidecast-demo-"))
    try:
        with ExitStack() as stack:
            servers = stack.enter_context(EmbeddedServers(folder))
            settings = with_environment(environment_of(shop, servers.bootstrap, servers.redis_url, folder))
            if shop.source is not None:
                warn_of_misfit(settings, shop.source)
            _say(console, f"kafka={servers.bootstrap} redis={servers.redis_url}")
            create(settings)
            supervisor = Supervisor(roles=_ROLES, log_dir=folder)
            stack.callback(supervisor.stop)
            supervisor.start()
            watch = _Watch(console, settings, shop, Workers(supervisor.ports()), started, seconds)
            feeder = Feeder(settings, shop.items, watch.figures, seconds)
            feeder.start()
            try:
                watch.run(feeder, stopping, [servers.poll, supervisor.poll])
            except TidecastError:
                _tell(folder, [role for role, child in supervisor.children.items() if child.process.poll() is not None])
                raise
            # Said before the servers are stopped, which takes seconds.
            _end(console, watch, source, stopped=stopping.is_set())
            feeder.stop()
            if not stopping.is_set() and not watch.figures.purchases + watch.figures.demands:
                watch.workers.look()
                lacking = watch.workers.lacking()
                _tell(folder, lacking)
                raise TidecastError(f"nothing was scored because {why_nothing(watch.figures, lacking, watch.elapsed)}")
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment_of(shop: DemoShop, bootstrap: str, redis_url: str, folder: Path) -> dict[str, str]:
    """Return the variables of all roles: the servers, a pace to look at, and the shop's time zone if none was set."""
    environment = embedded_environment(bootstrap, redis_url, folder)
    environment |= {"TIDECAST_LEARN__PUBLISH_EVERY": "500", "TIDECAST_TIME__IDLE_MS": "500"}
    if shop.source is not None:
        environment["TIDECAST_SHOP__TIMEZONE"] = with_shop_of(load_settings(), shop.source).shop.timezone
    return environment


@dataclass(slots=True)
class _Watch:
    """Reads what the workers say and shows it, until all that was sent is answered."""

    console: Console
    settings: Settings
    shop: DemoShop
    workers: Workers
    started: float
    seconds: float
    figures: Figures = field(init=False)
    elapsed: float = 0.0
    _news: float = 0.0
    _looked: float = 0.0
    _printed: float = 0.0

    def __post_init__(self) -> None:
        self.figures = Figures(total=self.shop.total, timezone=self.settings.shop.timezone)

    def run(self, feeder: Feeder, stopping: threading.Event, polls: list[Callable[[], None]]) -> None:
        """Watch until the end, until told to stop, or until the feeder failed. Raises what `polls` raise."""
        tables = Tables(self.settings, READ)
        live = Live(self._screen(), console=self.console) if self.console.is_terminal else None
        try:
            if live is not None:
                live.start()
            while not stopping.is_set() and feeder.error is None:
                fed = feeder.done  # before reading: what it sent last may still be on its way
                records = tables.poll(5_000, timeout_s=0.2)
                self.elapsed = time.monotonic() - self.started
                for record in records:
                    self.figures.take(record, self.elapsed)
                self.figures.tick(self.elapsed)
                for poll in polls:
                    poll()
                self._show(live)
                if records or not fed:
                    self._news = self.elapsed
                elif self._settled():
                    return
                if self.elapsed > self.seconds + _DRAIN_S:
                    return
        finally:
            if live is not None:
                live.stop()
            tables.close()

    def _settled(self) -> bool:
        """Tell whether nothing more will come, all events being sent and nothing new having been read."""
        if self.elapsed - self._looked >= _LOOK_S:
            self._looked = self.elapsed
            self.workers.look()
            if self.workers.lacking():
                self._news = self.elapsed
            elif self.workers.past(self.figures.at) and self.figures.complete(self.workers.counts()):
                return True
        return self.elapsed - self._news > _SILENCE_S

    def _show(self, live: Live | None) -> None:
        if live is not None:
            live.update(self._screen())
        elif self.elapsed - self._printed >= _PLAIN_LINE_S:
            self._printed = self.elapsed
            _say(self.console, line(self.figures))

    def _screen(self) -> RenderableType:
        return screen(self.figures, self.shop, *self.console.size)


def _end(console: Console, watch: _Watch, source: Path | None, *, stopped: bool) -> None:
    _say(console, f"\n{'stopped after' if stopped else 'done in'} {watch.elapsed:.0f} s")
    for each in summary(watch.figures, watch.shop):
        _say(console, each)
    if not stopped and watch.figures.purchases + watch.figures.demands:
        own = "your_shop.toml" if source is None else shlex.quote(str(source))
        _say(console, "\nnext:")
        if source is None:
            _say(console, f"  make demo SOURCE={own} for your own files; README.md says how to describe them")
        _say(console, f"  tidecast backtest purchase {own} for the quality on them")
        _say(console, "  tidecast run for a system that stays up")
    sys.stdout.flush()


def _say(console: Console, text: str) -> None:
    # Whoever reads a file, or copies a command, wants the lines whole.
    console.print(text, soft_wrap=True)


def _tell(folder: Path, roles: Iterable[str]) -> None:
    """Print the last lines of these roles' logs."""
    for role in roles:
        sys.stderr.write(f"{role}: {tail(folder / f'{role}.log', 8)}\n")
