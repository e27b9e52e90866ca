"""Time markers: what lets an input without traffic hold no other back, and no task lag behind its neighbours.

A task waits for the input that may still bring something earlier. Where that one is at its end and has been quiet, a
record is written into it that only moves time; like every record it has its place in the log, so a replay sees it too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence

from confluent_kafka import KafkaError, Message, Producer

from streams import kafka
from streams.records import MARKER_HEADER, Input, is_marker
from streams.runtime.merge import Entry
from streams.runtime.task import Task
from streams.settings import Settings, TimeSettings
from streams.topologies.stage import Rejected, TimeMarker

_LOG = logging.getLogger("tidecast.worker")
# An input at its end is given this long for what comes together with what waits.
_NEAR_S = 0.02
_LOOKS = 4


class IdleInputs:
    """What is known of the inputs' traffic, by a clock in seconds that only grows."""

    def __init__(self, time: TimeSettings, now: Callable[[], float]) -> None:
        self._idle_s = time.idle_ms / 1_000
        self._lateness_ms = time.allowed_lateness_s * 1_000
        self._now = now
        self._began = 0.0
        self._looked = 0.0
        self._at_end: set[Input] = set()
        self._last_real: dict[Input, float] = {}
        self._marked: dict[Input, int] = {}
        self._waited_for: dict[Input, float] = {}

    def begin(self) -> None:
        """Begin to read: what was not heard of is not quiet before it had its time."""
        self._began = self._now()

    def clear(self) -> None:
        """Forget all: the inputs are given up."""
        for notes in (self._at_end, self._last_real, self._marked, self._waited_for):
            notes.clear()

    def heard(self, input_: Input, entries: Sequence[Entry]) -> None:
        """Note what an input brought. What is refused says nothing of its time: with that alone an input is quiet.

        A marker that is refused, by a broker whose clock is behind, did not do its work: it is due again.
        """
        self._at_end.discard(input_)
        kinds = {entry.item.__class__ for entry in entries} - {Rejected}
        if kinds or any(is_marker(entry.record) for entry in entries):
            self._marked.pop(input_, None)
            self._waited_for.pop(input_, None)
        if kinds - {TimeMarker}:
            self._last_real[input_] = self._now()

    def at_end(self, input_: Input) -> None:
        """Note that there is no more of an input for now."""
        self._at_end.add(input_)

    def unmarked(self, input_: Input) -> None:
        """Note that a marker did not reach its input: it is due again."""
        self._marked.pop(input_, None)

    def due(self) -> bool:
        """Say whether even a busy worker must look after its quiet tasks: four times in the time an input may idle."""
        return (self._now() - self._looked) * _LOOKS >= self._idle_s

    def marks(self, tasks: Sequence[Task], elsewhere: int | None = None) -> Iterator[tuple[Input, int]]:
        """Yield the inputs that need a marker now, each with its time (UTC ms), once for each time.

        They are empty and hold others back, or their task lags behind its neighbours; `elsewhere` is the latest event
        time known of those that other workers own.
        """
        now = self._looked = self._now()
        latest = max((t for t in (elsewhere, *(task.latest() for task in tasks)) if t is not None), default=None)
        if latest is None:
            return
        for task in tasks:
            held_by = task.held_back_by()
            target = task.release_time() if held_by else None
            waited_for: Sequence[Input] = held_by
            # A task that holds no event, a marker at most, may only be behind the others; those downstream wait for it.
            if target is None and (held_by or not any(map(task.buffered, task.inputs))) and (task.clock or 0) < latest:
                target, waited_for = latest, task.inputs
            if task.recovering or target is None:
                for input_ in task.inputs:
                    self._waited_for.pop(input_, None)
                continue
            for input_ in waited_for:
                # Not what is near must wait for as long as what stands far behind it.
                for goal in (target, self._near(task, input_) if held_by else None):
                    # What was written comes back as a record, which clears the note.
                    if goal is not None and self._quiet(task, input_, goal, now):
                        if self._marked.get(input_, -1) < goal:
                            self._marked[input_] = goal
                            yield input_, goal
                        break

    def _near(self, task: Task, input_: Input) -> int | None:
        """Return the time that releases what follows soon upon what an input brought last, None where nothing does."""
        seen = task.seen_until(input_)
        return None if seen is None else task.release_time(seen + self._lateness_ms // 2 - 1)

    def _quiet(self, task: Task, input_: Input, target: int, now: float) -> bool:
        # A small step makes nothing late that is in order with what the task has seen. Before a leap the input gets its
        # time: what it is waited for may have been sent together with what waits, and arrive just after it.
        leaps = task.clock is None or target - task.clock > self._lateness_ms
        since = self._waited_for.setdefault(input_, now)
        quiet = max(self._last_real.get(input_, self._began), since if leaps else 0.0)
        # Nor does a step make late what follows upon what the input has just brought, with room for disorder.
        seen = task.seen_until(input_)
        near = seen is not None and 2 * (target - seen) <= self._lateness_ms
        return input_ in self._at_end and now - quiet >= (min(self._idle_s, _NEAR_S) if near else self._idle_s)


class MarkerSender:
    """Writes markers, each on its own: they are nobody's state, so no transaction is waited for, and none waits."""

    def __init__(self, settings: Settings, failed: Callable[[Input], None]) -> None:
        self._settings = settings
        self._failed = failed
        self._producer: Producer | None = None

    def send(self, input_: Input, time_ms: int) -> None:
        """Send a marker on its way; `failed` is called, here or in `poll`, with the input of one that gets lost."""
        if self._producer is None:
            self._producer = Producer(kafka.producer_config(self._settings) | {"linger.ms": 0})
        value = json.dumps({"time": time_ms, "source": self._settings.runtime.worker_id}).encode()

        def told(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                _LOG.warning("time marker for %s: %s", input_, error.str())
                self._failed(input_)

        topic = self._settings.kafka.prefix + input_.topic
        headers = [(MARKER_HEADER, b"time")]
        try:
            self._producer.produce(topic, value, partition=input_.partition, headers=headers, on_delivery=told)
        except BufferError:
            self._failed(input_)

    def poll(self) -> None:
        """Hear what became of the markers sent."""
        if self._producer is not None:
            self._producer.poll(0)
