"""From an assigned partition to a task in its place: committed offsets, the log's bounds, the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.errors import RecoveryError
from streams.kafka import bounds, table_config
from streams.records import Input
from streams.runtime.checkpoint import Header, Store, decode_header, reading
from streams.runtime.dedup import Dedup
from streams.runtime.recovery import Committed, Log, plan
from streams.runtime.task import Task, store_name
from streams.settings import Settings
from streams.topologies.stage import Stage

_TIMEOUT_S = 30.0


def committed_offsets(consumer: Consumer, prefix: str, inputs: Sequence[Input]) -> dict[Input, Committed]:
    """Return what the group committed; waits for transactions that are still deciding."""
    asked = [TopicPartition(prefix + input_.topic, input_.partition) for input_ in inputs]
    found: dict[Input, Committed] = {}
    for input_, answer in zip(inputs, consumer.committed(asked, timeout=_TIMEOUT_S), strict=True):
        if answer.error is not None:
            raise KafkaException(answer.error)
        if answer.offset >= 0:
            epoch = int(answer.metadata) if answer.metadata and answer.metadata.isdigit() else 0
            found[input_] = Committed(answer.offset, epoch)
    return found


class KafkaLog:
    """The log as recovery asks for it; opens a client of its own only where a record must be read."""

    def __init__(self, consumer: Consumer, settings: Settings) -> None:
        self._consumer = consumer
        self._settings = settings
        self._reader: Consumer | None = None

    def bounds(self, input_: Input) -> tuple[int, int]:
        """First offset held and the next one to be written."""
        return bounds(self._consumer, self._partition(input_), _TIMEOUT_S)

    def appended_at(self, input_: Input, offset: int) -> int | None:
        """Append time (ms) of the record before `offset`."""
        if offset <= self.bounds(input_)[0]:
            return None
        if self._reader is None:
            self._reader = Consumer(table_config(self._settings))
        self._reader.assign([self._partition(input_, offset - 1)])
        while True:
            message = self._reader.poll(_TIMEOUT_S)
            if message is None:
                raise RecoveryError(f"{input_}: offset {offset - 1} could not be read within {_TIMEOUT_S:.0f} s")
            error = message.error()
            if error is None:
                return int(message.timestamp()[1])
            if error.code() == KafkaError._PARTITION_EOF:
                return None

    def first_after(self, input_: Input, appended_at: int) -> int:
        """First offset appended at or after a time (ms)."""
        [found] = self._consumer.offsets_for_times([self._partition(input_, max(0, appended_at))], timeout=_TIMEOUT_S)
        return found.offset if found.offset >= 0 else self.bounds(input_)[1]

    def close(self) -> None:
        """Close the client, if one was needed."""
        if self._reader is not None:
            self._reader.close()

    def _partition(self, input_: Input, offset: int = -1001) -> TopicPartition:
        return TopicPartition(self._settings.kafka.prefix + input_.topic, input_.partition, offset)


def open_task(
    stage: Stage,
    partition: int,
    inputs: Sequence[Input],
    tasks: int,
    settings: Settings,
    store: Store,
    committed: Mapping[Input, Committed],
    log: Log,
) -> Task:
    """Return the task, restored from its checkpoint and set to where it starts.

    Raises RecoveryError (see `plan`) and StoreUnavailable.
    """
    name = store_name(stage, partition)
    task = Task(stage, partition, inputs, tasks, settings.time)
    raw, header, rows = _read_checkpoint(name, store, task.state.initial_keys())
    owned = {input_: committed[input_] for input_ in inputs if input_ in committed}
    memory_ms = stage.memory_ms + settings.time.allowed_lateness_s * 1_000
    with reading(name):
        whole = header is None or raw is None or task.restore(raw, header, rows)
    if not whole:
        raise RecoveryError(f"{name}: rows of the checkpoint are missing or cut; run 'tidecast state reset {name}'")
    where = plan(name, inputs, header, owned, log, memory_ms)
    task.start(where.positions, where.bounds, where.epoch)
    return task


def _read_checkpoint(
    name: str, store: Store, initial: Sequence[str]
) -> tuple[bytes | None, Header | None, dict[str, bytes | None]]:
    while True:
        raw, _ = store.read(name, [])
        if raw is None:
            return None, None, {}
        with reading(name):
            header = decode_header(raw)
        keys = [*initial, *Dedup.keys(header.dedup)]
        again, rows = store.read(name, keys)
        if again == raw:
            return raw, header, dict(zip(keys, rows, strict=True))
