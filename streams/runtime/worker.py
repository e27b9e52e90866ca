"""The loop that carries a stage over Kafka: poll, order, fetch, step, commit, then (lagging) checkpoint.

Kafka first: a crash between commit and checkpoint replays silently and never loses. All tasks of a worker share one
transaction per round, and the next round begins while it is under way: its own waits for that. Checkpoints are written
beside it, too, each after the transaction of what is in it. Whatever goes wrong inside a round, the tasks' memory is
dropped and recovery starts.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec import DecodeError
from streams import kafka
from streams.errors import CheckpointConflict, Fenced, RecoveryError, StoreUnavailable, TidecastError
from streams.records import Input, Record, Said
from streams.runtime import hooks
from streams.runtime.assignment import KafkaLog, committed_offsets, open_task
from streams.runtime.checkpoint import Store
from streams.runtime.gathered import Gathered
from streams.runtime.holding import HeldBack
from streams.runtime.keeping import Keeper, fetch
from streams.runtime.marking import IdleInputs, MarkerSender
from streams.runtime.neighbours import Neighbours
from streams.runtime.pace import Pace
from streams.runtime.refusals import tallies_of, total
from streams.runtime.rereading import Rereader
from streams.runtime.tables import Tables
from streams.runtime.task import Batch, Task, dead_letter
from streams.runtime.transactions import Aborted, Transactions
from streams.settings import Settings
from streams.telemetry import Telemetry
from streams.topics import check_partitions
from streams.topologies.stage import Rejected, Stage

_LOG = logging.getLogger("tidecast.worker")
_FETCH_AHEAD_BATCHES = 4
_POLLED = 1_000
_WHILE_COMMITTING_S = 0.002
_WORTH_A_STEP = 50
_RETRY_S = 0.2
# When asked to stop, a step is given this long to end.
_FINISH_S = 3.0
_ALIVE_S = 30.0
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
        identity = f"tidecast.{stage.name}.{settings.runtime.worker_id}"
        group = f"tidecast.{stage.name}"
        self._consumer = Consumer(kafka.consumer_config(settings, group, instance_id=self._prefix + identity))
        self._rest = kafka.EndRest(self._consumer, settings)
        self._rereader = Rereader(settings)
        self._transactions = Transactions(settings, identity, self._consumer)
        self._keeper = Keeper(store, settings.runtime.cache_max_rows)
        self._tasks: dict[int, Task] = {}
        self._partitions = 0
        self._rank_of: dict[Input, Task] = {}
        self._unclaimed: set[int] = set()
        self._claimed: set[int] = set()
        self._member = False
        self._in_round = False
        """Whether a task has taken what it has not stepped."""
        self._gathered = Gathered(self._prefix)
        self._idle = IdleInputs(settings.time, time.monotonic)
        self._markers = MarkerSender(settings, self._idle.unmarked)
        self._neighbours = Neighbours(stage, settings, time.monotonic)
        # Behind the door a message carries a whole batch of events.
        most = settings.runtime.batch_max_events
        self._pace = Pace(most, most) if stage.guarded else Pace(max(10, most // 80), 1)
        self._polled = max(_POLLED, most) if stage.guarded else _POLLED
        self._held = HeldBack(self._consumer, self._prefix)
        self._generation = 0
        self._checkpointed = 0.0
        self._stopping = False
        self._tables: Tables | None = None
        self._unreadable: list[tuple[Record, Rejected]] = []
        self._of_tables: Counter[str] = Counter()
        telemetry.status = self.status

    # -- life -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Begin to end what a predecessor of this id left open: Kafka may take half a second, so call this early."""
        self._transactions.settle()

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
            self._keeper.close()
            self._transactions.close()
            self._consumer.close()
            self._rereader.close()
            self._neighbours.close()
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
        self._tell("waiting for Kafka")
        self._partitions = self._check_topics()
        self._tables = Tables(self._settings, self._stage.tables)
        self._tell("waiting for the predecessor's transaction")
        # Committed offsets are safe to read only after it.
        self._transactions.settled()
        self._tell("waiting for an assignment")
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
        except _Dropped:
            pass  # nothing is in memory that a checkpoint could hold

    # -- one turn ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        try:
            self._claim()
            self._poll(self._patience_s())
            if self._transactions.ended():
                self._finish()
            if self._keeper.ended():
                self._kept()
            if self._overdue():
                # No more may be taken on than a store that is full, or only read from, lets go of.
                self._checkpoint_all()
            self._read_tables()
            batches = self._take(self._pace.records)
            if batches:
                self._round(batches)
                # A step may let go of what it waited for.
                self._hold_back()
            if self._stage.ordered and (not batches or self._idle.due()):
                self._mark_time()
            if self._due():
                self._begin_checkpoint()
            self._say_readiness()
        except _Dropped:
            pass
        except CheckpointConflict as error:
            _LOG.warning("%s; dropping memory and recovering", error)
            self._recover()
        except StoreUnavailable as error:
            self._wait_for_store(error)

    def _poll(self, patience_s: float) -> None:
        self._markers.poll()
        self._rest.wake(self._held.places)
        messages = kafka.take(self._consumer, self._polled, self._rest.wait_s(patience_s))
        for run in kafka.runs_of(messages, self._prefix):
            if isinstance(run, list):
                self._feed(run)
            else:
                self._on_error(run, run.error())
        if messages:
            hooks.reach("after_decode")
            self._hold_back()

    def _feed(self, run: Sequence[Record]) -> None:
        """Give records of one input, which came one behind the other, to its task."""
        input_ = run[0].input
        task = self._rank_of.get(input_)
        if task is not None:
            self._idle.heard(input_, task.feed(run))

    def _patience_s(self) -> float:
        """Return how long to wait for messages: not at all while there is something to do."""
        tasks = self._tasks.values()
        if self._stage.lacks() is None and any(task.can_take() for task in tasks):
            return 0.0
        return _SOMETHING_HELD_S if any(task.held_back_by() for task in tasks) else _NOTHING_HELD_S

    def _on_error(self, message: Any, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            input_ = Input(message.topic()[len(self._prefix) :], message.partition())
            self._idle.at_end(input_)
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
        self._held.look((input_, task.fullness(input_, limit)) for input_, task in self._rank_of.items())

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
            self._finish()
            for record, rejected in refused:
                self._of_tables.update(tallies_of(record.input.topic, rejected.reason))
        self._unreadable.clear()

    def _take(self, limit: int) -> list[tuple[Task, Batch]]:
        if self._stage.lacks() is not None:
            self._hold_back()
            return []
        batches = []
        for task in self._tasks.values():
            batch = task.take(limit)
            if batch is not None:
                if batch.silent:
                    hooks.reach("during_recovery")
                batches.append((task, batch))
        return batches

    def _round(self, batches: Sequence[tuple[Task, Batch]]) -> None:
        """Step `batches`, and what comes while the last transaction is under way, and begin the next one."""
        started, stepped_s = time.perf_counter(), 0.0
        left = self._pace.records
        while batches:
            self._in_round = True
            self._fetch_all(batches)
            now_ms, fetched = self._wall_ms(), time.perf_counter()
            for task, batch in batches:
                outputs = task.step(batch, now_ms) + self._recall(task, batch, now_ms)
                if not batch.silent:
                    self._gathered.add(task, outputs)
                self._telemetry.count(self._telemetry.records, task.topics(batch))
            self._in_round = False
            # Without the commit: what a slow broker takes for it grows no shorter with the batch.
            stepped_s += time.perf_counter() - fetched
            left -= max(len(batch.entries) for _, batch in batches)
            batches = self._more(left) if self._stage.guarded else []
        self._pace.took(stepped_s)
        self._commit()
        self._telemetry.batch_seconds.observe(time.perf_counter() - started)

    def _more(self, limit: int) -> list[tuple[Task, Batch]]:
        """Return up to `limit` records more for a round, if enough come while the last transaction is under way."""
        generation = self._generation
        while limit > 0 and not self._stopping and self._transactions.under_way():
            self._poll(_WHILE_COMMITTING_S)
            if self._generation != generation:
                raise _Dropped
            held = sum(task.buffered(input_) for input_, task in self._rank_of.items())
            if held >= _WORTH_A_STEP and (batches := self._take(limit)):
                return batches
        return []

    def _fetch_all(self, batches: Sequence[tuple[Task, Batch]]) -> None:
        generation = self._generation
        for task, batch in batches:
            while True:
                try:
                    self._fetch(task, batch)
                    break
                except StoreUnavailable as error:
                    # What was stepped before waits for nobody.
                    self._commit()
                    self._wait_for_store(error)
                    if self._generation != generation:
                        raise _Dropped from error
                    if self._stopping:
                        self._drop()
                        raise _Dropped from error

    def _recall(self, task: Task, batch: Batch, now_ms: int) -> list[Said]:
        """Read the log again for a step that looks back, until it is over."""
        outputs: list[Said] = []
        began = polled = time.monotonic()
        while (wanted := task.wants()) is not None:
            records = self._rereader.read(*wanted)
            if records:
                outputs.extend(task.recall(records, batch, now_ms))
            else:
                _LOG.warning("%s offset %d: no answer from Kafka; asking again", *wanted)
            now = time.monotonic()
            if self._stopping and now - began > _FINISH_S:
                self._drop()
                raise _Dropped
            if now - polled > _ALIVE_S:
                polled = now
                self._stay_a_member()
        return outputs

    def _stay_a_member(self) -> None:
        """Poll in the middle of a round, as the group asks for now and then, and take nothing."""
        generation = self._generation
        with self._taking_nothing():
            self._consumer.poll(0)
        if self._generation != generation:
            raise _Dropped

    @contextmanager
    def _taking_nothing(self) -> Iterator[None]:
        """Let a poll keep the membership and bring no records; what was held back is free again afterwards."""
        generation = self._generation
        assignment = [TopicPartition(self._prefix + i.topic, i.partition) for i in self._rank_of]
        if assignment:
            self._consumer.pause(assignment)
        yield
        if generation == self._generation and assignment:
            self._consumer.resume(assignment)
            self._held.clear()

    def _fetch(self, task: Task, batch: Batch) -> None:
        fetch(self._store, task, batch)
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
            task.load_foreign(other, dict(zip(wanted, rows, strict=True)), now_ms)

    # -- transactions -----------------------------------------------------------------------------------------

    def _commit(self) -> None:
        outputs, offsets = self._gathered.take()
        if offsets:
            self._transact(outputs, offsets)

    def _transact(self, outputs: Sequence[Said], offsets: list[TopicPartition]) -> None:
        """Begin a transaction, after the one before: with its end, what was stepped meanwhile may be worth nothing."""
        self._finish()
        self._transactions.begin(outputs, offsets)

    def _finish(self) -> None:
        """Wait for the transaction under way, if there is one: from then on all that is in memory is committed."""
        try:
            written = self._transactions.finish()
        except Aborted as error:
            self._telemetry.transactions.labels("aborted").inc()
            _LOG.warning("transaction aborted: %s; dropping memory and recovering", error)
            self._recover()
            raise _Dropped from error
        if written is not None:
            self._telemetry.transactions.labels("committed").inc()
            self._telemetry.count(self._telemetry.outputs, written)
        self._keeper.begin()

    # -- idle inputs ------------------------------------------------------------------------------------------

    def _mark_time(self) -> None:
        elsewhere = self._neighbours.latest(self._owned_elsewhere())
        for input_, time_ms in self._idle.marks(list(self._tasks.values()), elsewhere):
            self._markers.send(input_, time_ms)

    def _owned_elsewhere(self) -> list[Input]:
        if self._unclaimed or not self._tasks:
            return []
        return [i for p in range(self._partitions) if p not in self._tasks for i in self._inputs_of(p)]

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _overdue(self) -> bool:
        most = 2 * self._settings.runtime.checkpoint_max_rows
        return any(task.dirty() >= most for task in self._tasks.values())

    def _due(self) -> bool:
        if self._keeper.busy():
            return False
        runtime = self._settings.runtime
        if (time.monotonic() - self._checkpointed) * 1_000 >= runtime.checkpoint_interval_ms:
            return True
        return any(task.dirty() >= runtime.checkpoint_max_rows for task in self._tasks.values())

    def _begin_checkpoint(self) -> None:
        """Take a checkpoint of all tasks; it is written once the transaction under way has ended."""
        self._commit()
        self._checkpointed = time.monotonic()
        self._keeper.take(task for task in self._tasks.values() if task.changed())
        if not self._transactions.under_way():
            self._finish()

    def _kept(self, *, tries_again: bool = False) -> None:
        """Hear what became of the last checkpoint.

        Raises CheckpointConflict, and StoreUnavailable unless it is tried again and so many rows may wait for that.
        """
        most = 2 * self._settings.runtime.checkpoint_max_rows
        unavailable: Exception | None = None
        told = self._keeper.finish()
        for task, error in told:
            if error is None:
                self._telemetry.checkpoints.labels("written").inc()
                hooks.reach("after_checkpoint")
            elif isinstance(error, StoreUnavailable):
                self._telemetry.checkpoints.labels("unavailable").inc()
                if not tries_again and (task.dirty() >= most or self._stopping):
                    unavailable = error
                else:
                    _LOG.warning("checkpoint of %s is late: %s", task.name, error)
        self._tell_unflushed()
        for _, error in told:
            if isinstance(error, CheckpointConflict):
                raise error
        if unavailable is not None:
            raise unavailable

    def _checkpoint_all(self) -> None:
        """Write a checkpoint of all that is in memory, and wait for it."""
        self._commit()
        self._finish()
        self._kept(tries_again=True)
        self._begin_checkpoint()
        self._kept()

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
        ping = getattr(self._store, "ping", lambda: True)
        with self._taking_nothing():
            self._consumer.poll(_RETRY_S)  # also where it answers and only refuses to write
            while not self._stopping and generation == self._generation and not ping():
                self._consumer.poll(_RETRY_S)
                if self._transactions.ended():
                    self._end_quietly()
        self._telemetry.paused.set(0)
        self._say_readiness()

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
        self._tell("recovering")

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # All that was stepped still ends under this generation; a batch in hand that waits for the store is dropped.
        if not self._in_round:
            self._leave_a_checkpoint()
        self._end_quietly()
        self._release()
        consumer.unassign()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._end_quietly()
        self._release()
        consumer.unassign()

    def _end_quietly(self) -> None:
        with suppress(_Dropped):
            self._finish()

    def _release(self) -> None:
        self._generation += 1
        self._unclaimed = set()
        self._claimed = set()
        self._member = False
        self._drop()
        self._telemetry.keep(())
        self._tell("waiting for an assignment")

    def _drop(self) -> None:
        self._in_round = False
        self._keeper.clear()
        self._gathered.clear()
        self._tasks.clear()
        self._rank_of.clear()
        self._idle.clear()
        self._held.clear()

    def _recover(self) -> None:
        """Drop the memory of all tasks held; the next turn claims them again from checkpoint and log."""
        self._telemetry.recoveries.inc()
        self._unclaimed |= self._claimed
        self._generation += 1
        self._drop()
        self._tell("recovering")

    def _claim(self) -> None:
        """Take the assigned tasks: read R and C, start reading at R, and fence the epoch by a first commit."""
        if not self._unclaimed:
            return
        self._store.check()
        self._finish()
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
            _LOG.info("%s: %d records rebuild its state", task.name, task.to_rebuild())
        log.close()
        fences = [
            TopicPartition(self._prefix + i.topic, i.partition, bound, metadata=str(task.epoch))
            for task in tasks
            for i, bound in task.committed_bounds().items()
        ]
        try:
            self._transact([], fences)
            self._finish()
        except _Dropped:
            # The group may have given this member up; it hears of that, and joins again, only in a poll.
            self._poll(self._patience_s())
            raise
        self._unclaimed = set()
        self._idle.begin()
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
        self._tell(rebuilding or self._stage.lacks())

    def _tell(self, reason: str | None) -> None:
        """Say whether it is ready; a start that takes long shows in the log what it takes long for."""
        if reason != self._telemetry.reason:
            _LOG.info("%s", reason or "ready")
        self._telemetry.set_ready(reason)
