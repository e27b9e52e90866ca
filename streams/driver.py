"""The shipped test driver: whole topologies without a broker, bytes in and bytes out, partitions, a manual clock.

It runs the very tasks that the worker runs over logs and a store in memory, so what a test or a backtest shows is
what production computes. A crash drops a task's memory; recovery is the worker's rule.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from zlib import crc32

from schemas.codec import DecodeError
from streams.records import MARKER_HEADER, Headers, Input, Output, Record, Said, each
from streams.runtime.assignment import open_task
from streams.runtime.keeping import fetch, keep
from streams.runtime.recovery import Committed
from streams.runtime.task import Batch, Task, dead_letter
from streams.settings import Settings
from streams.store import MemoryStore
from streams.topics import wanted
from streams.topologies.stage import Rejected, Stage

_RECALLED = 16
"""Records read again at a time."""


class MemoryLog:
    """Topics as lists. Records that every reader has passed can be forgotten; offsets go on."""

    def __init__(self) -> None:
        self._records: dict[Input, list[Record]] = defaultdict(list)
        self._first: dict[Input, int] = defaultdict(int)

    def append(
        self, input_: Input, key: bytes | None, value: bytes | None, appended_at: int, headers: Headers
    ) -> Record:
        """Append one record and return it with its offset."""
        record = Record(input_, self.bounds(input_)[1], key, value, appended_at, headers)
        self._records[input_].append(record)
        return record

    def read(self, input_: Input, offset: int) -> Sequence[Record]:
        """Return the records from `offset` on."""
        return self._records[input_][max(0, offset - self._first[input_]) :]

    def forget(self, input_: Input, before: int) -> None:
        """Forget the records below an offset."""
        count = max(0, before - self._first[input_])
        del self._records[input_][:count]
        self._first[input_] += count

    def bounds(self, input_: Input) -> tuple[int, int]:
        """First offset held and the next one to be written."""
        return self._first[input_], self._first[input_] + len(self._records[input_])

    def appended_at(self, input_: Input, offset: int) -> int | None:
        """Append time of the record before `offset`."""
        index = offset - 1 - self._first[input_]
        return self._records[input_][index].appended_at if 0 <= index < len(self._records[input_]) else None

    def first_after(self, input_: Input, appended_at: int) -> int:
        """First offset appended at or after a time."""
        for record in self._records[input_]:
            if record.appended_at >= appended_at:
                return record.offset
        return self.bounds(input_)[1]


class TopologyDriver:
    """Runs stages over a log in memory.

    >>> from streams.settings import Settings
    >>> from streams.topologies.score import ScoreStage
    >>> driver = TopologyDriver(Settings(), [ScoreStage], partitions=2)
    >>> click = b'{"event_id": "1", "type": "view", "time": 1000, "user_id": "u", "product_id": "p"}'
    >>> _ = driver.pipe("clickstream", b"u", click)
    >>> driver.mark_time(1_000)
    >>> driver.run()
    >>> len(driver.output("predictions"))
    1
    """

    def __init__(
        self,
        settings: Settings,
        stages: Sequence[Callable[[Settings], Stage]],
        *,
        partitions: int = 1,
        store: MemoryStore | None = None,
        now_ms: int = 0,
        retain: bool = True,
    ) -> None:
        self.settings = settings
        self.partitions = partitions
        self.store = store if store is not None else MemoryStore()
        self.log = MemoryLog()
        self.now_ms = now_ms
        self.committed: dict[tuple[str, Input], Committed] = {}
        self._factories = list(stages)
        self._stages: list[Stage] = [factory(settings) for factory in stages]
        self._single = {topic.name for topic in wanted(settings) if topic.single}
        self._tasks: dict[str, list[Task]] = {}
        self._fed: dict[tuple[str, Input], int] = {}
        self._read_tables: dict[tuple[str, Input], int] = {}
        self._taps: dict[str, list[Callable[[Record], None]]] = defaultdict(list)
        self._retain = retain
        self._needed = {topic for stage in self._stages for topic in (*stage.inputs, *stage.tables)}
        for stage in self._stages:
            self._open(stage)

    # -- in and out -------------------------------------------------------------------------------------------

    def pipe(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        appended_at: int | None = None,
        headers: Headers = (),
    ) -> Record:
        """Append a record; without a partition the key decides."""
        if partition is None:
            partition = 0 if topic in self._single or key is None else crc32(key) % self.partitions
        time = self.now_ms if appended_at is None else appended_at
        record = self.log.append(Input(topic, partition), key, value, max(time, 0), headers)
        for tap in self._taps[topic]:
            tap(record)
        return record

    def mark_time(self, time: int, *, end: bool = False, topics: Sequence[str] = ("clickstream", "orders")) -> None:
        """Put a time marker (event time, ms) into every partition of the inputs, as a replay does."""
        value = json.dumps({"time": time, "source": "driver"}).encode()
        for topic in topics:
            for partition in range(self.partitions):
                headers = ((MARKER_HEADER, b"end" if end else b"time"),)
                self.pipe(topic, None, value, partition=partition, appended_at=max(self.now_ms, time), headers=headers)

    def output(self, topic: str) -> list[Record]:
        """Return all records of a topic, by partition and offset."""
        count = 1 if topic in self._single else self.partitions
        return [record for p in range(count) for record in self.log.read(Input(topic, p), 0)]

    def tap(self, topic: str, handle: Callable[[Record], None]) -> None:
        """Call `handle` with every record appended to `topic` from now on."""
        self._taps[topic].append(handle)

    def counts(self, stage: str) -> dict[str, int]:
        """Return a stage's exact tallies over all its tasks."""
        total: dict[str, int] = defaultdict(int)
        for task in self._tasks[stage]:
            for name, count in task.counts.items():
                total[name] += count
        return dict(total)

    def tasks(self, stage: str) -> Sequence[Task]:
        """Return a stage's tasks."""
        return tuple(self._tasks[stage])

    def stage(self, name: str) -> Stage:
        """Return a stage by its name."""
        return next(stage for stage in self._stages if stage.name == name)

    # -- running ----------------------------------------------------------------------------------------------

    def run(self, *, checkpoint: bool = True) -> None:
        """Work until nothing is left that can be taken, then (unless told not to) write checkpoints."""
        progress = True
        while progress:
            progress = False
            for stage in self._stages:
                self._tables(stage)
                for task in self._tasks[stage.name]:
                    progress = self._work(stage, task) or progress
                if checkpoint:
                    self.checkpoint(stage.name)
        if not self._retain:
            self._forget()

    def checkpoint(self, stage: str) -> None:
        """Write a checkpoint of every task of a stage that has something new."""
        for task in self._tasks[stage]:
            if task.changed():
                keep(self.store, task, self.settings.runtime.cache_max_rows, 10_000)

    def crash(self, stage: str) -> None:
        """Drop all memory of a stage and recover from checkpoint, committed offsets and log."""
        index = next(i for i, one in enumerate(self._stages) if one.name == stage)
        self._stages[index] = self._factories[index](self.settings)
        for key in [key for key in self._read_tables if key[0] == stage]:
            del self._read_tables[key]
        self._open(self._stages[index])

    # -- inside -----------------------------------------------------------------------------------------------

    def _open(self, stage: Stage) -> None:
        tasks = []
        for number in range(1 if stage.single_task else self.partitions):
            inputs = self._inputs(stage, number)
            committed = {i: self.committed[stage.name, i] for i in inputs if (stage.name, i) in self.committed}
            task = open_task(stage, number, inputs, self.partitions, self.settings, self.store, committed, self.log)
            for input_, offset in task.committed_bounds().items():
                self.committed[stage.name, input_] = Committed(offset, task.epoch)
            for input_, offset in task.offsets().items():
                self._fed[stage.name, input_] = offset
            tasks.append(task)
        self._tasks[stage.name] = tasks

    def _inputs(self, stage: Stage, number: int) -> list[Input]:
        if stage.single_task:
            return [Input(topic, p) for topic in stage.inputs for p in range(self.partitions)]
        return [Input(topic, number) for topic in stage.inputs]

    def _tables(self, stage: Stage) -> None:
        for topic in stage.tables:
            input_ = Input(topic, 0)
            for record in self.log.read(input_, self._read_tables.get((stage.name, input_), 0)):
                try:
                    stage.on_table(record)
                except DecodeError as error:
                    self._produce(dead_letter(record, Rejected(error.reason, error.detail)))
                self._read_tables[stage.name, input_] = record.offset + 1

    def _work(self, stage: Stage, task: Task) -> bool:
        for input_ in task.inputs:
            records = self.log.read(input_, self._fed[stage.name, input_])
            task.feed(records)
            if records:
                self._fed[stage.name, input_] = records[-1].offset + 1
        worked = False
        while (batch := task.take(self.settings.runtime.batch_max_events)) is not None:
            self._fetch(task, batch)
            outputs = task.step(batch, self.now_ms)
            while (wanted := task.wants()) is not None:
                outputs.extend(task.recall(self.log.read(*wanted)[:_RECALLED], batch, self.now_ms))
            if not batch.silent:
                self._commit(stage, task, outputs)
            worked = True
        return worked

    def _fetch(self, task: Task, batch: Batch) -> None:
        fetch(self.store, task, batch)
        if not batch.silent:
            for other, wanted_keys in task.state.foreign(batch.events, self.now_ms, refresh=True).items():
                _, rows = self.store.read(other, wanted_keys)
                task.load_foreign(other, dict(zip(wanted_keys, rows, strict=True)), self.now_ms)

    def _commit(self, stage: Stage, task: Task, said: Sequence[Said]) -> None:
        for output in each(said):
            self._produce(output)
        for input_, offset in task.offsets().items():
            self.committed[stage.name, input_] = Committed(offset, task.epoch)

    def _produce(self, output: Output) -> None:
        if self._retain or output.topic in self._needed:
            self.pipe(output.topic, output.key, output.value, partition=output.partition, headers=output.headers)
            return
        record = Record(Input(output.topic, 0), 0, output.key, output.value, self.now_ms, output.headers)
        for tap in self._taps[output.topic]:
            tap(record)

    def _forget(self) -> None:
        floors: dict[Input, int] = {}
        for tasks in self._tasks.values():
            for task in tasks:
                for input_, needed in task.needs_from().items():
                    floors[input_] = min(needed, floors.get(input_, needed))
        for input_, offset in floors.items():
            self.log.forget(input_, offset)
