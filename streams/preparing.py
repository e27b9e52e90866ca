"""Rows of a new definition, built from the log beside those that serve: the work of `tidecast state prepare`.

Rows live under a name that bears the hash of their layout, so a version with other features starts without any, and
would be silent until the log has rebuilt them. Here the same tasks read the log as far as the workers of the old
version have committed, say nothing, commit nothing, and leave checkpoints under their new name. Whoever starts with the
new version then goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec import DecodeError
from streams import kafka
from streams.errors import TidecastError
from streams.records import Input
from streams.resetting import Place
from streams.runtime.assignment import KafkaLog, committed_offsets, open_task
from streams.runtime.holding import HeldBack
from streams.runtime.keeping import fetch, keep
from streams.runtime.rereading import Rereader
from streams.runtime.tables import Tables
from streams.runtime.task import Batch, Task
from streams.settings import Settings
from streams.store import RedisStore
from streams.topics import check_partitions
from streams.topologies.stage import Stage

_POLLED = 1_000
_WAIT_S = 0.5
_PATIENCE_S = 60.0
_AHEAD_BATCHES = 4
_NEAR = 1_000
"""Once this few offsets are left, the start of a worker rebuilds them at once."""
_PASSES = 20

Progress = Callable[[str, int, int, int], None]
"""Called with the task, the offsets rebuilt, how many there are, and its event time (UTC ms)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task that is ready: `rebuilt` offsets were read, and `behind` were committed meanwhile."""

    name: str
    rebuilt: int
    behind: int


def prepare(stage: Stage, settings: Settings, wall_ms: Callable[[], int], tell: Progress) -> Iterator[Prepared]:
    """Build the rows of every task of a stage, one after the other, up to what its workers have committed.

    What was built before is gone on with. Raises TidecastError: RecoveryError where the log does not reach back,
    TopicsError where topics are missing, CheckpointConflict where a worker of this very version runs.
    """
    store = RedisStore.connect(settings)
    consumer = Consumer(kafka.consumer_config(settings, f"tidecast.{stage.name}"))
    tables = None
    try:
        counts = kafka.partition_counts(consumer)
        tasks = check_partitions(stage, counts, settings.kafka.prefix)
        tables = Tables(settings, stage.tables)
        _take_tables(stage, tables)
        for number in range(1 if stage.single_task else tasks):
            inputs = Place.of(stage, number).inputs(counts, settings.kafka.prefix)
            yield _Preparation(stage, settings, store, consumer, wall_ms, tell).run(number, inputs, tasks)
    except KafkaException as error:
        raise TidecastError(f"{stage.name}: Kafka does not answer: {error.args[0].str()}") from error
    finally:
        if tables is not None:
            tables.close()
        consumer.close()
        store.close()


def _take_tables(stage: Stage, tables: Tables) -> None:
    waited = 0.0
    while not tables.caught_up:
        began = time.monotonic()
        records = tables.poll(timeout_s=_WAIT_S)
        waited = 0.0 if records else waited + time.monotonic() - began
        _give_up_after(waited, ", ".join(stage.tables))
        for record in records:
            try:
                stage.on_table(record)
            except DecodeError:
                continue  # the workers send it to the dead letters


def _give_up_after(waited_s: float, what: str) -> None:
    if waited_s > _PATIENCE_S:
        raise TidecastError(f"{what}: nothing came from Kafka in {_PATIENCE_S:.0f} s; try again")


class _Preparation:
    def __init__(
        self,
        stage: Stage,
        settings: Settings,
        store: RedisStore,
        consumer: Consumer,
        wall_ms: Callable[[], int],
        tell: Progress,
    ) -> None:
        self._stage, self._settings, self._store, self._consumer = stage, settings, store, consumer
        self._wall_ms, self._tell = wall_ms, tell
        self._prefix = settings.kafka.prefix

    def run(self, number: int, inputs: list[Input], tasks: int) -> Prepared:
        rebuilt = 0
        for _ in range(_PASSES):
            task = self._open(number, inputs, tasks)
            behind = task.to_rebuild()
            if behind == 0:
                break
            self._replay(task)
            rebuilt += behind
            after = self._open(number, inputs, tasks)
            behind = after.to_rebuild()
            # Not what is behind: a learner reads from its floor again, however often it has.
            if _committed_between(task, after) <= _NEAR:
                break
        return Prepared(task.name, rebuilt, behind)

    def _open(self, number: int, inputs: list[Input], tasks: int) -> Task:
        committed = committed_offsets(self._consumer, self._prefix, inputs)
        log = KafkaLog(self._consumer, self._settings)
        try:
            return open_task(self._stage, number, inputs, tasks, self._settings, self._store, committed, log)
        finally:
            log.close()

    def _replay(self, task: Task) -> None:
        """Read the log up to what is committed, and write a checkpoint whenever many rows have changed."""
        runtime = self._settings.runtime
        kept = time.monotonic()
        reader = _Reader(task, self._settings)
        rereader = Rereader(self._settings)
        total = task.to_rebuild()
        try:
            while task.recovering:
                reader.poll()
                while task.recovering and (batch := task.take(runtime.batch_max_events)) is not None:
                    self._step(task, batch, rereader)
                    # Few rows may change for long, while the ids of all events are remembered until they are written.
                    late = (time.monotonic() - kept) * 1_000 >= runtime.checkpoint_interval_ms
                    if late or task.dirty() >= runtime.checkpoint_max_rows:
                        kept = time.monotonic()
                        keep(self._store, task, runtime.cache_max_rows)
                self._tell(task.name, total - task.to_rebuild(), total, task.clock or task.watermark or 0)
            keep(self._store, task, runtime.cache_max_rows)
        finally:
            reader.close()
            rereader.close()

    def _step(self, task: Task, batch: Batch, rereader: Rereader) -> None:
        fetch(self._store, task, batch)
        now_ms = self._wall_ms()
        task.step(batch, now_ms)
        while (wanted := task.wants()) is not None:
            task.recall(rereader.read(*wanted), batch, now_ms)


def _committed_between(before: Task, after: Task) -> int:
    then, now = before.committed_bounds(), after.committed_bounds()
    return sum(now[input_] - then[input_] for input_ in now)


class _Reader:
    """Feeds a task its inputs, without a group; what is far ahead of the others waits in Kafka."""

    def __init__(self, task: Task, settings: Settings) -> None:
        self._task = task
        self._prefix = settings.kafka.prefix
        self._limit = settings.runtime.batch_max_events * _AHEAD_BATCHES
        self._consumer = Consumer(kafka.table_config(settings))
        self._rest = kafka.EndRest(self._consumer, settings)
        self._held = HeldBack(self._consumer, self._prefix)
        self._waited = 0.0
        starts = task.offsets().items()
        self._consumer.assign([TopicPartition(self._prefix + i.topic, i.partition, offset) for i, offset in starts])

    def poll(self) -> None:
        """Feed what is there. Raises TidecastError where nothing comes for long, KafkaException."""
        self._rest.wake(self._held.places)
        began = time.monotonic()
        messages = kafka.take(self._consumer, _POLLED, 0.0 if self._task.can_take() else _WAIT_S)
        # What steps take between two polls is no silence of Kafka's.
        self._waited += time.monotonic() - began
        for run in kafka.runs_of(messages, self._prefix):
            if isinstance(run, list):
                self._waited = 0.0
                self._task.feed(run)
            elif run.error().code() == KafkaError._PARTITION_EOF:
                self._rest.at_end(run)
            else:
                raise KafkaException(run.error())
        _give_up_after(self._waited, self._task.name)
        self._held.look((input_, self._task.fullness(input_, self._limit)) for input_ in self._task.inputs)

    def close(self) -> None:
        self._consumer.close()
