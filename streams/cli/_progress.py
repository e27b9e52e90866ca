"""How far a stream of events is, on standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

_LINE_S = 5.0


class EventProgress:
    """Shows events, events per second, event time and the share done. Use as a context."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[events]:,} events · {task.fields[rate]:,.0f}/s · {task.fields[at]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(name, total=1.0, events=0, rate=0.0, at="")
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> EventProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, events: int, time_ms: int, done: float) -> None:
        """Show that `events` were sent, up to event time `time_ms`, which is `done` of the whole (0 to 1)."""
        now = time.monotonic()
        rate = events / max(now - self._started, 1e-9)
        at = datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S") if time_ms else "-"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, events=events, rate=rate, at=at)
        elif now - self._printed >= _LINE_S or done >= 1.0:
            self._printed = now
            sys.stderr.write(f"{self._name}: {done:.0%}, {events:,} events, {rate:,.0f}/s, at {at} UTC\n")
            sys.stderr.flush()
