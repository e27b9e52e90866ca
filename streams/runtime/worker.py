"""The loop that carries a stage over Kafka: poll, order, fetch, step, commit, then (lagging) checkpoint.

Kafka first: a crash between commit and checkpoint replays silently and never loses. All tasks of a worker share one
transaction per round. Whatever goes wrong inside a round, the tasks' memory is dropped and recovery starts.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.codec import DecodeError
from streams import kafka
from streams.errors import CheckpointConflict, Fenced, RecoveryError, StoreUnavailable, TidecastError
from streams.records import MARKER_HEADER, Input, Output, Record
from streams.runtime import hooks
from streams.runtime.assignment import KafkaLog, committed_offsets, open_task
from streams.runtime.checkpoint import Store
from streams.runtime.pace import Pace
from streams.runtime.refusals import tallies_of, total
from streams.runtime.tables import Tables
from streams.runtime.task import Batch, Task, dead_letter
from streams.settings import Settings
from streams.telemetry import Telemetry
from streams.topics import check_partitions
from streams.topologies.stage import Rejected, Stage

_LOG = logging.getLogger("tidecast.worker")
_FETCH_AHEAD_BATCHES = 8
_SWEEP_ROWS = 500
_BY_KEY = -1
_RETRY_S = 0.2
# An input at its end is given this long for what comes together with what waits.
_NEAR_S = 0.02
_NOTHING_HELD_S = 0.05
_SOMETHING_HELD_S = 0.01


class _Dropped(Exception):
    """The tasks in hand are no longer ours, or their memory cannot be trusted: begin the next round afresh."""


class Worker:
    """One worker of a stage. `run` returns after `stop` was called; errors that end it are TidecastErrors."""

    def __init__(
        self, stage: Stage, settings: Settings, store: Store, telemetry: Telemetry, wall_ms: Callable[[], int]
    ) -> None:
        self._stage = stage
        self._settings = settings
        self._store = store
        self._telemetry = telemetry
        self._wall_ms = wall_ms
        self._prefix = settings.kafka.prefix
        identity = f"{self._prefix}tidecast.{stage.name}.{settings.runtime.worker_id}"
        group = f"tidecast.{stage.name}"
        self._consumer = Consumer(kafka.consumer_config(settings, group, instance_id=identity))
        self._rest = kafka.EndRest(self._consumer, settings)
        self._producer = Producer(kafka.producer_config(settings, transactional_id=identity))
        self._tasks: dict[int, Task] = {}
        self._partitions = 0
        self._rank_of: dict[Input, Task] = {}
        self._unclaimed: set[int] = set()
        self._claimed: set[int] = set()
        self._member = False
        self._in_round = False
        self._assigned_at = 0.0
        self._at_end: dict[Input, float] = {}
        self._last_real: dict[Input, float] = {}
        self._marked: dict[Input, int] = {}
        self._waited_for: dict[Input, float] = {}
        self._marks_looked_at = 0.0
        # Behind the door a message carries a whole batch of events.
        most = settings.runtime.batch_max_events
        self._pace = Pace(most, most) if stage.guarded else Pace(max(10, most // 20), 1)
        self._held: set[Input] = set()
        self._generation = 0
        self._checkpointed = 0.0
        self._stopping = False
        self._tables: Tables | None = None
        self._unreadable: list[tuple[Record, Rejected]] = []
        self._of_tables: Counter[str] = Counter()
        telemetry.status = self.status

    # -- life -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the loop to finish its round, write a checkpoint, and return. Safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until `stop`. Raises TidecastError: Fenced, RecoveryError, TopicsError, …"""
        try:
            self._open()
            while not self._stopping:
                self._turn()
            self._leave_a_checkpoint()
        except KafkaException as error:
            kafka.raise_typed(error)
            raise TidecastError(f"Kafka: {error.args[0].str()} ({error.args[0].name()})") from error
        finally:
            self._drop()
            self._consumer.close()
            if self._tables is not None:
                self._tables.close()

    def status(self) -> dict[str, Any]:
        """Return what the control worker and `tidecast status` show."""
        return {
            "stage": self._stage.name,
            "worker": self._settings.runtime.worker_id,
            "ready": self._telemetry.reason is None,
            "reason": self._telemetry.reason,
            "serves": dict(self._stage.serves()),
            "tasks": {
                task.name: {
                    "offsets": {str(input_): offset for input_, offset in task.offsets().items()},
                    "watermark": task.watermark,
                    "epoch": task.epoch,
                    "recovering": task.recovering,
                    "counts": self._counts(task),
                }
                for task in list(self._tasks.values())
            },
        }

    def _open(self) -> None:
        self._telemetry.set_ready("waiting for Kafka")
        self._partitions = self._check_topics()
        self._tables = Tables(self._settings, self._stage.tables)
        self._telemetry.set_ready("waiting for the predecessor's transaction")
        # Settles what a predecessor under this id left open; committed offsets are safe to read only after it.
        self._producer.init_transactions(60)
        self._telemetry.set_ready("waiting for an assignment")
        topics = [self._stage.tables[-1]] if self._stage.single_task else list(self._stage.inputs)
        self._consumer.subscribe(
            [self._prefix + topic for topic in topics],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def _check_topics(self) -> int:
        counts = kafka.partition_counts(self._consumer)
        return check_partitions(self._stage, counts, self._prefix)

    def _leave_a_checkpoint(self) -> None:
        try:
            self._checkpoint_all()
        except (StoreUnavailable, CheckpointConflict) as error:
            _LOG.warning("no checkpoint on leaving (%s): the next start replays a little more", error)

    # -- one turn ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        try:
            self._claim()
            self._poll()
            if self._overdue():
                # No more may be taken on than a store that is full, or only read from, lets go of.
                self._checkpoint_all()
            self._read_tables()
            batches = self._take()
            if batches:
                self._round(batches)
            if not batches or self._marks_due():
                self._mark_time()
            if self._due():
                self._checkpoint_all()
            self._say_readiness()
        except _Dropped:
            pass
        except CheckpointConflict as error:
            _LOG.warning("%s; dropping memory and recovering", error)
            self._recover()
        except StoreUnavailable as error:
            self._wait_for_store(error)

    def _poll(self) -> None:
        self._rest.wake({(self._prefix + input_.topic, input_.partition) for input_ in self._held})
        busy = self._stage.lacks() is None and any(task.can_take() for task in self._tasks.values())
        held = any(task.held_back_by() for task in self._tasks.values())
        wait = 0.0 if busy else self._rest.wait_s(_SOMETHING_HELD_S if held else _NOTHING_HELD_S)
        messages = kafka.take(self._consumer, 1_000, wait)
        now = time.monotonic()
        input_, task = None, None
        for message in messages:
            error = message.error()
            if error is not None:
                self._on_error(message, error, now)
                input_ = None
                continue
            record = kafka.record_of(message, self._prefix)
            if record.input is not input_:
                input_ = record.input
                task = self._rank_of.get(input_)
                for notes in (self._at_end, self._marked, self._waited_for):
                    notes.pop(input_, None)
            if task is None:
                continue
            if not record.headers or not any(name == MARKER_HEADER for name, _ in record.headers):
                self._last_real[input_] = now
            task.feed(record)
        if messages:
            hooks.reach("after_decode")
            self._hold_back()

    def _on_error(self, message: Any, error: KafkaError, now: float) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            input_ = Input(message.topic()[len(self._prefix) :], message.partition())
            self._at_end.setdefault(input_, now)
            if input_ in self._rank_of:
                self._rest.at_end(message)
        # A duplicate static member arrives as _FATAL whose .fatal() is False.
        elif code in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID) or error.fatal():
            raise Fenced(
                f"Kafka refused this worker ({error.str()}): another one runs under worker_id "
                f"{self._settings.runtime.worker_id!r}; give every worker its own"
            )
        elif code == KafkaError._AUTO_OFFSET_RESET or code == KafkaError.OFFSET_OUT_OF_RANGE:
            _LOG.warning("%s; recovering", error.str())
            self._recover()
            raise _Dropped
        else:
            _LOG.warning("Kafka: %s", error.str())

    def _hold_back(self) -> None:
        limit = self._settings.runtime.batch_max_events * _FETCH_AHEAD_BATCHES
        for input_, task in self._rank_of.items():
            partition = [TopicPartition(self._prefix + input_.topic, input_.partition)]
            if input_ not in self._held and task.buffered(input_) > limit:
                self._consumer.pause(partition)
                self._held.add(input_)
            elif input_ in self._held and task.buffered(input_) < limit // 2:
                self._consumer.resume(partition)
                self._held.discard(input_)

    def _read_tables(self) -> None:
        tables = self._tables
        if tables is None:
            return
        while True:
            for record in tables.poll(timeout_s=0.0 if tables.caught_up else 0.2):
                try:
                    if self._stage.on_table(record):
                        hooks.reach("after_model_swap")
                except DecodeError as error:
                    self._unreadable.append((record, Rejected(error.reason, error.detail)))
            if tables.caught_up or self._stopping:
                break
        if self._unreadable and 0 in self._tasks:
            self._bury_unreadable()

    def _bury_unreadable(self) -> None:
        """Send what could not be read of a table to the dead letters: once, by the owner of task 0."""
        topics = {record.input for record, _ in self._unreadable}
        buried = committed_offsets(self._consumer, self._prefix, sorted(topics))
        refused = [
            (record, rejected)
            for record, rejected in self._unreadable
            if record.input not in buried or record.offset >= buried[record.input].offset
        ]
        outputs = [dead_letter(record, rejected) for record, rejected in refused]
        ends = {record.input: record.offset + 1 for record, _ in self._unreadable}
        if outputs:
            self._transact(
                outputs, [TopicPartition(self._prefix + i.topic, i.partition, end) for i, end in ends.items()]
            )
            for record, rejected in refused:
                self._of_tables.update(tallies_of(record.input.topic, rejected.reason))
        self._unreadable.clear()

    def _take(self) -> list[tuple[Task, Batch]]:
        if self._stage.lacks() is not None:
            self._hold_back()
            return []
        batches = []
        for task in self._tasks.values():
            batch = task.take(self._pace.records)
            if batch is not None:
                if batch.silent:
                    hooks.reach("during_recovery")
                batches.append((task, batch))
        if batches:
            self._hold_back()
        return batches

    def _round(self, batches: Sequence[tuple[Task, Batch]]) -> None:
        started = time.perf_counter()
        generation = self._generation
        self._in_round = True
        for task, batch in batches:
            while True:
                try:
                    self._fetch(task, batch)
                    break
                except StoreUnavailable as error:
                    self._wait_for_store(error)
                    if self._generation != generation:
                        raise _Dropped from error
                    if self._stopping:
                        self._drop()
                        raise _Dropped from error
        now_ms, fetched = self._wall_ms(), time.perf_counter()
        outputs: list[Output] = []
        live: list[Task] = []
        for task, batch in batches:
            outputs.extend(task.step(batch, now_ms))
            if not batch.silent:
                live.append(task)
            self._telemetry.count(self._telemetry.records, (entry.record.input.topic for entry in batch.entries))
        # Without the commit: what a slow broker takes for it grows no shorter with the batch.
        self._pace.took(time.perf_counter() - fetched)
        if live:
            self._commit(live, outputs)
        self._in_round = False
        self._telemetry.batch_seconds.observe(time.perf_counter() - started)

    def _fetch(self, task: Task, batch: Batch) -> None:
        keys = task.missing(batch)
        if keys:
            header, rows = self._store.read(task.name, keys)
            if header != task.expected_header:
                raise CheckpointConflict(
                    f"{task.name}: the stored checkpoint is not the one written last"
                    + (" (it is gone)" if header is None else "")
                )
            task.load(dict(zip(keys, rows, strict=True)))
        if batch.silent:
            return
        now_ms = self._wall_ms()
        try:
            self._fetch_foreign(task, batch, now_ms, refresh=True)
        except StoreUnavailable:
            # A view that could not be refreshed may lag; one that was never read may not be guessed.
            self._fetch_foreign(task, batch, now_ms, refresh=False)

    def _fetch_foreign(self, task: Task, batch: Batch, now_ms: int, *, refresh: bool) -> None:
        for other, wanted in task.state.foreign(batch.events, now_ms, refresh=refresh).items():
            _, rows = self._store.read(other, wanted)
            task.state.load_foreign(other, dict(zip(wanted, rows, strict=True)), now_ms)

    # -- transactions -----------------------------------------------------------------------------------------

    def _commit(self, tasks: Sequence[Task], outputs: Sequence[Output]) -> None:
        offsets = [
            TopicPartition(self._prefix + input_.topic, input_.partition, offset, metadata=str(task.epoch))
            for task in tasks
            for input_, offset in task.offsets().items()
        ]
        self._transact(outputs, offsets)
        self._telemetry.count(self._telemetry.outputs, (output.topic for output in outputs))

    def _transact(self, outputs: Sequence[Output], offsets: list[TopicPartition]) -> None:
        producer = self._producer
        try:
            producer.begin_transaction()
            hooks.reach("before_produce")
            for output in outputs:
                self._produce(output)
            hooks.reach("after_produce")
            if offsets:
                producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), 30)
            hooks.reach("before_commit")
            self._commit_transaction()
            hooks.reach("after_commit")
        except KafkaException as error:
            self._telemetry.transactions.labels("aborted").inc()
            kafka.raise_typed(error)
            _LOG.warning("transaction aborted: %s; dropping memory and recovering", error.args[0].str())
            self._abort()
            self._recover()
            raise _Dropped from error
        self._telemetry.transactions.labels("committed").inc()

    def _produce(self, output: Output) -> None:
        partition = output.partition if output.partition is not None else _BY_KEY
        headers = list(output.headers) if output.headers else None
        while True:
            try:
                self._producer.produce(
                    self._prefix + output.topic, output.value, output.key, partition, headers=headers
                )
                return
            except BufferError:
                self._producer.poll(0.05)

    def _commit_transaction(self) -> None:
        while True:
            try:
                self._producer.commit_transaction(30)
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                _LOG.info("commit is tried again: %s", error.args[0].str())

    def _abort(self) -> None:
        while True:
            try:
                self._producer.abort_transaction(30)
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    kafka.raise_typed(error)
                    raise TidecastError(f"Kafka: abort failed: {error.args[0].str()}") from error

    # -- idle inputs ------------------------------------------------------------------------------------------

    def _marks_due(self) -> bool:
        """Say whether even a busy worker must look after its quiet tasks: four times in the time an input may idle."""
        return (time.monotonic() - self._marks_looked_at) * 4_000 >= self._settings.time.idle_ms

    def _mark_time(self) -> None:
        """Write time markers into empty inputs that hold others back, or whose task lags behind its neighbours."""
        idle_s = self._settings.time.idle_ms / 1_000
        now = self._marks_looked_at = time.monotonic()
        latest = max((t for t in (task.latest() for task in self._tasks.values()) if t is not None), default=None)
        if latest is None:
            return
        outputs = []
        for task in self._tasks.values():
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
            # A small step makes nothing late that is in order with what the task has seen. Before a leap the input gets
            # its time: what it is waited for may have been sent together with what waits, and arrive just after it.
            lateness = self._settings.time.allowed_lateness_s * 1_000
            leaps = task.clock is None or target - task.clock > lateness
            for input_ in waited_for:
                since = self._waited_for.setdefault(input_, now)
                quiet = max(self._last_real.get(input_, self._assigned_at), since if leaps else 0.0)
                # Nor does a step make late what follows upon what the input has just brought, with room for disorder.
                seen = task.seen_until(input_)
                near = seen is not None and 2 * (target - seen) <= lateness
                needed = min(idle_s, _NEAR_S) if near else idle_s
                # Once for each time: what was written comes back as a record, which clears the note.
                if input_ in self._at_end and now - quiet >= needed and self._marked.get(input_, -1) < target:
                    self._marked[input_] = target
                    value = json.dumps({"time": target, "source": self._settings.runtime.worker_id}).encode()
                    outputs.append(Output(input_.topic, None, value, input_.partition, ((MARKER_HEADER, b"time"),)))
        if outputs and self._stage.ordered:
            self._transact(outputs, [])

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _overdue(self) -> bool:
        most = 2 * self._settings.runtime.checkpoint_max_rows
        return any(task.dirty() >= most for task in self._tasks.values())

    def _due(self) -> bool:
        runtime = self._settings.runtime
        if (time.monotonic() - self._checkpointed) * 1_000 >= runtime.checkpoint_interval_ms:
            return True
        return any(task.dirty() >= runtime.checkpoint_max_rows for task in self._tasks.values())

    def _checkpoint_all(self) -> None:
        self._checkpointed = time.monotonic()
        for task in self._tasks.values():
            if task.recovering or not task.changed():
                continue
            try:
                self._sweep(task)
                checkpoint = task.checkpoint()
                self._store.checkpoint(task.name, checkpoint)
            except StoreUnavailable as error:
                self._telemetry.checkpoints.labels("unavailable").inc()
                self._tell_unflushed()
                if task.dirty() >= 2 * self._settings.runtime.checkpoint_max_rows or self._stopping:
                    raise
                _LOG.warning("checkpoint of %s is late: %s", task.name, error)
                continue
            task.written(checkpoint)
            self._telemetry.checkpoints.labels("written").inc()
            hooks.reach("after_checkpoint")
            task.trim(self._settings.runtime.cache_max_rows)
        self._tell_unflushed()

    def _sweep(self, task: Task) -> None:
        period = task.expiry_period()
        if period is None or task.watermark is None:
            return
        old, looked_at = self._store.old_keys(task.name, period, task.watermark - self._stage.memory_ms, _SWEEP_ROWS)
        task.expire(period, old, looked_at, complete=looked_at < _SWEEP_ROWS)

    def _tell_unflushed(self) -> None:
        for task in self._tasks.values():
            self._telemetry.dirty.labels(task.name).set(task.dirty())
            if task.watermark is not None:
                self._telemetry.watermark.labels(task.name).set(task.watermark)
            self._telemetry.tell_counts(task.name, self._counts(task))

    def _counts(self, task: Task) -> dict[str, int]:
        """Return a task's tallies; those of task 0 with what was refused of tables."""
        # Copies: the thread of health asks while this one counts.
        counts = dict(task.counts)
        return total([counts, dict(self._of_tables)]) if task.partition == 0 else counts

    def _wait_for_store(self, error: Exception) -> None:
        """Pause until the store answers, staying a member of the group meanwhile."""
        _LOG.warning("%s; pausing until the store is back", error)
        self._telemetry.set_ready(f"paused: {error}")
        self._telemetry.paused.set(1)
        generation = self._generation
        assignment = [TopicPartition(self._prefix + i.topic, i.partition) for i in self._rank_of]
        if assignment:
            self._consumer.pause(assignment)
        ping = getattr(self._store, "ping", lambda: True)
        self._consumer.poll(_RETRY_S)  # also where it answers and only refuses to write
        while not self._stopping and generation == self._generation and not ping():
            self._consumer.poll(_RETRY_S)
        if generation == self._generation and assignment:
            self._consumer.resume(assignment)
            self._held.clear()
        self._telemetry.paused.set(0)
        self._telemetry.set_ready(None)

    # -- assignment -------------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = sorted({partition.partition for partition in partitions})
        self._generation += 1
        self._unclaimed = set(numbers)
        self._member = True
        self._claimed = set()
        self._drop()
        # Nothing is fetched until the next turn has read checkpoints and committed offsets.
        consumer.assign([])
        self._telemetry.set_ready("recovering")

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Called between transactions: what is in memory is committed, unless a batch in hand waits for the store.
        if not self._in_round:
            self._leave_a_checkpoint()
        self._release()
        consumer.unassign()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._release()
        consumer.unassign()

    def _release(self) -> None:
        self._generation += 1
        self._unclaimed = set()
        self._claimed = set()
        self._member = False
        self._drop()
        self._telemetry.keep(())
        self._telemetry.set_ready("waiting for an assignment")

    def _drop(self) -> None:
        self._in_round = False
        self._tasks.clear()
        self._rank_of.clear()
        self._at_end.clear()
        self._last_real.clear()
        self._marked.clear()
        self._waited_for.clear()
        self._held.clear()

    def _recover(self) -> None:
        """Drop the memory of all tasks held; the next turn claims them again from checkpoint and log."""
        self._telemetry.recoveries.inc()
        self._unclaimed |= self._claimed
        self._generation += 1
        self._drop()
        self._telemetry.set_ready("recovering")

    def _claim(self) -> None:
        """Take the assigned tasks: read R and C, start reading at R, and fence the epoch by a first commit."""
        if not self._unclaimed:
            return
        numbers = sorted(self._unclaimed)
        self._claimed = set(numbers)
        self._drop()
        tasks = []
        inputs = {number: self._inputs_of(number) for number in numbers}
        every = [input_ for owned in inputs.values() for input_ in owned]
        committed = committed_offsets(self._consumer, self._prefix, every)
        log = KafkaLog(self._consumer, self._settings)
        for number in numbers:
            try:
                task = open_task(
                    self._stage, number, inputs[number], self._partitions, self._settings, self._store, committed, log
                )
            except (RecoveryError, KafkaException) as error:
                self._telemetry.fail(str(error))
                raise
            tasks.append(task)
        log.close()
        fences = [
            TopicPartition(self._prefix + i.topic, i.partition, bound, metadata=str(task.epoch))
            for task in tasks
            for i, bound in task.committed_bounds().items()
        ]
        try:
            self._transact([], fences)
        except _Dropped:
            # The group may have given this member up; it hears of that, and joins again, only in a poll.
            self._poll()
            raise
        self._unclaimed = set()
        self._assigned_at = time.monotonic()
        self._telemetry.keep([task.name for task in tasks])
        for task in tasks:
            self._tasks[task.partition] = task
            for input_ in task.inputs:
                self._rank_of[input_] = task
        starts = [
            TopicPartition(self._prefix + i.topic, i.partition, offset)
            for task in tasks
            for i, offset in task.offsets().items()
        ]
        self._consumer.assign(starts)
        # A partition that was paused stays so through a new assignment, and would hold the others back for ever.
        self._consumer.resume(starts)

    def _inputs_of(self, number: int) -> list[Input]:
        if self._stage.single_task:
            return [Input(topic, p) for topic in self._stage.inputs for p in range(self._partitions)]
        return [Input(topic, number) for topic in self._stage.inputs]

    def _say_readiness(self) -> None:
        if not self._member or self._unclaimed:
            return
        recovering = [task.name for task in self._tasks.values() if task.recovering]
        rebuilding = f"rebuilding {', '.join(recovering)}" if recovering else None
        self._telemetry.set_ready(rebuilding or self._stage.lacks())
