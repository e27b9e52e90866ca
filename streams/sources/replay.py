"""A source's files into the input topics, in event-time order, at any speed, and on from where it was stopped.

The state file holds how many items were sent and acknowledged. A replay that is killed and run again may send up to
`_SAVE_S` seconds of events twice, with equal event ids; readers count an id once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from schemas.codec import encode_event
from schemas.outputs import encode_dead_letter
from streams.errors import ConfigurationError
from streams.records import DEADLETTERS
from streams.settings import Settings
from streams.sources.reader import Source, SourceEvent, Unreadable
from streams.sources.sending import ALL_TOPICS, Sender

MARKER_EVENTS = 1_000
"""A time marker follows at the latest after this many events."""
MARKER_S = 1.0
"""And at the latest after this much wall time."""
_SAVE_S = 2.0


class Clock(Protocol):
    """The wall clock, so that tests need none."""

    def now(self) -> float:
        """Seconds, monotonic."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class WallClock:
    """The real one."""

    def now(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay: `speed` is event seconds per wall second (None: as fast as can be), times are UTC ms."""

    speed: float | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    state: Path | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is: `done` from 0 to 1 by the files' bytes, `time_ms` the event time reached."""

    events: int
    time_ms: int
    done: float


def parse_speed(text: str) -> float | None:
    """Read ``max``, ``1x`` or ``3600x``; None is max. Raises ConfigurationError.

    >>> parse_speed("3600x"), parse_speed("max")
    (3600.0, None)
    """
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e12:
        raise ConfigurationError(f"--speed {text}: is one of max, 1x, 60x, 3600x and so on")
    return speed


def replay(
    source: Source,
    settings: Settings,
    options: ReplayOptions,
    *,
    clock: Clock | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Send the whole source, with end markers; return its counts, which `tidecast replay` prints as JSON.

    Raises TidecastError where no broker answers, TopicsError where topics are missing, SourceError for a bad file.
    """
    clock = clock or WallClock()
    started = clock.now()
    state = _State(options, source, settings)
    with Sender(settings, source.name, ALL_TOPICS) as sender:
        skip = state.load(sender)
        state.save(skip, done=False)  # what cannot be noted later shows before anything is sent
        run = _Run(source, sender, state, clock, report)
        run.send_all(source.items(skip, start_ms=options.start_ms, end_ms=options.end_ms), options.speed)
    return _counts(source, run, skip, clock.now() - started)


class _Run:
    def __init__(
        self, source: Source, sender: Sender, state: _State, clock: Clock, report: Callable[[Progress], None]
    ) -> None:
        self._source = source
        self._sender = sender
        self._state = state
        self._clock = clock
        self._report = report
        self._time = 0
        self._events = 0
        self._unmarked = 0
        self._marked_at = self._saved_at = self._reported_at = clock.now()
        self.position = 0

    def send_all(self, items: Iterator[SourceEvent], speed: float | None) -> None:
        pace: _Pace | None = None
        for item in items:
            timed = item.topic in ("clickstream", "orders")
            if timed and speed is not None:
                pace = pace or _Pace(speed, item.time_ms, self._clock.now())
                self._wait(pace, item.time_ms)
            self._send(item)
            self.position = item.position
            self._events += 1
            if timed:
                self._time = max(self._time, item.time_ms)
                self._unmarked += 1
            if self._unmarked >= MARKER_EVENTS or not self._events & 63:
                self._housekeeping()
        self._sender.mark(self._time, b"end")
        self._sender.flush()
        self._state.save(self.position, done=True)
        self._report(Progress(self._events, self._time, 1.0))

    def _send(self, item: SourceEvent) -> None:
        value = item.value
        if isinstance(value, Unreadable):
            letter = encode_dead_letter(
                topic=f"{self._source.name}:{value.table}",
                partition=0,
                offset=value.row,
                reason=value.reason,
                detail=f"{value.field}: {value.detail}",
                appended_at=item.time_ms,
                key=None,
                value=value.data,
                headers=(),
            )
            self._sender.send(DEADLETTERS, None, letter)
        else:
            self._sender.send(item.topic, item.key, encode_event(value))

    def _wait(self, pace: _Pace, time_ms: int) -> None:
        while (left := pace.left(time_ms, self._clock.now())) > 0:
            self._clock.sleep(min(left, MARKER_S / 2))
            # Nothing will come before the next event: the clock of the replay may go up to there.
            self._time = max(self._time, min(time_ms, pace.reached(self._clock.now())))
            self._housekeeping()

    def _housekeeping(self) -> None:
        now = self._clock.now()
        if self._unmarked >= MARKER_EVENTS or now - self._marked_at >= MARKER_S:
            self._sender.mark(self._time)
            self._unmarked = 0
            self._marked_at = now
        if now - self._saved_at >= _SAVE_S:
            # Only what is acknowledged may be skipped by the next run.
            self._sender.flush()
            self._state.save(self.position, done=False)
            self._saved_at = self._clock.now()
        if now - self._reported_at >= 0.25:
            self._report(Progress(self._events, self._time, self._source.progress()))
            self._reported_at = now


@dataclass(frozen=True, slots=True)
class _Pace:
    speed: float
    first_ms: int
    started: float

    def left(self, time_ms: int, now: float) -> float:
        return self.started + (time_ms - self.first_ms) / 1_000 / self.speed - now

    def reached(self, now: float) -> int:
        return self.first_ms + int((now - self.started) * 1_000 * self.speed)


class _State:
    """The state file: how far a replay of the same files with the same cut to the same topics got."""

    def __init__(self, options: ReplayOptions, source: Source, settings: Settings) -> None:
        self._path = options.state
        what = [
            source.fingerprint(), options.start_ms, options.end_ms,
            settings.kafka.bootstrap_servers, settings.kafka.prefix,
        ]  # fmt: skip
        self._of = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        self._before: Counter[str] = Counter()

    def load(self, sender: Sender) -> int:
        """Return the position to go on after; 0 where there is nothing to go on with."""
        self._sender = sender
        if self._path is None or not self._path.exists():
            return 0
        try:
            found = json.loads(self._path.read_bytes())
            if found["of"] != self._of or found["done"]:
                return 0
            # A log that holds less than was sent is another log: skipping would lose events.
            sent = Counter({str(topic): int(count) for topic, count in found["sent"].items()})
            if not sent <= sender.ends():
                return 0
            self._before = sent
            return int(found["position"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{self._path}: is no replay state ({error}); delete it to start over") from error

    def save(self, position: int, *, done: bool) -> None:
        """Note that everything up to `position` is acknowledged."""
        if self._path is None:
            return
        data = {"of": self._of, "position": position, "done": done, "sent": self._before + self._sender.counts}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(self._path.name + ".new")
        with fresh.open("w") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def _counts(source: Source, run: _Run, skip: int, seconds: float) -> dict[str, Any]:
    accounts = source.accounts.as_dict()
    unreadable = sum(accounts["unreadable"].values())
    if unreadable:
        accounts["sent"][DEADLETTERS] = unreadable
    return {"source": source.name, **accounts, "resumed_after": skip, "seconds": round(seconds, 3)}
