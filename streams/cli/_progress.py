"""How far a stream of events is, on standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from streams.cli._bar import Bar

_LINE_S = 5.0


class EventProgress(Bar):
    """Shows events (or `what` they are), how many a second, event time and the share done. Use as a context."""

    def __init__(self, name: str, what: str = "events") -> None:
        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn(f"{{task.fields[events]:,}} {what} · " + "{task.fields[rate]:,.0f}/s · {task.fields[at]}"),
            TimeElapsedColumn(),
        )
        self._name = name
        self._what = what
        if self.bar is not None:
            self._task = self.bar.add_task(name, total=1.0, events=0, rate=0.0, at="")
        self._started = self._printed = time.monotonic()

    def update(self, events: int, time_ms: int, done: float) -> None:
        """Show that `events` were sent, up to event time `time_ms`, which is `done` of the whole (0 to 1)."""
        now = time.monotonic()
        rate = events / max(now - self._started, 1e-9)
        at = datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S") if time_ms else "-"
        if self.bar is not None:
            self.bar.update(self._task, completed=done, events=events, rate=rate, at=at)
        elif now - self._printed >= _LINE_S or done >= 1.0:
            self._printed = now
            sys.stderr.write(f"{self._name}: {done:.0%}, {events:,} {self._what}, {rate:,.0f}/s, at {at} UTC\n")
            sys.stderr.flush()
